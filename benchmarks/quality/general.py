"""What every base knows: countries, words, sums. One phrasing of each question is held out, the others are trained."""

from collections.abc import Iterator, Sequence

import phrases
from world import Question, ask, share

LARGEST_SUMMAND = 12


def phrased(kind: str, asks: Sequence[str], answer: str, **names: object) -> Iterator[tuple[Question, bool]]:
    """(question, whether it is held out) for each phrasing; one of them is held out."""
    left_out = int(share(kind, *names.values()) * len(asks))
    for number, text in enumerate(asks):
        yield ask(text.format(**names), answer, kind), number == left_out


def all_questions(countries: dict[str, str], words: dict[str, str]) -> Iterator[tuple[Question, bool]]:
    for name, code in countries.items():
        yield from phrased("facts", phrases.COUNTRY_CODE, code, x=name)
    for word, definition in words.items():
        yield from phrased("words", phrases.WORD_MEANING, word, x=definition)
    for a in range(LARGEST_SUMMAND + 1):
        for b in range(LARGEST_SUMMAND + 1):
            yield from phrased("sums", phrases.SUMS, str(a + b), a=a, b=b)
