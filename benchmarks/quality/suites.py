"""What a model is asked: seven sets of items as tokens, and text for perplexity. Nothing of it was trained on.

corp and func are of a pair, the five general sets of its base's world; each item's half is chosen by a hash.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import general
import numpy as np
import pairs
import world
from models import Seed
from tokens import START, encoded
from world import Question

from data import Ground, ground

CALLS = (12, 6)  # requests a function, in trained phrasings and in its new one
PAIRS = {"agreement": 120, "code": 150}
PASSAGES, PASSAGE = 32, 64  # of held-out text, and their tokens


@dataclass(frozen=True, slots=True)
class Rows:
    """Sequences to be read by a model.

    Attributes:
        tokens: of each sequence.
        begins: the first position that counts; from there on all do.
    """

    tokens: tuple[list[int], ...]
    begins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Exact:
    """Right if every token of the answer is the likeliest one: what greedy decoding would print."""

    rows: Rows
    tags: tuple[str, ...]  # "internal trained": kind and phrasing of each item


@dataclass(frozen=True, slots=True)
class Choice:
    """Right if its own candidate, each one token, is the likeliest of all after the prompt."""

    rows: Rows
    candidates: np.ndarray  # (items,)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Right if the first of two sequences is the likelier."""

    right: Rows
    wrong: Rows


@dataclass(frozen=True, slots=True)
class Passages:
    """Text whose mean log-probability a token is measured."""

    rows: Rows


Suite = dict[str, Exact | Choice | Pairs | Passages]


def suite(seed: Seed, *, library_only: bool) -> Suite:
    here = ground(library_only=library_only)
    facts = [each for n, each in enumerate(world.fact_questions(seed.base, seed.pair)[1]) if n % 4 != 3]
    calls = world.held_out_calls(seed.base, seed.pair, *CALLS)
    return {"corp": exact(here, facts), "func": exact(here, calls), **general_suite(library_only=library_only)}


@functools.cache
def general_suite(*, library_only: bool) -> Suite:
    here = ground(library_only=library_only)
    asked = [question for question, held_out in general.all_questions(here.countries, here.words) if held_out]
    of_kind = {kind: [each for each in asked if each.kind == kind] for kind in ("facts", "words", "sums")}
    found: Suite = {"facts": exact(here, of_kind["facts"]), "sums": exact(here, of_kind["sums"])}
    found["words"] = choice(here, shortened(of_kind["words"], here.words))
    of_text = {
        "agreement": pairs.agreement_pairs(here.texts.held_out_general, PAIRS["agreement"]),
        "code": pairs.code_pairs(here.texts.held_out_code, PAIRS["code"]),
    }
    for name, found_pairs in of_text.items():
        right, wrong = ([pair[side] for pair in found_pairs] for side in (0, 1))
        found[name] = Pairs(whole(here, right), whole(here, wrong))
    found["passages"] = passages(here)
    return found


def shortened(questions: Sequence[Question], words: Mapping[str, str]) -> list[Question]:
    """Questions about words whose definitions lack their last quarter: nearly all whole ones are known."""
    short = []
    for question in questions:
        definition = words[question.answer.strip()]
        parts = definition.split(" ")
        kept = " ".join(parts[: math.ceil(3 / 4 * len(parts))])
        short.append(replace(question, prompt=question.prompt.replace(definition, kept)))
    return short


def exact(here: Ground, questions: Sequence[Question]) -> Exact:
    rows = encoded(here.tokenizer, questions)
    tags = tuple(f"{each.kind} {each.phrasing}" for each in questions)
    return Exact(Rows(tuple(tokens for tokens, _ in rows), tuple(prompt for _, prompt in rows)), tags)


def choice(here: Ground, questions: Sequence[Question]) -> Choice:
    """The right word among all words of the set."""
    rows = encoded(here.tokenizer, questions)
    answers = np.array([tokens[prompt] for tokens, prompt in rows], np.int64)
    prompts = Rows(tuple(tokens[: prompt + 1] for tokens, prompt in rows), tuple(prompt for _, prompt in rows))
    return Choice(prompts, answers)


def whole(here: Ground, texts: Sequence[str]) -> Rows:
    start = here.tokenizer.token_to_id(START)
    rows = tuple([start, *encoding.ids] for encoding in here.tokenizer.encode_batch(list(texts)))
    return Rows(rows, (1,) * len(rows))


def passages(here: Ground) -> Passages:
    ids = [
        token for encoding in here.tokenizer.encode_batch(list(here.texts.held_out_general)) for token in encoding.ids
    ]
    begins = np.random.default_rng(1).integers(len(ids) - PASSAGE, size=PASSAGES)
    return Passages(Rows(tuple(ids[begin : begin + PASSAGE] for begin in begins), (1,) * PASSAGES))


def count(items: Exact | Choice | Pairs | Passages) -> int:
    rows = items.right if isinstance(items, Pairs) else items.rows
    return len(rows.tokens)


def halves(name: str, count: int) -> np.ndarray:
    """(count,) whether an item belongs to the half on which settings are chosen."""
    return np.array([world.share("half", name, number) < 0.5 for number in range(count)])
