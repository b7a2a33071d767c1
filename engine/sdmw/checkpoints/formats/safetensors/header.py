"""One safetensors file: its header, parsed and checked for all that the format promises.

Source: the format, https://github.com/huggingface/safetensors#format, and what the library (0.8) makes of it. Whatever
is accepted here the library accepts too; several things that it accepts (a key twice, entries as lists) are not.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from sdmw.checkpoints.formats._json import members, most_values, told, width
from sdmw.errors import CheckpointError, Problem
from sdmw.storage.access import Access
from sdmw.storage.files import HEADER_LIMIT
from sdmw.storage.opened import OpenFile, opened
from sdmw.storage.shard import Shard
from sdmw.tensors.dtype import DType
from sdmw.tensors.remote import StoredRemotely
from sdmw.tensors.stored import Stored

LARGEST_HEADER = 100_000_000  # bytes; the format's own limit
_LARGEST_NUMBER = 2**63 - 1  # of a dimension, an offset, a count of elements: what file offsets can hold
_HIGHEST_RANK = 64
MOST_TENSORS = 131_072  # in one file, whatever the header limit; each costs some 10 microseconds and 500 bytes
_SHOWN = 10  # problems of one file; a hostile header can have 100,000
_COUNTED = 1_000  # problems beyond those shown
_FIELDS = frozenset(("dtype", "shape", "data_offsets"))
_DTYPES = {dtype.name: (dtype, dtype.bits) for dtype in DType}
_RAISE = "If you trust the file, raise the header limit (--header-limit, header_limit=)"
_AGAIN = "The file is damaged: copy or download it again"

Entry = tuple[int, int, DType, tuple[int, ...]]  # first byte and end in the data, dtype, shape


@dataclass(frozen=True, slots=True)
class Header:
    """What one file holds.

    Attributes:
        shard: the file's fingerprint.
        tensors: in the order of their offsets.
        warnings: what is odd but harmless.
        metadata: the texts under `__metadata__`.
    """

    shard: Shard
    tensors: tuple[Stored, ...]
    warnings: tuple[str, ...]
    metadata: Mapping[str, str]


def read_header(directory: str, name: str, access: Access) -> Header:
    """Reads and checks the header of one file of a checkpoint; no tensor data.

    Args:
        directory: the checkpoint, absolute.
        name: of the file in it.
        access: how far reading may go.

    Raises:
        CheckpointError: with all that is wrong with this file, at most ten tensors of it; or too much to look at.
    """
    path = os.path.join(directory, name)
    with opened(directory, name, follow_links=access.follow_links) as file:
        try:
            raw = _raw_header(file, path, min(access.header_limit, LARGEST_HEADER))
        except OSError as error:
            raise CheckpointError([Problem(path, "", f"cannot be read: {error.strerror}")]) from None
    _check_work(path, raw, access.header_limit)
    shard, data = file.fingerprint(path, raw), 8 + len(raw)
    entries, warnings, metadata = _entries(path, raw)
    del raw
    _check_layout(path, entries, file.size - data)
    make = Stored if file.version is None else partial(StoredRemotely, version=file.version)
    tensors = tuple(make(tensor, dtype, shape, path, data + a) for tensor, (a, _, dtype, shape) in entries)
    return Header(shard, tensors, tuple(warnings), metadata)


def _raw_header(file: OpenFile, path: str, limit: int) -> bytes:
    start, size = file.read(8, 0), file.size
    if start == b"version ":
        mend = "Run `git lfs pull` in the repository"
        raise CheckpointError([Problem(path, "a safetensors file", "a Git LFS pointer to one", mend)])
    if len(start) < 8:
        raise CheckpointError([Problem(path, "a safetensors file", f"only {size} bytes", _AGAIN)])
    length = int.from_bytes(start, "little")
    if length > size - 8:
        found = f"{length:,} bytes of header declared in a file of {size:,} bytes"
        raise CheckpointError([Problem(path, "a safetensors file", found, _AGAIN)])
    if length > limit:
        mend = _RAISE if length <= LARGEST_HEADER else ""
        raise CheckpointError([Problem(path, f"a header of at most {limit:,} bytes", f"{length:,} bytes", mend)])
    raw = file.read(length, 8)
    if len(raw) < length:
        raise CheckpointError([Problem(path, "", "the file became shorter while its header was read")])
    return raw


def _check_work(path: str, raw: bytes, header_limit: int) -> None:
    """Refuses what would take long or much memory to parse, by counting in its bytes; nothing is parsed for that."""
    # Real entries take over 100 bytes and, with their shape, some 8 values; what is parsed may take twenty times the
    # memory of its text.
    tensors, values, objects = raw.count(b'"data_offsets"'), most_values(raw), raw.count(b"{")
    plausible = 12 * tensors + 100_000
    most = min(plausible, header_limit // 16)
    if tensors > MOST_TENSORS or values > most or objects > tensors + 100_000:
        found = f"up to {values:,} JSON values in {len(raw):,} bytes, {tensors:,} tensors"
        expected = f"a header of at most {MOST_TENSORS:,} tensors and {most:,} JSON values"
        mend = _AGAIN  # no limit would do: it is not what a writer of tensors makes
        if tensors > MOST_TENSORS:
            mend = "Save it in more shards"
        elif values <= plausible and objects <= tensors + 100_000:
            mend = _RAISE
        raise CheckpointError([Problem(path, expected, found, mend)])
    if len(raw) * width(raw) > (most_text := max(2 * HEADER_LIMIT, header_limit)):
        found = f"{len(raw):,} bytes with such characters"
        expected = f"at most {most_text // width(raw):,} bytes of header where characters take {width(raw)} bytes"
        raise CheckpointError([Problem(path, expected, found, _RAISE)])


def _entries(path: str, raw: bytes) -> tuple[list[tuple[str, Entry]], list[str], Mapping[str, str]]:
    """The tensors by offset, warnings, and `__metadata__`.

    Parsed one by one, so that a file full of faults is left early.
    """
    problems = _Problems(path)
    entries: dict[str, Entry] = {}
    named: set[str] = set()  # those that are no entries
    metadata: Mapping[str, str] = {}
    odd = 0  # tensors with fields that the format does not know
    example = ("", "")
    try:
        for name, fields in members(raw):
            if name in entries or name in named:
                raise ValueError(f"the key {told(name)} appears twice in one object")
            if name == "__metadata__":
                named.add(name)
                metadata = _metadata(fields, problems)
                continue
            try:
                entries[name] = _entry(fields)
            except ValueError as error:
                named.add(name)
                problems.add(f"{path}: tensor {told(name)}", "", str(error), _AGAIN)
                continue
            if len(fields) > len(_FIELDS):
                odd += 1
                example = example if odd > 1 else (name, min(set(fields) - _FIELDS))
    except TypeError as error:
        raise CheckpointError([Problem(path, "a header that is a JSON object", str(error))]) from None
    except ValueError as error:
        raise CheckpointError([Problem(path, "", f"the header cannot be used: {error}", _AGAIN)]) from None
    problems.check()
    warnings = []
    if odd:
        warnings.append(
            f"{path}: {odd} tensors have fields that are not part of the format, such as "
            f"{told(example[1])} of {told(example[0])}; they are ignored"
        )
    return sorted(entries.items(), key=lambda item: (item[1][0], item[1][1], item[0])), warnings, metadata


def _metadata(found: object, problems: "_Problems") -> Mapping[str, str]:
    if found is None or (isinstance(found, dict) and all(isinstance(value, str) for value in found.values())):
        return found or {}
    problems.add(f"{problems.path}: __metadata__", "an object with text values", told(found))
    return {}


def _entry(fields: object) -> Entry:
    """One tensor's entry; ValueError where it says something impossible."""
    if not isinstance(fields, dict):
        raise ValueError(f"expected an object, found {told(fields)}")
    for field in ("dtype", "shape", "data_offsets"):
        if field not in fields:
            raise ValueError(f"has no {field}")
    known = _DTYPES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if known is None:
        raise ValueError(f"unknown dtype {told(fields['dtype'])}")
    dtype, bits = known
    shape, offsets = fields["shape"], fields["data_offsets"]
    if not _are_counts(shape):
        raise ValueError(f"shape: expected integers from 0 to 2^63 - 1, found {told(shape)}")
    if len(shape) > _HIGHEST_RANK:
        raise ValueError(f"shape: expected at most {_HIGHEST_RANK} dimensions, found {len(shape)}")
    elements = math.prod(shape)
    # The library multiplies from the left and refuses [2^62, 2^62, 0] as an overflow: zeros are left out here.
    if (elements or math.prod(size for size in shape if size)) > _LARGEST_NUMBER:
        raise ValueError(f"shape: {told(shape)} overflows")
    if not (_are_counts(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise ValueError(f"data_offsets: expected two integers in order, found {told(offsets)}")
    bits *= elements
    if bits % 8:
        raise ValueError(f"{dtype.name} {told(shape)} is not a whole number of bytes")
    if bits // 8 != offsets[1] - offsets[0]:
        raise ValueError(
            f"{dtype.name} {told(shape)} takes {bits // 8:,} bytes, data_offsets {told(offsets)} give "
            f"{offsets[1] - offsets[0]:,}"
        )
    return offsets[0], offsets[1], dtype, tuple(shape)


def _are_counts(numbers: object) -> bool:
    if not isinstance(numbers, list):
        return False
    for number in numbers:  # noqa: SIM110 - all() of a generator takes twice as long, and there are 200,000 of these
        # type() and not isinstance(): True is an int, and 1.0 equals one.
        if type(number) is not int or not 0 <= number <= _LARGEST_NUMBER:
            return False
    return True


def _check_layout(path: str, entries: list[tuple[str, Entry]], size: int) -> None:
    """Raises unless the tensors, in the order of their offsets, fill `size` bytes without overlap or hole."""
    problems = _Problems(path)
    end, before = 0, ""
    for name, (start, stop, _, _) in entries:
        if start != end:
            what = "overlaps" if start < end else f"a hole of {start - end:,} bytes after"
            found = f"byte {start:,}: {what} {f'tensor {told(before)}' if end else 'the header'}"
            problems.add(f"{path}: tensor {told(name)}", f"data from byte {end:,}", found, _AGAIN)
        end, before = max(end, stop), name
    if end > size:
        problems.add(path, f"{end:,} bytes of data", f"{size:,}: the file is cut off", _AGAIN)
    elif end < size:
        problems.add(path, f"{end:,} bytes of data", f"{size - end:,} more after the last tensor", _AGAIN)
    problems.check()


class _Problems:
    """Gathers what is wrong with one file: the first few are reported, some more are counted, then reading stops."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._told: list[Problem] = []
        self._more = 0

    def add(self, where: str, expected: str, found: str, mend: str = "") -> None:
        """Keeps or counts a problem.

        Raises:
            CheckpointError: there are so many that the rest does not matter.
        """
        if len(self._told) < _SHOWN:
            self._told.append(Problem(where, expected, found, mend))
            return
        self._more += 1
        if self._more == _COUNTED:
            found = f"{_COUNTED:,} more tensors have problems; the rest was not checked"
            raise CheckpointError([*self._told, Problem(self.path, "", found)])

    def check(self) -> None:
        """Raises all of them, if there are any."""
        if self._more:
            self._told.append(Problem(self.path, "", f"{self._more:,} more tensors have problems"))
        if self._told:
            raise CheckpointError(self._told)
