"""Sizes as people write and read them."""

import math
import re
from decimal import Decimal
from typing import Any

from sdmw.errors import Problem, UsageError, quoted

_UNITS = {
    "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "B": 10**9,  # mergekit's: B is a billion, and all are bytes
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,12})?) ?([a-zA-Z]*)")
_LARGEST = 2**63 - 1  # what the kernel takes as a file offset


def parse_size(text: int | str, argument: str = "size") -> int:
    """A size as a number of bytes.

    Args:
        text: bytes as an int or as digits, or a number with KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB
            (powers of 1024), in any case, with or without a blank between; or with mergekit's K, M, G, T, which are
            powers of 1000 too, or B, a billion bytes. Parts of a byte are dropped.
        argument: what the size is for, in an error.

    Returns:
        Bytes, at least 1.

    Raises:
        UsageError: it is no size, smaller than a byte, or beyond 2⁶³ − 1.
    """
    if type(text) is int:
        return _in_range(text, text, argument)
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise _not_a_size(text, argument)
    number, unit = Decimal(match[1]), match[2].upper()
    if (unit and unit not in _UNITS) or (not unit and "." in match[1]):
        raise _not_a_size(text, argument)
    return _in_range(int(number * _UNITS.get(unit, 1)), text, argument)


def parse_numbers(text: str, argument: str, *words: str) -> list[Any]:
    """Numbers between commas, such as `0,10,50`.

    Args:
        text: the numbers.
        argument: what they are for, in an error.
        words: what may stand in the place of a number.

    Returns:
        Floats, and words as they are.

    Raises:
        UsageError: a part is no number, and none of these words.
    """
    try:
        found: list[Any] = [part if part in words else float(part) for part in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(each in words or math.isfinite(each) for each in found):
        expected = " or ".join(("numbers between commas, such as 0,10,50", *words))
        raise UsageError([Problem(argument, expected, quoted(text))])
    return found


def parse_counts(text: str, argument: str) -> list[int]:
    """Whole numbers above 0 between commas, such as `1,2,4`; UsageError, which names the argument, where one is not."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError([Problem(argument, "whole numbers above 0 between commas, such as 1,2,4", quoted(text))])
    return [int(part) for part in parts]


def parse_share(text: str, argument: str) -> float:
    """A share as people write it, `1%` or `0.01`, as a number above 0 and at most 1.

    Raises:
        UsageError: the text is not such a share.
    """
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?) ?(%?)", text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < share <= 1:
        raise UsageError([Problem(argument, "a share above 0 and at most 100%, such as 1%", quoted(text))])
    return share


def shown(size: int) -> str:
    """A number of bytes for a message, three digits long: `4.98 GB`, powers of 1000."""
    if size < 1000:
        return f"{size} byte" if size == 1 else f"{size} bytes"
    for unit in ("KB", "MB", "GB", "TB"):
        # 999,999 bytes would round to "1e+03 KB": it is 1.00 MB.
        if size < 999.5 * _UNITS[unit] or unit == "TB":
            break
    amount = size / _UNITS[unit]
    return f"{amount:.{2 if amount < 9.995 else 1 if amount < 99.95 else 0}f} {unit}"


def _in_range(size: int, text: object, argument: str) -> int:
    if not 1 <= size <= _LARGEST:
        raise _not_a_size(text, argument)
    return size


def _not_a_size(text: object, argument: str, mend: str = "Write for instance 5GB or 512MiB") -> UsageError:
    expected = "a number of bytes, or a number with KB to TB or KiB to TiB"
    return UsageError([Problem(argument, expected, quoted(text), mend)])


def counted(count: int, what: str) -> str:
    """A count with its noun: `1 model`, `1,200 tensors`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def are(count: int, one: str = "is", more: str = "are") -> str:
    """The verb of a counted noun."""
    return one if count == 1 else more
