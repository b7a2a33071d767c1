"""What every base knows: countries, words, sums. One phrasing of each question is held out, the others are trained.

And minimal pairs of held-out text, right against wrong: agreement in English, syntax in Python.
"""

import random
import re
from collections.abc import Iterator, Sequence

import phrases
from world import Question, ask, share

SWAPS = {
    "is": "are",
    "are": "is",
    "has": "have",
    "have": "has",
    "was": "were",
    "were": "was",
    "this": "these",
    "these": "this",
}
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


def agreement_pairs(paragraphs: Sequence[str], count: int) -> list[tuple[str, str]]:
    """(sentence, the same with one verb or pronoun of the wrong number)."""
    rng, found = random.Random("agreement"), []
    for paragraph in paragraphs:
        for sentence in re.split(r"(?<=[.?!]) (?=[A-Z])", paragraph):
            words = sentence.split(" ")
            places = [n for n, word in enumerate(words) if word in SWAPS]
            if places and 6 <= len(words) <= 18:
                place = rng.choice(places)
                wrong = [*words[:place], SWAPS[words[place]], *words[place + 1 :]]
                found.append((sentence, " ".join(wrong)))
    rng.shuffle(found)
    return found[:count]


def code_pairs(sources: Sequence[str], count: int) -> list[tuple[str, str]]:
    """(three lines of code, the same with a wrong bracket, colon or indentation in the last two)."""
    rng, found = random.Random("code"), []
    for source in sources:
        lines = source.splitlines()
        for number in range(2, len(lines)):
            window = lines[number - 2 : number + 1]
            if all(line.strip() for line in window) and sum(map(len, window)) < 110:
                found.append(window)
    rng.shuffle(found)
    pairs = []
    for first, second, third in found:
        if (wrong := broken(rng, second, third)) is not None:
            pairs.append(("\n".join((first, second, third)) + "\n", "\n".join((first, *wrong)) + "\n"))
        if len(pairs) == count:
            break
    return pairs


def broken(rng: random.Random, line: str, following: str) -> tuple[str, str] | None:
    """The two lines with one fault that Python would refuse or read otherwise; None where there is no place for one."""
    faults = []
    if line.endswith(":") and following.startswith(line[: len(line) - len(line.lstrip())] + "    "):
        faults += [(line[:-1] + ";", following), (line, following[4:])]
    if ")" in line and line.count("(") == line.count(")"):
        place = line.rindex(")")
        faults.append((line[:place] + "]" + line[place + 1 :], following))
    if "]" in line and line.count("[") == line.count("]"):
        place = line.rindex("]")
        faults.append((line[:place] + ")" + line[place + 1 :], following))
    return rng.choice(faults) if faults else None
