"""What tier B's models are asked: the two domains of a seed, and general sets in the chat's format."""

from collections.abc import Sequence
from dataclasses import dataclass

import bfcl
import corpora
import general
import numpy as np
import pairs
import world
from smollm import START, as_chat, encoded
from smollm_facts import fact_questions
from suites import Choice, Exact, Pairs, Passages, Rows, Suite
from tokenizers import Tokenizer
from world import Question

DOMAINS = ("corp", "func")
PASSAGE = 64  # tokens


@dataclass(frozen=True, slots=True)
class Counts:
    """Items of each set, at most."""

    func: int = 75
    corp_new: int = 32
    words: int = 64
    facts: int = 64
    agreement: int = 48
    passages: int = 12


def suite(tokenizer: Tokenizer, seed: int, counts: Counts) -> Suite:
    _, trained, new = fact_questions(seed)
    return {
        "corp": exact(tokenizer, [*trained, *new[: counts.corp_new]]),
        "func": exact(tokenizer, bfcl.tested_calls(seed, counts.func)),
        **general_suite(tokenizer, counts),
    }


def general_suite(tokenizer: Tokenizer, counts: Counts) -> Suite:
    """The same for all seeds: what the base knows, and what its experts may have forgotten."""
    _, held_out = corpora.split(dict(corpora.brown_paragraphs()))
    asked = [as_chat(question) for question, left_out in questions(tokenizer) if left_out]
    found: Suite = {}
    for kind, count in (("words", counts.words), ("facts", counts.facts)):
        found[kind] = choice(tokenizer, spread([each for each in asked if each.kind == kind], count))
    sentences = [each for each in pairs.agreement_pairs(held_out, 4000) if len(each[0]) < 60]
    right, wrong = ([pair[side] for pair in sentences[: counts.agreement]] for side in (0, 1))
    found["agreement"] = Pairs(whole(tokenizer, right), whole(tokenizer, wrong))
    found["passages"] = passages(tokenizer, held_out, counts.passages)
    return found


def questions(tokenizer: Tokenizer) -> list[tuple[Question, bool]]:
    """Tier A's questions about countries and words whose answers are one token."""
    countries = {name: code for name, code in corpora.countries().items() if single(tokenizer, code)}
    words = {word: text for word, text in corpora.definitions() if 20 < len(text) < 70 and single(tokenizer, word)}
    return [each for each in general.all_questions(countries, words) if each[0].kind in ("words", "facts")]


def single(tokenizer: Tokenizer, text: str) -> bool:
    return len(tokenizer.encode(text).ids) == 1


def spread(found: Sequence[Question], count: int) -> list[Question]:
    """So many of them, by a hash, each answer once."""
    by_answer = {each.answer: each for each in found}
    return sorted(by_answer.values(), key=lambda each: world.share("spread", each.prompt))[:count]


def exact(tokenizer: Tokenizer, asked: Sequence[Question]) -> Exact:
    tokens, begins = zip(*encoded(tokenizer, asked), strict=True)
    return Exact(Rows(tokens, begins), tuple(each.phrasing for each in asked))


def choice(tokenizer: Tokenizer, asked: Sequence[Question]) -> Choice:
    """The right answer, of one token, among all answers of the set."""
    rows = encoded(tokenizer, asked)
    answers = np.array([ids[prompt] for ids, prompt in rows], np.int64)
    return Choice(Rows(tuple(ids[: prompt + 1] for ids, prompt in rows), tuple(prompt for _, prompt in rows)), answers)


def whole(tokenizer: Tokenizer, texts: Sequence[str]) -> Rows:
    start = tokenizer.token_to_id(START)
    rows = tuple([start, *encoding.ids] for encoding in tokenizer.encode_batch(list(texts)))
    return Rows(rows, (1,) * len(rows))


def passages(tokenizer: Tokenizer, paragraphs: Sequence[str], count: int) -> Passages:
    ids = [token for encoding in tokenizer.encode_batch(list(paragraphs)) for token in encoding.ids]
    begins = np.random.default_rng(1).integers(len(ids) - PASSAGE, size=count)
    return Passages(Rows(tuple(ids[begin : begin + PASSAGE] for begin in begins), (1,) * count))


def validates(name: str, count: int) -> np.ndarray:
    """(count,) whether an item belongs to the third on which settings are chosen; the others are reported."""
    return np.array([world.share("third", name, number) < 1 / 3 for number in range(count)])
