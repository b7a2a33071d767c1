"""One array of an archive as files: chunks, compressed one by one, in shards that end with an index.

zarr writes and reads the same files, a shard at a time: several times its bytes in memory, in threads of its own. Here
they go chunk by chunk, so memory is a chunk an array, and the caller decides which thread compresses. A few bytes of
a damaged file could claim gigabytes: every size is looked at before it is used.

Source: zarr v3, sharding codec 1.0, "Binary shard format"; C-Blosc 1, README_CHUNK_FORMAT.
"""

import os
import struct
from contextlib import suppress
from typing import IO, Any, Literal

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from sdmw.archives.archive import believed
from sdmw.archives.runs import Words
from sdmw.storage.files import open_file, read_exactly

Shuffle = Literal["shuffle", "bitshuffle"]  # what is sorted by its place before compression: bytes, or bits

CHUNK = 1 << 17  # entries that are compressed together
SHARD = 1 << 22  # entries in a file
LEVEL = 3  # of zstd
_ENTRY = struct.Struct("<QQ")  # of a shard's index: offset, bytes; then a CRC-32C of them all
_NO_CHUNK = _ENTRY.pack(2**64 - 1, 2**64 - 1)
_BLOSC = struct.Struct("<4xIII")  # bytes in all, bytes in a block, bytes compressed


def compressed(chunk: Words, shuffle: Shuffle) -> bytes:
    """A whole chunk as it lies in a shard."""
    return bytes(_codec(shuffle).encode(chunk))


