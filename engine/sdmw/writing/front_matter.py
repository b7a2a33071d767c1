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
_FRONT = re.compile(rb"(?:\xef\xbb\xbf)?\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_KEY = re.compile(r"""(['"]?)(\w+)\1[ \t]*:(?:\s|$)""", re.ASCII)


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
    for key, entry in _entries(text):
        if key in KEYS and key not in found and len(entry) <= _LARGEST_ENTRY and (words := _words(entry)):
            found[key] = words
    return found


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Each key of the top level with its lines; one begins at a line that is not indented, a remark or of a list."""
    key, lines = "", list[str]()
    for line in text.splitlines(keepends=True):
        if line[0] not in " \t\r\n#-":
            yield key, "".join(lines)
            match = _KEY.match(line)
            key, lines = (match[2] if match else ""), []
        lines.append(line)
    yield key, "".join(lines)


def _words(entry: str) -> tuple[str, ...]:
    """The scalar that is an entry's value, or those in its list; nothing where it is anything else.

    Events are enough: nothing is composed, aliases are never expanded. Words stay as written: `no` is Norwegian.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import MappingStartEvent, ScalarEvent, SequenceEndEvent, SequenceStartEvent

    try:
        events = YAML(typ="safe", pure=True).parse(entry)
        if not isinstance(_first_node(events), MappingStartEvent) or not isinstance(next(events, None), ScalarEvent):
            return ()
        value = next(events, None)
        if isinstance(value, ScalarEvent):
            return _clean([value.value])
        if not isinstance(value, SequenceStartEvent):
            return ()
        words: list[str] = []
        while isinstance(item := next(events, None), ScalarEvent):
            words.append(str(item.value))
        return _clean(words) if isinstance(item, SequenceEndEvent) else ()
    except (YAMLError, ValueError):
        return ()


def _first_node(events: "Iterator[Event]") -> "Event | None":
    from ruamel.yaml.events import DocumentStartEvent, StreamStartEvent

    return next((event for event in events if not isinstance(event, StreamStartEvent | DocumentStartEvent)), None)


def _clean(words: list[str]) -> tuple[str, ...]:
    kept = (word.strip() for word in words)
    return tuple(word for word in kept if word not in _NOTHING and len(word) <= _LONGEST)[:_MOST]
