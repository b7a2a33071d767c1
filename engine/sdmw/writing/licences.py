"""The licences of a merge's inputs, as their cards name them: whether they agree, and what to say where they do not."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdmw.errors import quoted
from sdmw.writing.front_matter import read_front_matter

OTHER = "other"  # the Hub's word for a licence that it has no word for
MOST_NAMES = 3  # of models that are named beside one licence


@dataclass(frozen=True, slots=True)
class Licence:
    """What a card says.

    Attributes:
        word: the Hub's, or `other`.
        name: what `other` is called; None where the card does not say.
        link: where its text is; None where the card does not say.
        more: the other words of a card that lists several.
    """

    word: str
    name: str | None = None
    link: str | None = None
    more: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(self._called(word) for word in self.words)

    @property
    def words(self) -> tuple[str, ...]:
        """All words of the card, as written."""
        return (self.word, *self.more)

    @property
    def key(self) -> frozenset[str]:
        """What is equal of two licences that are one: a list is compared as a whole, in any order and case."""
        return frozenset(self._called(word).lower() for word in self.words)

    @property
    def is_named(self) -> bool:
        """Whether the card says which licence it is: `other` alone does not."""
        return OTHER not in self.key

    def _called(self, word: str) -> str:
        if word.lower() != OTHER:
            return word
        return self.name or (f"{word} ({self.link})" if self.link else word)


Licences = Sequence[tuple[str, Licence | None]]  # each input's name, and what its card says, if it does


def licence_of(front_matter: Mapping[str, tuple[str, ...]]) -> Licence | None:
    """The licence that a card names, or all that it lists."""
    word, *more = front_matter.get("license", ("",))
    if not word:
        return None
    other = OTHER in (each.lower() for each in (word, *more))
    name, link = (front_matter.get(key, (None,))[0] if other else None for key in ("license_name", "license_link"))
    return Licence(word, name, link, tuple(more))


def read_licences(folders: Mapping[str, tuple[str, bool]]) -> list[tuple[str, Licence | None]]:
    """What the cards of inputs say: by name, of the folder of each, and whether links that leave it are followed."""
    return [
        (name, licence_of(read_front_matter(folder, follow_links=follow_links)))
        for name, (folder, follow_links) in folders.items()
    ]


def agreed(licences: Licences) -> Licence | None:
    """The licence of all inputs; None where one is unknown or another."""
    found = [licence for _, licence in licences]
    known = len({licence.key for licence in found if licence}) == 1 and all(found)
    return found[0] if known and not _unnamed(licences) else None  # two called `other` and no more need not be one


def common(licences: Licences) -> Licence | None:
    """What the card of the merge says: the licence of all inputs, `other` where two differ or may, else none."""
    several = len({licence.key for _, licence in licences if licence}) > 1
    return Licence(OTHER) if several or _unnamed(licences) else agreed(licences)


def _unnamed(licences: Licences) -> bool:
    """Whether all cards of several inputs say `other`, and not which."""
    return len(licences) > 1 and all(licence and not licence.is_named for _, licence in licences)


def warning(licences: Licences, copied: Sequence[str]) -> str | None:
    """What to say before the merge where licences differ or may; None where they do not.

    Args:
        licences: of the inputs, the base's first.
        copied: names of the base's files that come along.
    """
    named: dict[frozenset[str], tuple[Licence, list[str]]] = {}
    for name, licence in licences:
        if licence:
            named.setdefault(licence.key, (licence, []))[1].append(name)
    if _unnamed(licences):
        names = _listed([name for name, _ in licences])
        return f"the cards of {names} say `other` without naming the licence: they may differ. The card lists them."
    texts = [name for name in copied if os.path.basename(name).lower().startswith(("licen", "notice"))]
    said = "; ".join(f"{quoted(str(licence))} of {_listed(names)}" for licence, names in named.values())
    base = licences[0][0] if licences else ""
    if len(named) == 1 and texts and licences[0][1] is None:
        has = f"{quoted(base)} names no licence in a card, but its {', '.join(map(quoted, texts))} is copied"
        return f"the inputs may have different licences: {said}; {has}. The card lists them."
    if len(named) < 2:
        return None
    own = f" {', '.join(map(quoted, texts))}, copied into the output, comes from {quoted(base)} only." if texts else ""
    return f"the inputs have different licences: {said}. The card says `other` and lists them.{own}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(quoted, names[:MOST_NAMES])) + more
