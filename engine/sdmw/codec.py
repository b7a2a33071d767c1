"""Frozen dataclasses as JSON and back: decisions, jobs and reports are all written in this one way.

A dataclass is an object of its fields, a tuple a list, an enum its member's name. A class marked `tagged` also says
its module and its name under "type" ("methods.shares.Share"), so that a field declared as a protocol or an abstract
class is read back as what it was. Only tagged classes can be named by JSON: nothing is imported or called because a
file says so.

A field of type `Annotated[int, Within(0, 100)]` or `Annotated[str, Matching("[0-9a-f]*")]` is checked when it is read.
"""

import dataclasses
import json
import math
import re
import reprlib
import sys
import types
from collections.abc import Hashable, Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import xxhash

T = TypeVar("T")

TAG = "type"
LARGEST = sys.float_info.max
_compact = json.JSONEncoder(separators=(",", ":")).encode
_PLAIN = frozenset({type(None), bool, int, str})
_tagged: dict[str, type[Any]] = {}
_tags: dict[type[Any], str] = {}  # the other way round


def tagged(kind: type[T]) -> type[T]:
    """Let a frozen dataclass be read back where a field is declared as one of its base classes or protocols."""
    name = _tag(kind)
    if name in _tagged:  # its module is loaded again
        del _tags[_tagged[name]]
    _tagged[name], _tags[kind] = kind, name
    return kind


def _tag(kind: type[Any]) -> str:
    return f"{kind.__module__.removeprefix('sdmw.')}.{kind.__qualname__}"


def is_tagged(kind: type[Any]) -> bool:
    """Whether JSON can name a class."""
    return kind in _tags


@dataclasses.dataclass(frozen=True, slots=True)
class Within:
    """Limits a number: at least `low`, at most `high`. NaN and infinity are outside any limits."""

    low: float
    high: float = LARGEST

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a number of at least {self.low:g}" + (f", at most {self.high:g}" if self.high < LARGEST else "")


