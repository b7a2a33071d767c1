"""JSON as safetensors means it: stricter than Python's, and never a way to use up the memory."""

import json
import math
import re
from collections.abc import Iterator
from json.decoder import scanstring  # type: ignore[attr-defined] # a name of Python's own, since 2.6
from typing import Any, NoReturn

from sdmw.errors import LONGEST_NAME, quoted

_MOST_DIGITS = 40  # of an integer; 2^64 has twenty

# A high surrogate that no low one follows, or the other way round.
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F])"
)
_BEYOND_16_BITS = (b"\xf0", b"\xf1", b"\xf2", b"\xf3", b"\xf4", rb"\ud", rb"\uD")  # how these characters begin
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_BLANKS = tuple(" \t\n\r")
_SOME_BLANKS = re.compile(r"[ \t\n\r]*")


def parse(raw: bytes) -> object:
    """The value that UTF-8 JSON bytes stand for; −0 comes as a float, as in Rust's serde.

    Raises:
        ValueError: not JSON, not UTF-8, a key twice in one object, NaN or infinity, a lone surrogate, nested too deep,
            an integer of more digits than any that we could use.
    """
    _check_surrogates(raw)
    try:
        return _decoder(raw).decode(raw.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deep") from None


def members(raw: bytes) -> Iterator[tuple[str, Any]]:
    """The keys and values of the object that UTF-8 JSON bytes stand for, each parsed when it is asked for.

    So the whole is never in memory at once, and the caller may stop at any key. A key may occur twice: it is up to the
    caller to refuse that.

    Raises:
        TypeError: JSON, and no object; its type.
        ValueError: as `parse`, when it is come to.
    """
    _check_surrogates(raw)
    text = raw.decode("utf-8")
    scan = _decoder(raw).scan_once  # type: ignore[attr-defined]
    place = _past_blanks(text, 0)
    if text[place : place + 1] != "{":
        raise TypeError(type(parse(raw)).__name__)
    place = _past_blanks(text, place + 1)
    closed = text[place : place + 1] == "}"
    while not closed:
        if text[place : place + 1] != '"':
            raise _syntax("Expecting property name enclosed in double quotes", text, place)
        key, place = scanstring(text, place + 1, True)
        if (place := _past_blanks(text, place)) == len(text) or text[place] != ":":
            raise _syntax("Expecting ':' delimiter", text, place)
        try:
            value, place = scan(text, _past_blanks(text, place + 1))
        except StopIteration as stop:
            raise _syntax("Expecting value", text, stop.value) from None
        except RecursionError:
            raise ValueError("nested too deep") from None
        yield key, value
        place = _past_blanks(text, place)
        closed = text[place : place + 1] == "}"
        if not closed:
            if text[place : place + 1] != ",":
                raise _syntax("Expecting ',' delimiter", text, place)
            place = _past_blanks(text, place + 1)
    if (place := _past_blanks(text, place + 1)) < len(text):
        raise _syntax("Extra data", text, place)


def most_values(raw: bytes) -> int:
    """How many JSON values there can be in the bytes, told without parsing: each takes 50 to 200 bytes of memory."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{") + 1


def width(raw: bytes) -> int:
    """Bytes that a character of the text, or of a string in it, may take in Python: one emoji quadruples it."""
    if raw.isascii() and rb"\u" not in raw:
        return 1
    return 4 if any(beginning in raw for beginning in _BEYOND_16_BITS) else 2


def told(value: object) -> str:
    """A value from JSON as `quoted` shows it, without the `repr` of all of it, which may be millions of values."""
    shown = ""
    for piece in _pieces(value):
        shown += piece
        if len(shown) > LONGEST_NAME:
            end = "]" if isinstance(value, list) else "}" if isinstance(value, dict) else piece[-1]
            return f"{shown[:LONGEST_NAME]}…{end}"
    return shown


def _pieces(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield repr(value[:LONGEST_NAME])
    elif isinstance(value, list):
        yield "["
        for number, item in enumerate(value):
            yield ", " if number else ""
            yield from _pieces(item)
        yield "]"
    elif isinstance(value, dict):
        yield "{"
        for number, (key, item) in enumerate(value.items()):
            yield ", " if number else ""
            yield from _pieces(key)
            yield ": "
            yield from _pieces(item)
        yield "}"
    else:
        yield repr(value)


def _check_surrogates(raw: bytes) -> None:
    # Escaped backslashes go first, so that `\\ud800` (a backslash and letters) is not taken for an escape.
    if rb"\u" in raw and _LONE_SURROGATE.search(raw.replace(rb"\\", b"__")):
        raise ValueError("a string has half of a surrogate pair")


def _decoder(raw: bytes) -> json.JSONDecoder:
    # To make an integer takes time with the square of its digits. json calls `int` itself, several times faster.
    plain = b"-0" not in raw and b"0" * (_MOST_DIGITS + 1) not in raw.translate(_DIGITS_AS_ZEROS)
    return json.JSONDecoder(
        object_pairs_hook=_unique,
        parse_int=int if plain else _integer,
        parse_float=_real,
        parse_constant=_no_constant,
    )


def _past_blanks(text: str, place: int) -> int:
    # Nearly always there are none.
    return place if text[place : place + 1] not in _BLANKS else _SOME_BLANKS.match(text, place).end()  # type: ignore[union-attr]


def _syntax(said: str, text: str, place: int) -> ValueError:
    return json.JSONDecodeError(said, text, place)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {quoted(twice)} appears twice in one object")
    return made


def _integer(text: str) -> int | float:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"an integer of {len(text):,} digits")
    return -0.0 if text == "-0" else int(text)


def _real(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {quoted(text)} is out of range")
    return number


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{quoted(text)} is not JSON")
