"""Recipes as YAML 1.2: a file read with every bound set before it is parsed, its text made a plain tree, and back."""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, DocumentStartEvent, Event, NodeEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from sdmw.errors import Problem, RecipeError, quoted
from sdmw.recipes.findings import Findings, Mark, Path
from sdmw.recipes.tree import DEEPEST, MOST_NODES, Bounds

LARGEST = 1 << 18  # bytes of a recipe file; one of real size has a few thousand

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_WORDS = (_TAG + "str", _TAG + "timestamp", _TAG + "value", _MERGE)  # plain scalars that are text in YAML 1.2


def read(path: str) -> str:
    """The text of a recipe file.

    Raises:
        RecipeError: it is not there, no regular file, larger than 256 KiB, empty, or not UTF-8.
    """
    try:
        data = _bytes_of(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        found = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None)
        _refuse(path, found or str(error))
    if not data:
        _refuse(path, "an empty file", expected="a recipe")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        _refuse(f"{path}:{line}", f"byte {data[error.start]:#04x}", expected="UTF-8", mend="Save the file as UTF-8")


def tree(text: str, findings: Findings) -> Any:
    """The text as a plain tree; the place of each key and value is left in `findings`.

    Raises:
        RecipeError: it is not YAML, not one document, or too large; what can be walked past is left in `findings`.
    """
    where = findings.file or "recipe"
    if len(text) > LARGEST:
        _refuse(where, f"{len(text)} characters", expected=f"at most {LARGEST}")
    try:
        node, constructor = _composed(text, where)
    except RecipeError:
        raise
    except MarkedYAMLError as error:
        raise RecipeError([_not_yaml(text, where, error)]) from None
    except ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position)
        _refuse(f"{where}:{line}:{column}", f"not YAML: the character {quoted(chr(error.character))}")
    except Exception as error:
        # On hostile text ruamel.yaml raises what it did not mean to: AssertionError, IndexError, ValueError.
        _refuse(where, f"not YAML: {type(error).__name__} {error}")
    return _Walk(findings, constructor).value(node, ())


def written(data: dict[str, Any]) -> str:
    """A plain tree as YAML.

    Raises:
        RecipeError: it is larger than what could be read again.
    """
    out = StringIO()
    writer = YAML()
    writer.width = 1 << 20  # a long path stays on its line
    writer.dump(_escaped(data), out)
    text = out.getvalue()
    if len(text.encode()) > LARGEST:
        _refuse("recipe", f"larger than {LARGEST} bytes when written", mend="Is this a recipe?")
    return text


# What ruamel.yaml says, whether its context is the place to look at, what it means, and the mend.
_NO_COLON, _WRITE_COLON, _ODD_COLON = "no colon after this name", "Write name: value", "a colon in the wrong place"
_NOT_ALIKE = "a line that is not indented like the rest of its block"
# A line that begins with `-name` or `name:value`, and what to say of it.
_NO_BLANK = (
    (re.compile(r"\s*(-)\w+:"), "no space after the dash", "Write - name: value"),
    (re.compile(r"\s*(?:- +)?[A-Za-z_]\w*(:)[^\s:]"), "no space after the colon", _WRITE_COLON),
)
_FAULTS = (
    ("could not find expected ':'", True, _NO_COLON, _WRITE_COLON),
    ("mapping values are not allowed", False, _ODD_COLON,
     "Indent the line like the rest of its block, or put text with a colon in quotes"),
    ("character '\\t'", False, "a tab", "Indent with spaces"),
    ("cannot start any token", False, "a character that cannot begin text", "Put the text in quotes"),
    ("expected <block end>", False, _NOT_ALIKE, "Indent them alike"),
    ("expected ',' or", True, "a bracket that is not closed", "Close it, or separate the items with a comma"),
    ("unexpected end of stream", True, "a quote that is not closed", "Close it"),
)  # fmt: skip
_BEFORE, _WIDEST = 50, 72  # characters of a line that are shown: before the fault, and in all


