"""A model directory whose headers were read and checked, and the fingerprints of its files."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import xxhash

from sdmw.checkpoints.tensor import TensorInfo
from sdmw.errors import Problem, quoted
from sdmw.sizes import shown


def size_change(was: int, now: int) -> str:
    """How a file's size differs, of two numbers of bytes: "was 5.00 GB at the start, is 2.10 GB now"."""
    before, after = shown(was), shown(now)
    if before == after:
        before, after = f"{was:,} bytes", f"{now:,} bytes"
    return f"was {before} at the start, is {after} now"


@dataclass(frozen=True, slots=True)
class Shard:
    """The fingerprint of one input file: what must still hold whenever its data are trusted.

    Attributes:
        path: of the file, absolute.
        size: in bytes.
        mtime_ns: last change of its data, nanoseconds since 1970.
        ctime_ns: last change of data or inode, nanoseconds since 1970; a writer cannot set it back.
        inode: its number.
        header_hash: XXH3-128 of the JSON header (with its padding, without the length before it), in hex. No signature.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    header_hash: str

    @classmethod
    def of(cls, path: str, status: os.stat_result, header: bytes) -> "Shard":
        """The fingerprint of a file from the `fstat` of the descriptor through which its header was read."""
        return cls(
            path,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
            xxhash.xxh3_128_hexdigest(header),
        )

    def changed(self) -> str | None:
        """What differs between this fingerprint and the file as it is now; None where nothing does.

        The header is not read again: whoever rewrites it changes the ctime.
        """
        try:
            now = os.stat(self.path)
        except OSError as error:
            return "is gone" if isinstance(error, FileNotFoundError) else f"cannot be looked at: {error.strerror}"
        if now.st_size != self.size:
            return size_change(self.size, now.st_size)
        if now.st_ino != self.inode:
            return "was replaced"
        if (now.st_mtime_ns, now.st_ctime_ns) != (self.mtime_ns, self.ctime_ns):
            return "was modified"
        return None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model directory as its headers and config tell it; no file is open, so it pickles.

    Attributes:
        path: of the directory, absolute.
        shards: fingerprints of the files that hold its tensors, by file name.
        tensors: by name, in the order of shard name, then offset. Not to be changed.
        config: config.json, parsed; None only where a format has none.
        warnings: what is odd but harmless, one sentence each.
        adapts: what an adapter was trained on, as it says, perhaps empty; None for a model that stands alone.
    """

    path: str
    shards: tuple[Shard, ...]
    tensors: Mapping[str, TensorInfo]
    config: Mapping[str, Any] | None
    warnings: tuple[str, ...] = field(default=())
    adapts: str | None = None


def input_folders(checkpoints: Iterable[Checkpoint]) -> list[str]:
    """Every folder that an input lies in: its own, and those that its shards are links into."""
    folders: dict[str, None] = {}
    for checkpoint in checkpoints:
        folders[checkpoint.path] = None
        folders |= dict.fromkeys(os.path.dirname(os.path.realpath(shard.path)) for shard in checkpoint.shards)
    return list(folders)


def unmergeable(checkpoint: Checkpoint) -> list[Problem]:
    """The tensors whose dtype can be neither merged nor copied (small floats, complex), one problem each."""
    return [
        Problem(
            f"{tensor.file}: tensor {quoted(name)}",
            "a dtype that is merged (F32, F16, BF16) or copied (integers, BOOL, F64)",
            tensor.dtype.name,
            "Convert the checkpoint to BF16 first",
        )
        for name, tensor in checkpoint.tensors.items()
        if not (tensor.dtype.merges or tensor.dtype.copies)
    ]