@dataclasses.dataclass(frozen=True, slots=True)
class Matching:
    """Limits a text to those that a regular expression matches whole."""

    pattern: str

    def __contains__(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return f"a text like {self.pattern}"


Count = Annotated[int, Within(0, 2**63 - 1)]
Checksum = Annotated[str, Matching("[0-9a-f]{32}")]  # XXH3-128


def encode(value: Any) -> Any:
    """A value as `json.dumps` takes it.

    Raises:
        TypeError: no part of it is of a kind that the codec knows.
    """
    kind = type(value)
    if kind in _PLAIN:  # by the very type: of 100,000 tensors there are millions of values
        return value
    if kind is tuple or kind is list:
        return [item if type(item) in _PLAIN else encode(item) for item in value]
    if (names := _names_of(cast(Hashable, kind))) is not None:
        found: dict[str, Any] = {TAG: _tags[kind]} if kind in _tags else {}
        for name in names:
            item = getattr(value, name)
            found[name] = item if type(item) in _PLAIN else encode(item)
        return found
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [encode(item) for item in value]
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def digest(value: Any) -> bytes:
    """XXH3-128 of a value's JSON: equal for equal values, in any process. No signature."""
    return xxhash.xxh3_128_digest(_compact(encode(value)).encode())


def decode(kind: type[T], data: Any) -> T:
    """What `encode` gave, as a value of a type.

    Raises:
        ValueError: the data are not of that type; the message says where and what was found.
    """
    try:
        return cast(T, _decoded(kind, data, ""))
    except RecursionError:
        raise ValueError("nested too deep") from None


def _decoded(kind: Any, data: Any, at: str) -> Any:
    origin = get_origin(kind)
    if kind is Any or kind is object:
        return _untyped(data, at)
    if isinstance(kind, TypeVar):
        return _decoded(kind.__bound__ or object, data, at)
    if origin in (Union, types.UnionType):
        return _alternative(get_args(kind), data, at)
    if origin is Annotated:
        return _limited(get_args(kind), data, at)
    if origin is Literal:
        words = get_args(kind)
        known = any(type(data) is type(word) and data == word for word in words)
        return data if known else _refuse(at, f"one of {', '.join(map(str, words))}", data)
    if origin is not None:
        return _collection(origin, get_args(kind), data, at)
    if dataclasses.is_dataclass(kind) and not getattr(kind, "__abstractmethods__", None):
        return _object(cast("type[Any]", kind), data, at)
    if isinstance(kind, type) and issubclass(kind, Enum):
        named = isinstance(data, str) and data in kind.__members__
        return kind[data] if named else _refuse(at, f"a {kind.__name__}", data)
    if kind in (bool, int, str, float, type(None)):
        return _scalar(kind, data, at)
    return _tagged_as(kind, data, at)


def _scalar(kind: type[Any], data: Any, at: str) -> Any:
    if kind is float and type(data) in (int, float):
        return float(data) if abs(data) <= LARGEST else _refuse(at, "a number that float64 holds", data)
    if kind is float and data in ("inf", "-inf", "nan"):
        return float(data)
    return data if type(data) is kind else _refuse(at, _NAMES[kind], data)


def _limited(arguments: tuple[Any, ...], data: Any, at: str) -> Any:
    value = _decoded(arguments[0], data, at)
    for limit in arguments[1:]:
        if value not in limit:
            _refuse(at, str(limit), data)
    return value


_NAMES = {bool: "true or false", int: "a whole number", str: "text", float: "a number", type(None): "null"}


def _collection(origin: Any, arguments: tuple[Any, ...], data: Any, at: str) -> Any:
    if issubclass(origin, Mapping):
        if not isinstance(data, dict):
            _refuse(at, "an object", data)
        return {name: _decoded(arguments[1], item, f"{at}.{name}") for name, item in data.items()}
    if not issubclass(origin, Sequence):
        return _decoded(origin, data, at)
    if not isinstance(data, list | tuple):  # a tuple where it was decoded before, as part of something untyped
        _refuse(at, "a list", data)
    kinds = arguments if origin is tuple and arguments[-1] is not Ellipsis else (arguments[0],) * len(data)
    if len(kinds) != len(data):
        _refuse(at, f"{len(kinds)} values", data)
    found = [_decoded(kind, item, f"{at}[{place}]") for place, (kind, item) in enumerate(zip(kinds, data, strict=True))]
    return found if origin is list else tuple(found)


def _alternative(kinds: tuple[Any, ...], data: Any, at: str) -> Any:
    """The alternative of the very type, else the first that fits; the fault of the last but null where none does."""
    if type(data) in kinds:
        return _decoded(type(data), data, at)
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    for kind in kinds[:-1]:
        try:
            return _decoded(kind, data, at)
        except ValueError:
            continue
    return _decoded(kinds[-1], data, at)


def _object(kind: type[Any], data: Any, at: str) -> Any:
    if isinstance(data, kind):  # decoded before, as part of something untyped
        return data
    if not isinstance(data, dict):
        _refuse(at, "an object", data)
    if is_tagged(kind) and data.get(TAG, _tag(kind)) != _tag(kind):
        _refuse(at, f"a {kind.__name__}", data[TAG])
    fields = _fields_of(cast(Hashable, kind))
    if lacking := [name for name, _ in fields if name not in data]:
        _refuse(at, f"a field {lacking[0]!r}", sorted(data)[:10])
    return kind(**{name: _decoded(of, data[name], f"{at}.{name}") for name, of in fields})


def _tagged_as(kind: Any, data: Any, at: str) -> Any:
    """Of a class that is declared by a protocol or an abstract class."""
    name = data.get(TAG) if isinstance(data, dict) else None
    found = _tagged.get(name) if isinstance(name, str) else None
    if found is None or (not getattr(kind, "_is_protocol", False) and not issubclass(found, kind)):
        _refuse(at, f"a {kind.__name__}", data)
    return _object(cast("type[Any]", found), data, at)


def _untyped(data: Any, at: str) -> Any:
    if isinstance(data, dict):
        tag = data.get(TAG)
        if isinstance(tag, str) and tag in _tagged:
            return _object(_tagged[tag], data, at)
        return {name: _untyped(item, f"{at}.{name}") for name, item in data.items()}
    return tuple(_untyped(item, at) for item in data) if isinstance(data, list) else data


@cache
def _names_of(kind: Hashable) -> tuple[str, ...] | None:
    """The fields of a dataclass that are written; None for other classes, and those that are written as a scalar."""
    of = cast("type[Any]", kind)
    if not dataclasses.is_dataclass(of) or issubclass(of, Enum | float | int | str):
        return None
    return tuple(name for name, _ in _fields_of(kind))


@cache
def _fields_of(kind: Hashable) -> tuple[tuple[str, Any], ...]:
    of = cast("type[Any]", kind)
    hints = get_type_hints(of, include_extras=True)
    return tuple((field.name, hints[field.name]) for field in dataclasses.fields(of) if field.init)


def _refuse(at: str, expected: str, found: Any) -> Any:
    raise ValueError(f"{at.lstrip('.') or 'the whole'}: expected {expected}, found {shorten(found)}")


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 100


def shorten(value: Any) -> str:
    """A value for a message: never all of a large one, whose `repr` may not fit in memory."""
    return _short.repr(value)