def _not_yaml(text: str, where: str, error: MarkedYAMLError) -> Problem:
    """What is wrong in plain words, with the line and a caret below."""
    said = str(error.problem or error.context)
    known = ((in_context, meant, mend) for words, in_context, meant, mend in _FAULTS if words in said)
    in_context, meant, mend = next(known, (False, said, ""))
    mark = (error.context_mark if in_context else None) or error.problem_mark or error.context_mark
    if not mark:
        return Problem(where, "", f"not YAML: {meant}", mend)
    lines = text.split("\n")
    if meant in (_NO_COLON, _ODD_COLON, _NOT_ALIKE) and (problem := _without_blank(where, lines[: mark.line + 1])):
        return problem
    if meant == _ODD_COLON and (above := _name_alone(lines[: mark.line])):
        # Two names made one text, and the colon of the second is what the parser objects to.
        return _at(where, lines, *above, _NO_COLON, _WRITE_COLON)
    first = max(0, mark.column - _BEFORE)
    line = lines[mark.line][first : first + _WIDEST].replace("\t", " ") if mark.line < len(lines) else ""
    excerpt = (f"    {line.rstrip()}", " " * (4 + mark.column - first) + "^") if line.strip() else ()
    return Problem(_spot(where, mark), "", f"not YAML: {meant}", mend, excerpt)


def _at(where: str, lines: Sequence[str], number: int, column: int, meant: str, mend: str) -> Problem:
    shown = (f"    {lines[number][:_WIDEST].rstrip()}", " " * (4 + min(column, _WIDEST)) + "^")
    return Problem(f"{where}:{number + 1}:{column + 1}", "", f"not YAML: {meant}", mend, shown)


def _without_blank(where: str, lines: Sequence[str]) -> Problem | None:
    """What to say where one of the last two lines with text lacks the blank that makes a name or an entry of it."""
    with_text = [number for number, line in enumerate(lines) if line.strip()][-2:]
    for number in with_text:
        for pattern, meant, mend in _NO_BLANK:
            if found := pattern.match(lines[number]):
                return _at(where, lines, number, found.start(1), meant, mend)
    return None


def _name_alone(lines: Sequence[str]) -> tuple[int, int] | None:
    """Line and column of the last line with text, if that is a name without a colon; None if it is something else."""
    number = next((n for n in reversed(range(len(lines))) if lines[n].strip()), None)
    if number is None or re.fullmatch(r"\s*[A-Za-z_]\w*(\s[^:#\[\]{},]*)?", lines[number]) is None:
        return None
    return number, len(lines[number]) - len(lines[number].lstrip())


def _escaped(value: Any) -> Any:
    """The tree with unprintable text put in double quotes, where it is escaped."""
    # ruamel.yaml takes U+0085 and its like for line ends when it writes, and not when it reads.
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return DoubleQuotedScalarString(value) if isinstance(value, str) and not value.isprintable() else value


def _refuse(where: str, found: str, *, expected: str = "", mend: str = "") -> NoReturn:
    raise RecipeError([Problem(where, expected, found, mend)]) from None


def _bytes_of(path: str) -> bytes:
    # O_NONBLOCK: opening a FIFO must not wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            found = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise OSError(errno.EINVAL, found, path)
        if status.st_size > LARGEST:
            raise OSError(errno.EFBIG, f"larger than {LARGEST} bytes", path)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(LARGEST)  # it may grow meanwhile
    finally:
        os.close(descriptor)


def _reader() -> YAML:
    # "safe" and pure is YAML 1.2 with marks, as round-trip mode is, without its comment handling, which has faults of
    # its own on hostile text and prints warnings. Nothing is constructed by it but scalars: see _Walk.
    reader = YAML(typ="safe", pure=True)
    reader.composer.warn_double_anchors = False  # an anchor may be set anew; not for the terminal
    return reader


def _composed(text: str, where: str) -> tuple[Node, Any]:
    """The text's node, and what constructs its scalars. Read once: that takes microseconds for each character."""
    reader = _reader()
    events = _Events(_checked(reader.parse(text), where))
    reader.composer.loader = events
    return reader.composer.get_single_node(), reader.constructor


class _Events:
    """What ruamel.yaml's composer asks of its loader and of the parser in it, over events that were checked."""

    max_depth = None

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = list(events)[::-1]
        self._parser = self
        self._resolver = _reader().resolver

    def check_event(self, *kinds: type[Event]) -> bool:
        return isinstance(self._events[-1], kinds)

    def peek_event(self) -> Event:
        return self._events[-1]

    def get_event(self) -> Event:
        return self._events.pop()


