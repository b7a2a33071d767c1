"""A model as a recipe names it: `path@revision+adapter@revision`, mergekit's spelling."""

import os
from dataclasses import dataclass
from typing import Any

from sdmw.addresses import is_remote

_DEFAULT_BRANCH = "main"  # the Hub's
_MOST_MARKS = 16  # of one kind, in one name, that are tried: each costs a look at the file system


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model, perhaps with an adapter on it.

    Attributes:
        path: a directory, `~` allowed; an address, such as `s3://bucket/folder`; or a Hub id: `org/name` or `name`.
        revision: a branch, tag or commit on the Hub; None for the default branch.
        adapter: the adapter on the model, which has none itself; None for the model alone.
    """

    path: str
    revision: str | None = None
    adapter: "ModelRef | None" = None

    @classmethod
    def parse(cls, text: str) -> "ModelRef":
        """What a name in a recipe means: first cut at a `+`, then each side at an `@`.

        A directory may have both in its own name. So the longest beginning that is a directory is the path, and a name
        that begins with none is cut at its first mark.
        """
        model, adapter = _cut_address(text) if is_remote(text) else _cut(text, "+")
        if is_remote(model):
            return cls(model, None, None if adapter is None else cls.parse_alone(adapter))
        return cls(*_cut(model, "@"), None if adapter is None else cls.parse_alone(adapter))

    @classmethod
    def parse_alone(cls, text: str) -> "ModelRef":
        """What `path@revision` means where no adapter can follow: every `+` belongs to the name."""
        return cls(text) if is_remote(text) else cls(*_cut(text, "@"))

    def __str__(self) -> str:
        """The name in the recipe: of a parsed reference the same text."""
        alone = self.path if self.revision is None else f"{self.path}@{self.revision}"
        return alone if self.adapter is None else f"{alone}+{self.adapter}"

    @property
    def alone(self) -> "ModelRef":
        """The model without its adapter."""
        return ModelRef(self.path, self.revision)

    @property
    def parts(self) -> tuple["ModelRef", ...]:
        """The model alone, then its adapter if there is one."""
        return (self.alone,) if self.adapter is None else (self.alone, self.adapter)

    @property
    def directory(self) -> str | None:
        """The directory that `path` names, `~` expanded; None if there is none, as for a Hub id."""
        return _directory(self.path)

    def identity(self) -> tuple[str, ...]:
        """Equal for two names of one model: links followed, the default branch by its name."""
        directory = self.directory
        default = _DEFAULT_BRANCH if directory is None else ""
        own = (_resolved(directory or self.path), default if self.revision is None else self.revision)
        return own if self.adapter is None else (*own, *self.adapter.identity())

    def plain(self) -> str | dict[str, Any]:
        """As a recipe says it: the name if it is read as this reference, else mergekit's long form."""
        name = str(self)
        if ModelRef.parse(name) == self:
            return name
        model = self.alone._long()
        return {"model": model} if self.adapter is None else {"model": model, "lora": self.adapter._long()}

    def _long(self) -> dict[str, Any]:
        # An adapter on an adapter has no long form either: this is refused there as an unknown field.
        fields = {"path": self.path, "revision": self.revision, "lora": self.adapter and self.adapter._long()}
        return {name: value for name, value in fields.items() if value is not None}


def _cut(text: str, mark: str) -> tuple[str, str | None]:
    """What stands before and after the mark that ends a path; None after it if the text has no such mark."""
    marks = [place for place, character in enumerate(text) if character == mark][:_MOST_MARKS]
    if not marks or _directory(text):
        return text, None
    end = next((place for place in reversed(marks) if _directory(text[:place])), marks[0])
    return text[:end], text[end + 1 :]


def _cut_address(text: str) -> tuple[str, str | None]:
    """An address, and what follows a `+` in it if that is an address or a directory: keys may have a `+` too."""
    for place in [place for place, character in enumerate(text) if character == "+"][:_MOST_MARKS]:
        if is_remote(text[place + 1 :]) or _directory(text[place + 1 :]):
            return text[:place], text[place + 1 :]
    return text, None


def expanded(path: str) -> str:
    """A path with `~` expanded where that is possible."""
    try:
        return os.path.expanduser(path)
    except ValueError:  # a NUL after `~`
        return path


def _resolved(path: str) -> str:
    if is_remote(path):
        return path.rstrip("/")
    try:
        return os.path.realpath(expanded(path))
    except (OSError, ValueError):  # no working directory, or a NUL: the name itself must do
        return path


def _directory(path: str) -> str | None:
    # A name's meaning depends on the directories that exist. No other module asks this, so that all agree.
    place = expanded(path)
    return place if os.path.isdir(place) else None
