"""One safetensors file: its header, parsed and checked for all that the format promises.

Source: the format, https://github.com/huggingface/safetensors#format, and what the library (0.8) makes of it. Whatever
is accepted here the library accepts too; several things that it accepts (a key twice, entries as lists) are not.
"""

import math
import os
from dataclasses import dataclass
from typing import Any

from sdmw.checkpoints.checkpoint import Shard
from sdmw.checkpoints.formats._files import open_file, read_exactly
from sdmw.checkpoints.formats._json import most_values, parse, told
from sdmw.checkpoints.tensor import DType, TensorInfo
from sdmw.errors import CheckpointError, Problem, quoted

LARGEST_HEADER = 100_000_000  # bytes; the format's own limit
_LARGEST_NUMBER = 2**63 - 1  # of a dimension, an offset, a count of elements: what file offsets can hold
_HIGHEST_RANK = 64
_SHOWN = 10  # problems of one file; a hostile header can have 100,000
_FIELDS = frozenset(("dtype", "shape", "data_offsets"))
_DTYPES = {dtype.name: (dtype, dtype.bits) for dtype in DType}
_AGAIN = "The file is damaged: copy or download it again"

Entry = tuple[int, int, DType, tuple[int, ...]]  # first byte and end in the data, dtype, shape


@dataclass(frozen=True, slots=True)
class Header:
    """What one file holds.

    Attributes:
        shard: the file's fingerprint.
        tensors: in the order of their offsets.
        warnings: what is odd but harmless.
    """

    shard: Shard
    tensors: tuple[TensorInfo, ...]
    warnings: tuple[str, ...]


def read_header(directory: str, name: str, header_limit: int) -> Header:
    """Reads and checks the header of one file of a checkpoint; no tensor data.

    Args:
        directory: the checkpoint, absolute.
        name: of the file in it.
        header_limit: bytes that the header may have.

    Raises:
        CheckpointError: with all that is wrong with this file, at most ten tensors of it.
    """
    path = os.path.join(directory, name)
    fd, status = open_file(directory, name)
    try:
        raw = _raw_header(fd, status.st_size, path, min(header_limit, LARGEST_HEADER))
    except OSError as error:
        raise CheckpointError([Problem(path, "", f"cannot be read: {error.strerror}")]) from None
    finally:
        os.close(fd)
    entries, warnings = _entries(path, _parsed(path, raw, header_limit))
    data = 8 + len(raw)
    _check_layout(path, entries, status.st_size - data)
    tensors = tuple(TensorInfo(tensor, dtype, shape, path, data + a) for tensor, (a, _, dtype, shape) in entries)
    return Header(Shard.of(path, status, raw), tensors, tuple(warnings))


def _raw_header(fd: int, size: int, path: str, limit: int) -> bytes:
    start = read_exactly(fd, 8, 0)
    if start == b"version ":
        mend = "Run `git lfs pull` in the repository"
        raise CheckpointError([Problem(path, "a safetensors file", "a Git LFS pointer to one", mend)])
    if len(start) < 8:
        raise CheckpointError([Problem(path, "a safetensors file", f"only {size} bytes", _AGAIN)])
    length = int.from_bytes(start, "little")
    if length > size - 8:
        found = f"{length:,} bytes of header announced in a file of {size:,} bytes"
        raise CheckpointError([Problem(path, "a safetensors file", found, _AGAIN)])
    if length > limit:
        mend = "If you trust the file, raise the header limit" if length <= LARGEST_HEADER else ""
        raise CheckpointError([Problem(path, f"a header of at most {limit:,} bytes", f"{length:,} bytes", mend)])
    raw = read_exactly(fd, length, 8)
    if len(raw) < length:
        raise CheckpointError([Problem(path, "", "the file became shorter while its header was read")])
    return raw


def _parsed(path: str, raw: bytes, header_limit: int) -> dict[str, Any]:
    # Counted before parsing: what is parsed takes up to twenty times the memory of its text. Real entries take over 100
    # bytes and, with their shape, some 8 values.
    tensors = raw.count(b'"data_offsets"')
    most = min(12 * tensors + 100_000, header_limit // 16)
    if tensors > header_limit // 100 or most_values(raw) > most:
        found = f"up to {most_values(raw):,} JSON values in {len(raw):,} bytes, {tensors:,} tensors"
        expected = f"a header of at most {header_limit // 100:,} tensors and {most:,} JSON values"
        raise CheckpointError([Problem(path, expected, found, "If you trust the file, raise the header limit")])
    try:
        header = parse(raw)
    except ValueError as error:
        raise CheckpointError([Problem(path, "", f"the header cannot be used: {error}", _AGAIN)]) from None
    if not isinstance(header, dict):
        raise CheckpointError([Problem(path, "a header that is a JSON object", type(header).__name__)])
    return header


def _entries(path: str, header: dict[str, Any]) -> tuple[list[tuple[str, Entry]], list[str]]:
    """The tensors by offset, and warnings."""
    problems = []
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        problems.append(Problem(f"{path}: __metadata__", "an object of texts", told(metadata)))
    entries, extra = [], []
    for name, fields in header.items():
        try:
            entries.append((name, _entry(fields)))
        except ValueError as error:
            problems.append(Problem(f"{path}: tensor {quoted(name)}", "", str(error), _AGAIN))
        else:
            if len(fields) > len(_FIELDS):
                extra.append(name)
    _raise_first(path, problems)
    warnings = []
    if extra:
        unknown = sorted(set(header[extra[0]]) - _FIELDS)
        warnings.append(
            f"{path}: {len(extra)} tensors have fields that the format does not know, such as "
            f"{quoted(unknown[0])} of {quoted(extra[0])}; they are ignored"
        )
    entries.sort(key=lambda item: (item[1][0], item[1][1], item[0]))
    return entries, warnings


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
        raise ValueError(f"{dtype.name} {told(shape)} does not end at a whole byte")
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
    problems = []
    end, before = 0, ""
    for name, (start, stop, _, _) in entries:
        if start != end:
            what = "overlaps" if start < end else f"a hole of {start - end:,} bytes after"
            found = f"byte {start:,}: {what} {f'tensor {quoted(before)}' if end else 'the header'}"
            where = f"{path}: tensor {quoted(name)}"
            problems.append(Problem(where, f"data from byte {end:,}", found, _AGAIN))
        end, before = max(end, stop), name
    if end > size:
        problems.append(Problem(path, f"{end:,} bytes of data", f"{size:,}: the file is cut off", _AGAIN))
    elif end < size:
        problems.append(Problem(path, f"{end:,} bytes of data", f"{size - end:,} more after the last tensor", _AGAIN))
    _raise_first(path, problems)


def _raise_first(path: str, problems: list[Problem]) -> None:
    if more := problems[_SHOWN:]:
        problems = [*problems[:_SHOWN], Problem(path, "", f"{len(more):,} more tensors have problems")]
    if problems:
        raise CheckpointError(problems)
