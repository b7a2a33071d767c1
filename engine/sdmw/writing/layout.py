"""Where every tensor of the output lies, known before the first byte is written."""

import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import xxhash

from sdmw.errors import PlanError, Problem, quoted
from sdmw.tensors.dtype import DType

LENGTH = 8  # bytes that tell the size of the header, and precede it
LONGEST_HEADER = 100_000_000  # bytes of JSON, blanks included: the format's own limit
MODEL, ADAPTER = "model", "adapter_model"  # stems of files: transformers' and peft's
DATA_ALIGNMENT = 4096  # the format asks for 8; O_DIRECT writes at multiples of the block size

_Wanted = tuple[str, DType, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor of the output lies.

    Attributes:
        name: the tensor's name.
        dtype: in which it is written.
        shape: elements along each axis; () is a scalar.
        shard: index of its shard.
        offset: of its first byte, from the beginning of the file.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    shard: int = 0
    offset: int = 0

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.elements * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """One shard of the output.

    Attributes:
        name: the file's name.
        header: the file's first bytes, complete: length, JSON, blanks.
        tensors: in the order of their data.
        size: of the whole file in bytes.
    """

    name: str
    header: bytes
    tensors: tuple[Place, ...]
    size: int

    @property
    def header_hash(self) -> str:
        """XXH3-128 of the header's JSON and blanks, in hex."""
        return xxhash.xxh3_128_hexdigest(self.header[LENGTH:])


def lay_out(tensors: Iterable[_Wanted], max_shard_size: int, stem: str = MODEL) -> tuple[ShardLayout, ...]:
    """Divides tensors among shards.

    They fill shards in the order given; a new shard starts where the next tensor would exceed the size, and a tensor
    larger than that has its own. Within a shard larger dtypes come first, then names, as safetensors itself writes
    them, so that each tensor is aligned to its elements.

    Args:
        tensors: name, dtype and shape of each; dtypes of whole bytes.
        max_shard_size: bytes of tensors in a shard, headers not counted (as transformers counts), at least 1.
        stem: of the files' names.

    Raises:
        PlanError: no tensors, a name that cannot stand in a header or stands twice, or a header beyond the format's
            limit.
    """
    wanted = tuple(tensors)
    if problems := [*_wrong_names(wanted)]:
        raise PlanError(problems)
    groups = list(_filled(wanted, max_shard_size))
    if len(groups) == 1:
        return (_shard(0, f"{stem}.safetensors", groups[0]),)
    return tuple(
        _shard(number, f"{stem}-{number + 1:05d}-of-{len(groups):05d}.safetensors", group)
        for number, group in enumerate(groups)
    )


def index_bytes(layouts: Sequence[ShardLayout]) -> bytes:
    """`model.safetensors.index.json`, which tells the shard of each tensor; `total_size` counts no headers."""
    tensors = [tensor for layout in layouts for tensor in layout.tensors]
    index = {
        "metadata": {
            "total_parameters": sum(tensor.elements for tensor in tensors),
            "total_size": sum(tensor.nbytes for tensor in tensors),
        },
        "weight_map": {tensor.name: layout.name for layout in layouts for tensor in layout.tensors},
    }
    return json.dumps(index, indent=2, sort_keys=True).encode() + b"\n"


def _wrong_names(wanted: Sequence[_Wanted]) -> Iterator[Problem]:
    if not wanted:
        yield Problem("output", "at least one tensor", "none")
    for name, count in Counter(name for name, _, _ in wanted).items():
        where = f"tensor {quoted(name)}"
        if count > 1:
            yield Problem(where, "one tensor of this name", str(count))
        if name == "__metadata__":
            yield Problem(where, "", "this name is reserved by the safetensors format")
        if not _encodes(name):
            yield Problem(where, "a name of Unicode characters", "a lone surrogate")


def _encodes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _filled(wanted: Sequence[_Wanted], max_shard_size: int) -> Iterator[list[Place]]:
    shard: list[Place] = []
    size = 0
    for name, dtype, shape in wanted:
        tensor = Place(name, dtype, shape)
        if shard and size + tensor.nbytes > max_shard_size:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.nbytes
    yield shard


def _shard(number: int, name: str, group: Sequence[Place]) -> ShardLayout:
    group = sorted(group, key=lambda tensor: (-tensor.dtype.bits, tensor.name))
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers 4 opens no file without it
    starts = []
    stop = 0
    for tensor in group:
        start, stop = stop, stop + tensor.nbytes
        starts.append(start)
        entries[tensor.name] = {"dtype": tensor.dtype.name, "shape": tensor.shape, "data_offsets": (start, stop)}
    header = _header(name, entries)
    placed = tuple(
        replace(tensor, shard=number, offset=len(header) + start) for tensor, start in zip(group, starts, strict=True)
    )
    return ShardLayout(name, header, placed, size=len(header) + stop)


def _header(shard: str, entries: dict[str, object]) -> bytes:
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    length = len(text) + -(len(text) + 8) % DATA_ALIGNMENT
    if length > LONGEST_HEADER:
        found = f"{length:,} for {len(entries) - 1:,} tensors"
        mend = "A smaller max_shard_size puts fewer tensors in a shard"
        raise PlanError([Problem(shard, f"a header of at most {LONGEST_HEADER:,} bytes", found, mend)])
    return struct.pack("<Q", length) + text.ljust(length)
