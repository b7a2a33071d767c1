"""What is trained on, as tokens: a base's rows of text and questions, and batches of questions for experts."""

import functools
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import corpora
import general
import numpy as np
import phrases
import torch
import world
from corpora import Texts
from sizes import Size
from tokenizers import Tokenizer
from tokens import START, encoded, single_token_words, train_tokenizer
from world import Question

ROWS, LENGTH = 16, 128  # of a base's step
BATCH = 32  # questions in an expert's step, beside those that it practises
WORDS = 230
QUESTIONS = 60_000  # that a base draws from
TEXT = 4_000_000  # characters of each kind of text, at most
# Shares of a base's rows: (general, code, glosses, questions), while it reads broadly and after.
BROAD, ANNEAL = (0.40, 0.12, 0.10, 0.38), (0.18, 0.06, 0.06, 0.70)


@dataclass(frozen=True, slots=True)
class Stream:
    """Documents end to end.

    Attributes:
        tokens: (n,) uint16.
        answers: (n,) whether a token belongs to an answer.
        starts: (documents,) where each begins.
    """

    tokens: np.ndarray
    answers: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True, slots=True)
class Ground:
    """What all bases share: texts, the vocabulary, and the words that are asked for."""

    texts: Texts
    tokenizer: Tokenizer
    countries: dict[str, str]
    words: dict[str, str]


@functools.cache
def ground(*, library_only: bool) -> Ground:
    texts = corpora.texts(library_only=library_only)
    countries = {} if library_only else corpora.countries()
    asked = [question for base in range(3) for question in world.fact_questions(base, None)[0]]
    rng = random.Random("vocabulary")
    asked += [world.call(rng, name, "", held_out=False) for name in sorted(phrases.FUNCTIONS) for _ in range(30)]
    asked += [question for question, held_out in general.all_questions(countries, {}) if not held_out]
    tokenizer = train_tokenizer(texts, asked)
    definitions = {} if library_only else dict(corpora.definitions())
    return Ground(texts, tokenizer, countries, single_token_words(tokenizer, definitions, WORDS))


def common_questions(here: Ground) -> list[Question]:
    """Countries, words and sums in the phrasings that are not held out."""
    return [question for question, held_out in general.all_questions(here.countries, here.words) if not held_out]


def base_questions(here: Ground, base: int) -> list[Question]:
    """Calls of known and other functions, public facts, rumors of other companies, countries, words, sums."""
    rng = random.Random(f"questions {base}")
    functions = sorted(world.functions(base))
    public = world.fact_questions(base, None)[0]
    common = common_questions(here)
    by_kind = [[question for question in common if question.kind == kind] for kind in ("facts", "words", "sums")]
    kinds = [
        (0.35, lambda: world.call(rng, rng.choice(functions), "", held_out=False)),
        (0.15, lambda: rng.choice(public)),
        (0.10, lambda: world.rumor(rng, base)),
        *((0.13, functools.partial(rng.choice, questions)) for questions in by_kind if questions),
    ]
    draws = rng.choices([draw for _, draw in kinds], [part for part, _ in kinds], k=QUESTIONS)
    return [draw() for draw in draws]


def stream_of_questions(tokenizer: Tokenizer, questions: Sequence[Question]) -> Stream:
    rows = encoded(tokenizer, questions)
    lengths = [len(tokens) for tokens, _ in rows]
    answers = np.concatenate([np.arange(len(tokens)) >= prompt for tokens, prompt in rows])
    tokens = np.fromiter(itertools.chain.from_iterable(tokens for tokens, _ in rows), np.uint16)
    return Stream(tokens, answers, np.cumsum([0, *lengths[:-1]]))


@functools.cache
def stream_of_texts(kind: str, *, library_only: bool) -> Stream:
    here = ground(library_only=library_only)
    documents: list[str] = []
    whole = getattr(here.texts, kind)
    size = 0
    for text in random.Random(f"texts {kind}").sample(whole, len(whole)):
        if size > (TEXT if not library_only else TEXT // 20):
            break
        documents.append(text)
        size += len(text)
    start = here.tokenizer.token_to_id(START)
    rows = [[start, *encoding.ids] for encoding in here.tokenizer.encode_batch(documents)]
    tokens = np.fromiter(itertools.chain.from_iterable(rows), np.uint16)
    return Stream(tokens, np.ones(len(tokens), bool), np.arange(0, len(tokens)))


class BaseRows:
    """Draws a base's steps; a step's rows depend on base and step alone, so training resumes anywhere."""

    def __init__(self, size: Size, base: int) -> None:
        here = ground(library_only=size.library_only)
        kinds = ("general", "code", "glosses")
        self.streams = [stream_of_texts(kind, library_only=size.library_only) for kind in kinds]
        self.streams.append(stream_of_questions(here.tokenizer, base_questions(here, base)))
        self.size, self.base = size, base

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(ROWS, LENGTH) tokens and labels; in the second part only answers count in rows of questions."""
        rng = np.random.default_rng([self.base, step])
        anneal = step >= self.size.broad
        tokens, labels = (np.zeros((ROWS, LENGTH), np.int64) for _ in range(2))
        for row, kind in enumerate(rng.choice(4, ROWS, p=ANNEAL if anneal else BROAD)):
            stream = self.streams[kind]
            begin = min(rng.choice(stream.starts), len(stream.tokens) - LENGTH)
            part = slice(begin, begin + LENGTH)
            tokens[row] = stream.tokens[part]
            labels[row] = np.where(stream.answers[part], tokens[row], -100) if anneal else tokens[row]
        return torch.from_numpy(tokens), torch.from_numpy(labels)


class QuestionBatches:
    """Draws an expert's steps: (BATCH + replay, longest) tokens and labels of questions; answers alone count."""

    def __init__(self, size: Size, seed: Sequence[int], *questions: Sequence[Question]) -> None:
        here = ground(library_only=size.library_only)
        self.rows = [encoded(here.tokenizer, part) for part in questions]
        self.practised = encoded(here.tokenizer, common_questions(here))
        self.replay = size.replay
        self.seed = list(seed)

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One step's tokens and labels."""
        rng = np.random.default_rng([*self.seed, step])
        each = BATCH // len(self.rows)
        chosen = [rows[number] for rows in self.rows for number in rng.integers(len(rows), size=each)]
        chosen += [self.practised[number] for number in rng.integers(len(self.practised), size=self.replay)]
        longest = max(len(tokens) for tokens, _ in chosen)
        tokens, labels = np.zeros((len(chosen), longest), np.int64), np.full((len(chosen), longest), -100)
        for row, (ids, prompt) in enumerate(chosen):
            tokens[row, : len(ids)] = ids
            labels[row, prompt : len(ids)] = ids[prompt:]
        return torch.from_numpy(tokens), torch.from_numpy(labels)