def entries(row: int) -> int:
    """How many entries of an array are compressed together, whose rows behind the first axis have so many."""
    return max(1, CHUNK // row) * row


def _place(number: int, axes: int) -> str:
    """Of a shard in its array's folder: all shards lie along the first axis."""
    return "/".join(("c", str(number), *"0" * (axes - 1)))


class ArrayWriter:
    """Cuts an array into chunks, and writes them once they are compressed.

    `row` is how many entries a place on the first of its `axes` has.
    """

    def __init__(self, folder: str, dtype: str, row: int = 1, axes: int = 1) -> None:
        self.length = 0
        self._folder, self._dtype, self._axes = folder, dtype, axes
        self._entries = entries(row)
        self._chunk, self._held = np.empty(0, dtype), 0
        self._file: IO[bytes] | None = None
        self._shards, self._index = 0, b""

    def append(self, values: NDArray[Any]) -> list[Words]:
        """Take entries; returns the chunks that are full now, which nobody else holds."""
        full = []
        self.length += values.size
        while values.size:
            if not self._chunk.size:
                self._chunk = np.empty(self._entries, self._dtype)
            part = values[: self._entries - self._held]
            self._chunk[self._held : self._held + part.size] = part
            self._held += part.size
            values = values[part.size :]
            if self._held == self._entries:
                full += self.rest()
        return full

    def rest(self) -> list[Words]:
        """The chunk that is begun, filled up with zeros; none where none is."""
        chunk, held = self._chunk, self._held
        self._chunk, self._held = np.empty(0, self._dtype), 0
        chunk[held:] = 0
        return [chunk] if held else []

    def store(self, data: bytes) -> None:
        """Write the next chunk, compressed; OSError as the file system says."""
        if self._file is None:
            path = os.path.join(self._folder, _place(self._shards, self._axes))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._file = open(path, "wb")  # noqa: SIM115  closed when the shard is full, or by `close`
        self._index += _ENTRY.pack(self._file.tell(), len(data))
        self._file.write(data)
        if len(self._index) == SHARD // CHUNK * _ENTRY.size:
            self.finish_shard()

    def finish_shard(self) -> None:
        """Write the index of the shard that is begun, if one is; OSError as the file system says."""
        if file := self._file:
            index = self._index + _NO_CHUNK * (SHARD // CHUNK - len(self._index) // _ENTRY.size)
            file.write(index + google_crc32c.value(index).to_bytes(4, "little"))
            self._file, self._shards, self._index = None, self._shards + 1, b""
            file.close()

    def close(self) -> None:
        """Close the file that is open, whatever is missing in it."""
        if self._file:
            with suppress(OSError):  # a failed write was reported before, or the file is not wanted any more
                self._file.close()


class ArrayReader:
    """Reads the entries of an array in order, from any of them on; nothing stays open between chunks."""

    def __init__(self, folder: str, length: int, dtype: str, shuffle: Shuffle, row: int = 1, axes: int = 1) -> None:
        self._folder, self._length, self._shuffle = folder, length, shuffle
        self._entries, self._axes = entries(row), axes
        self._last = self._chunk = np.empty(0, dtype)  # the chunk that was read last, and what of it is not taken yet
        self._number, self._held = 0, -1  # of the next chunk, and of the last one
        self._shard = -1  # whose index is held
        self._index: list[tuple[int, int]] = []

    def seek(self, entry: int) -> None:
        """Go on with an entry, the first being 0. Chunks before its own are not read.

        Raises:
            ArchiveError: there is none, or the archive is damaged.
        """
        number, before = divmod(entry, self._entries)
        if number == self._held and before <= self._last.size:
            self._number, self._chunk = number + 1, self._last[before:]
            return
        self._number, self._chunk = number, self._chunk[:0]
        if before:
            self._chunk = self._next()[before:]

    def take(self, out: Words) -> Words:
        """The next entries, as many as `out` holds; they are written to it.

        Raises:
            ArchiveError: there are fewer, or the archive is damaged.
        """
        filled = 0
        while filled < out.size:
            if not self._chunk.size:
                self._chunk = self._next()
            part = self._chunk[: out.size - filled]
            out[filled : filled + part.size] = part
            self._chunk = self._chunk[part.size :]
            filled += part.size
        return out

    def _next(self) -> Words:
        shard, place = divmod(self._number, SHARD // CHUNK)
        name = _place(shard, self._axes)
        with believed(os.path.join(self._folder, name)):
            left = self._length - self._number * self._entries
            if left <= 0:
                raise ValueError("fewer entries than the counts of blocks add up to")
            fd, status = open_file(self._folder, name)
            try:
                if shard != self._shard:
                    chunks = min(SHARD // CHUNK, place - -left // self._entries)
                    self._index, self._shard = _index(fd, status.st_size, chunks), shard
                packed = _chunk(fd, self._index[place], self._entries * self._chunk.itemsize)
            finally:
                os.close(fd)
            chunk = np.empty(self._entries, self._chunk.dtype)
            _codec(self._shuffle).decode(packed, chunk)
        self._last, self._held = chunk[:left], self._number
        self._number += 1
        return self._last


def _index(fd: int, size: int, chunks: int) -> list[tuple[int, int]]:
    """Where the chunks of a shard lie in a file of a size."""
    length = SHARD // CHUNK * _ENTRY.size + 4
    index = read_exactly(fd, length, size - length) if size > length else b""
    if len(index) != length:
        raise ValueError("a file that was cut off")
    if google_crc32c.value(index[:-4]).to_bytes(4, "little") != index[-4:]:
        raise ValueError("an index with another checksum")
    found = list(_ENTRY.iter_unpack(index[:-4]))[:chunks]
    if any(nbytes < _BLOSC.size or offset + nbytes > size for offset, nbytes in found):
        raise ValueError("chunks that are not in the file")
    return found


def _chunk(fd: int, entry: tuple[int, int], size: int) -> bytes:
    """A chunk that unpacks to a size."""
    offset, nbytes = entry
    unpacked, _, packed = _BLOSC.unpack(read_exactly(fd, _BLOSC.size, offset))
    if (unpacked, packed) != (size, nbytes):
        raise ValueError("a chunk of another size")
    if nbytes > size + _BLOSC.size:  # Blosc stores what does not shrink
        raise ValueError("a chunk that is larger than its content")
    return read_exactly(fd, nbytes, offset)


def _codec(shuffle: Shuffle) -> Any:
    from numcodecs import blosc

    return blosc.Blosc("zstd", LEVEL, {"shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}[shuffle])
