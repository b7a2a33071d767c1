"""The front matter of a checkpoint's README.md, as far as a merge's card says the same: licence, task, languages."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from sdmw.errors import CheckpointError
from sdmw.storage.files import read_start

if TYPE_CHECKING:
    from ruamel.yaml.events import Event

KEYS = ("license", "license_name", "license_link", "pipeline_tag", "language", "datasets")

_LARGEST_README = 2**20  # bytes; what lies beyond is not looked at
_LARGEST_ENTRY = 2**14  # characters of a key and its value; a longer one is not looked at
_MOST, _LONGEST = 100, 200  # words in a list, and characters of one
_NOTHING = ("", "~", "null", "Null", "NULL")
_FRONT = re.compile(rb"(?:\xef\xbb\xbf)?\s*---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_KEY = re.compile(r"""(?:\?[ \t]+)?(['"]?)(\w+)\1[ \t]*(?::(?:\s|$)|#|$)""", re.ASCII)


def read_front_matter(directory: str, *, follow_links: bool = False) -> Mapping[str, tuple[str, ...]]:
    """The words under each of `KEYS` in a checkpoint's README.md; a key without any is left out.

    Only these entries are parsed: results of benchmarks often stand beside them, and take a second.

    Args:
        directory: the checkpoint.
        follow_links: links that leave it are followed.
    """
    try:
        front = _FRONT.match(read_start(directory, "README.md", _LARGEST_README, follow_links=follow_links))
        text = front[1].decode() if front else ""
    except (CheckpointError, UnicodeDecodeError):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    in_braces = text.lstrip().startswith("{")
    for at, entry in [("", text)] if in_braces else _entries(text):
        if (at in KEYS or in_braces) and len(entry) <= _LARGEST_ENTRY:
            for key, words in _pairs(entry):
                if key in KEYS and words:
                    found.setdefault(key, words)
    return found


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Each key of the top level with its lines.

    One begins at a line that is not indented, a remark, of a list, or the value of a key after a question mark.
    """
    key, lines = "", list[str]()
    for line in text.splitlines(keepends=True):
        if line[0] not in " \t\r\n#-:":
            yield key, "".join(lines)
            match = _KEY.match(line)
            key, lines = (match[2] if match else ""), []
        lines.append(line)
    yield key, "".join(lines)


def _pairs(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The keys of a mapping, each with the scalar that is its value, or those in its list; nothing of other values.

    Events are enough: nothing is composed, aliases are never expanded. Words stay as written: `no` is Norwegian.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import MappingStartEvent, ScalarEvent

    try:
        events = YAML(typ="safe", pure=True).parse(text)
        if not isinstance(_first_node(events), MappingStartEvent):
            return
        while isinstance(key := next(events, None), ScalarEvent):
            yield str(key.value), _clean(_scalars(events))
    except (YAMLError, ValueError):
        return


def _scalars(events: "Iterator[Event]") -> list[str]:
    """The scalar that the next node is, or those of a list of nothing else; the node is passed in any case."""
    from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, ScalarEvent, SequenceStartEvent

    words: list[str] = []
    depth, plain = 0, True
    for event in events:
        if isinstance(event, ScalarEvent):
            words.append(str(event.value))
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        else:
            plain &= isinstance(event, SequenceStartEvent) and depth == 0
            depth += isinstance(event, CollectionStartEvent)
        if depth == 0:
            break
    return words if plain else []


def _first_node(events: "Iterator[Event]") -> "Event | None":
    from ruamel.yaml.events import DocumentStartEvent, StreamStartEvent

    return next((event for event in events if not isinstance(event, StreamStartEvent | DocumentStartEvent)), None)


def _clean(words: list[str]) -> tuple[str, ...]:
    kept = (word.strip() for word in words)
    return tuple(word for word in kept if word not in _NOTHING and len(word) <= _LONGEST)[:_MOST]