def _checked(events: Iterable[Event], where: str) -> Iterator[Event]:
    """The events, as long as there is nothing that must not reach the composer, which recurses and keeps all."""
    depth = nodes = documents = 0
    for event in events:
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                _refuse(
                    _spot(where, event.start_mark),
                    "an empty recipe, or more than 64",
                    expected="recipes between `---`",
                )
            if event.version and tuple(event.version) != (1, 2):
                _refuse(
                    _spot(where, event.start_mark), f"YAML {event.version[0]}.{event.version[1]}", expected="YAML 1.2"
                )
        nodes += isinstance(event, NodeEvent)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if nodes > MOST_NODES:
            _refuse(_spot(where, event.start_mark), f"more than {MOST_NODES} values", mend="Is this a recipe?")
        if depth > DEEPEST:
            _refuse(_spot(where, event.start_mark), f"more than {DEEPEST} levels", mend="Is this a recipe?")
        yield event
    if not documents:
        _refuse(where, "only comments and empty lines", expected="a recipe")


def _spot(where: str, mark: Any) -> str:
    return f"{where}:{mark.line + 1}:{mark.column + 1}"


class _Walk:
    """Makes a composed document a plain tree: aliases and merge keys expanded and counted."""

    def __init__(self, findings: Findings, constructor: Any) -> None:
        self._findings = findings
        self._bounds = Bounds(findings)
        self._scalars = {
            _TAG + "null": lambda _: None,
            _TAG + "bool": constructor.construct_yaml_bool,
            _TAG + "int": constructor.construct_yaml_int,
            _TAG + "float": constructor.construct_yaml_float,
            **dict.fromkeys(_WORDS, lambda node: node.value),
        }

    def value(self, node: Node, path: Path) -> Any:
        self._bounds.enter(path)
        self._findings.values[path] = _mark(node)
        tag = str(node.tag)
        if isinstance(node, MappingNode) and tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and tag == _TAG + "seq":
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, ScalarNode) and tag in self._scalars:
            return self._scalar(node, tag, path)
        self._findings.add(path, f"the tag {quoted(tag.replace(_TAG, '!!'))}", expected="no tag")
        return None

    def _scalar(self, node: ScalarNode, tag: str, path: Path) -> Any:
        try:
            value = self._scalars[tag](node)
            if isinstance(value, int):
                float(value)  # what no float holds is no number of a recipe, and Python refuses to print the longest
        except (ValueError, KeyError, IndexError, OverflowError):  # `!!int x`, `!!bool x`, `!!float ""`, 5000 digits
            self._findings.add(path, quoted(node.value), expected=f"a value for {tag.replace(_TAG, '!!')}")
            return None
        return value

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in self._pairs(node, path):
            name = _name(key_node)
            at = (*path, name)
            self._findings.keys[at] = _mark(key_node)
            self._bounds.enter(at)
            if name in first:
                self._findings.add(at, "duplicate key", mend=f"It is also in line {first[name]}", key=True)
                continue
            first[name] = _mark(key_node)[0]
            if isinstance(key_node, ScalarNode) and str(key_node.tag) in _WORDS:
                result[name] = self.value(value_node, at)
                if result[name] is None:  # of no value the mark is that of what comes next
                    self._findings.values[at] = _mark(key_node)
            else:
                self._findings.add(at, f"the key {quoted(name)}", expected="a name", mend="Put it in quotes", key=True)
        return result

    def _pairs(self, node: MappingNode, path: Path) -> list[tuple[Node, Node]]:
        """The mapping's own keys and values, then those of its merge keys that it does not have."""
        own = [pair for pair in node.value if str(pair[0].tag) != _MERGE]
        merges = [pair[1] for pair in node.value if str(pair[0].tag) == _MERGE]
        names = {_name(key) for key, _ in own}
        at = (*path, "<<")
        for place in merges:
            self._findings.values[at] = _mark(place)
        if len(merges) > 1:
            self._findings.add(at, "duplicate key", mend="Merge a list: <<: [*a, *b]")
        for source in [source for merge in merges for source in _sources(merge)]:
            self._bounds.enter(at)
            if not isinstance(source, MappingNode):
                self._findings.add(at, quoted(_name(source)), expected="a mapping, or a list of mappings, to merge")
                continue
            for key, value in self._pairs(source, at):
                self._bounds.enter(at)  # a wide mapping can be merged thousands of times without a key being taken
                if _name(key) not in names:
                    names.add(_name(key))
                    own.append((key, value))
        return own


def _sources(merge: Node) -> list[Node]:
    return list(merge.value) if isinstance(merge, SequenceNode) else [merge]


def _name(key: Node) -> str:
    return str(key.value) if isinstance(key, ScalarNode) else "a collection"


def _mark(node: Node) -> Mark:
    return node.start_mark.line + 1, node.start_mark.column + 1
