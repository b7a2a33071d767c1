"""What the loader finds in a recipe: all problems at once, each at its place, and notes for people."""

import difflib
from collections.abc import Iterable
from typing import Any

from sdmw.errors import LONGEST_NAME, Problem, RecipeError, quoted, shorten

Path = tuple[str | int, ...]  # the keys and indices that lead to a value: ("models", 0, "weight")
Mark = tuple[int, int]  # line and column, from 1

_START: Mark = (1, 1)


class Findings:
    """Gathers problems and notes while a recipe is read, so that all are reported together.

    Attributes:
        file: the recipe file as the user gave it; empty where the recipe is not in a file.
        keys: where in the file the key that ends a path stands.
        values: where in the file the value at a path starts.
        notes: what there is to say, for people.
    """

    def __init__(self, file: str = "") -> None:
        self.file = file
        self.keys: dict[Path, Mark] = {}
        self.values: dict[Path, Mark] = {}
        self.notes: list[str] = []
        self._problems: dict[Path, tuple[Mark, Problem]] = {}

    def add(self, path: Path, found: str, *, expected: str = "", mend: str = "", key: bool = False) -> None:
        """Keep a problem; the first at a path counts, what follows from it is not said.

        Args:
            path: what is wrong.
            found: what is there.
            expected: what should be there.
            mend: what to do about it.
            key: the key itself is wrong, not its value.
        """
        problem = Problem(self.place(path, key=key), expected, found, mend)
        self._problems.setdefault(path, (self._mark(path, key), problem))

    def place(self, path: Path, *, key: bool = False) -> str:
        """Where a value, or its key, stands: `recipe.yaml:6:5: models.0.weight`."""
        return ": ".join(part for part in (self._spot(self._mark(path, key)), dotted(path)) if part) or "recipe"

    def note(self, text: str) -> None:
        """Keep something to say, once."""
        if text not in self.notes:
            self.notes.append(text)

    def name(self, path: Path) -> str:
        """A key for use in a note: `models.0.wieght at recipe.yaml:6:5`."""
        spot = self._spot(self._mark(path, key=True))
        return f"{dotted(path)} at {spot}" if spot else dotted(path)

    def check(self) -> None:
        """Raise all problems, in the order of the file.

        Raises:
            RecipeError: there is at least one.
        """
        if not self._problems:
            return
        found = [problem for _, problem in sorted(self._problems.values(), key=lambda marked: marked[0])]
        raise RecipeError(shorten(found, self.file or "recipe"))

    def _mark(self, path: Path, key: bool) -> Mark:
        # What is missing has no place: the nearest thing around it has.
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, _START)

    def _spot(self, mark: Mark) -> str:
        return f"{self.file}:{mark[0]}:{mark[1]}" if self.file else ""


def dotted(path: Path) -> str:
    """A path as people write it: `models.0.parameters.k`; anything but a plain name is quoted."""
    return ".".join(
        str(part) if isinstance(part, int) or (part.isidentifier() and len(part) <= LONGEST_NAME) else quoted(part)
        for part in path
    )


def described(value: Any) -> str:
    """A value of a recipe as it may be shown."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    return quoted(value)


def guess(word: str, known: Iterable[str]) -> str:
    """The mend for a word that is not known: the one that was meant, or else all there are."""
    names = list(known)
    return close(word, names) or (f"Known: {', '.join(names)}" if names else "")


def close(word: str, known: Iterable[str]) -> str:
    """`Did you mean k?`, or nothing where no known word is like this one."""
    # A word longer than any name is not one misspelt, and difflib takes its time over long words.
    word = word.lower().replace("-", "_")
    like = difflib.get_close_matches(word, list(known), n=1, cutoff=0.54) if len(word) <= LONGEST_NAME else []
    return f"Did you mean {like[0]}?" if like else ""
