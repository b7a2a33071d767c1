"""Plain data as JSON text."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from sdmw import codec

LONG = 100  # entries; longer lists have a line an entry


def as_json(data: Any) -> str:
    """Indented, with a line end; of a long list each entry is a line; characters as they are wherever UTF-8 has them.

    Of a mapping the values need not be plain: `codec` encodes them, entry by entry where they are long, since all
    entries of 20,000 tensors would take 90 MB as plain data.

    A path may be any bytes. Python keeps those that are not UTF-8 as lone surrogates, which only escapes can express.
    """
    text = "".join(_parts(data, ascii_only=False))
    try:
        text.encode()
    except UnicodeEncodeError:
        text = "".join(_parts(data, ascii_only=True))
    return text


def _parts(data: Any, *, ascii_only: bool) -> Iterator[str]:
    indented = json.JSONEncoder(indent=2, ensure_ascii=ascii_only).encode
    if not isinstance(data, dict):
        yield indented(data) + "\n"
        return
    # Indenting is done in Python and takes ten times as long: 1.5 s for a report of 20,000 tensors.
    plain = json.JSONEncoder(ensure_ascii=ascii_only).encode
    before = "{\n"
    for name, value in data.items():
        yield f"{before}  {plain(name)}: "
        if isinstance(value, list | tuple) and len(value) > LONG:
            yield from _entries(value, plain)
        else:
            yield indented(codec.encode(value)).replace("\n", "\n  ")
        before = ",\n"
    yield "\n}\n" if data else "{}\n"


def _entries(values: list[Any] | tuple[Any, ...], plain: Callable[[Any], str]) -> Iterator[str]:
    before = "[\n    "
    for each in values:
        yield before + plain(codec.encode(each))
        before = ",\n    "
    yield "\n  ]"
