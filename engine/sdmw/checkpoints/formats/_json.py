"""JSON as safetensors means it: stricter than Python's, and never a way to use up the memory."""

import json
import math
import re
from typing import Any, NoReturn

from sdmw.errors import quoted

# A high surrogate that no low one follows, or the other way round.
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F])"
)


def parse(raw: bytes) -> object:
    """The value that UTF-8 JSON bytes stand for; −0 comes as a float, as in Rust's serde.

    Raises:
        ValueError: not JSON, not UTF-8, a key twice in one object, NaN or infinity, a lone surrogate, nested too deep.
    """
    # Escaped backslashes go first, so that `\\ud800` (a backslash and letters) is not taken for an escape.
    if _LONE_SURROGATE.search(raw.replace(rb"\\", b"__")):
        raise ValueError("a string has half of a surrogate pair")
    try:
        return json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_integer if b"-0" in raw else int,  # int is several times faster
            parse_float=_real,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise ValueError("nested too deep") from None


def most_values(raw: bytes) -> int:
    """How many JSON values there can be in the bytes, told without parsing: each takes 50 to 200 bytes of memory."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{") + 1


def told(value: object) -> str:
    """A value from JSON for a message; `repr` of one that is nested as deep as the parser allows would fail."""
    try:
        return quoted(value)
    except RecursionError:
        return f"a {type(value).__name__} nested very deep"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {quoted(twice)} stands twice in one object")
    return made


def _integer(text: str) -> int | float:
    return -0.0 if text == "-0" else int(text)


def _real(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {quoted(text)} is out of range")
    return number


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{quoted(text)} is no JSON")
