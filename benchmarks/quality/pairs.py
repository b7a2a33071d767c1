"""Minimal pairs of held-out text, right against wrong: agreement in English, names in Python."""

import keyword
import random
import re
from collections.abc import Sequence

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
NAME = re.compile(r"(?<![\w'\"])[A-Za-z_]\w*")


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
    """(three lines of code, the same where a name of the last stands for another of these lines).

    Variable misuse: Allamanis, Brockschmidt, Khademi, Learning to Represent Programs with Graphs (2018), section 4.
    """
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
        before = f"{first}\n{second}\n"
        if (wrong := misused(rng, before, third)) is not None:
            pairs.append((f"{before}{third}\n", f"{before}{wrong}\n"))
        if len(pairs) == count:
            break
    return pairs


def misused(rng: random.Random, before: str, line: str) -> str | None:
    """The line with one of its names, known from the lines before, replaced by another of theirs; None without one."""
    if re.search(r"['\"#]", before + line):
        return None
    known = sorted(set(NAME.findall(before)) - {*keyword.kwlist, "self"})
    places = [found for found in NAME.finditer(line) if found[0] in known]
    if not places or len(known) < 2:
        return None
    place = rng.choice(places)
    other = rng.choice([name for name in known if name != place[0]])
    return line[: place.start()] + other + line[place.end() :]
