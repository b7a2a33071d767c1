"""The arrays of a delta archive: written by whole shards as they come, read in order and never believed."""

import os
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmw.archives.archive import MEND, Archive, ArchivedTensor, believed
from sdmw.errors import ArchiveError, Problem, quoted
from sdmw.linux import write_failed
from sdmw.storage.files import open_file, read_bounded, read_exactly

BLOCK = 1 << 16  # elements whose places are told from its beginning; so a gap fits into 16 bits
CHUNK = 1 << 17  # entries that are compressed together
SHARD = 1 << 22  # entries in a file, which is written at once
ITEMSIZES = (1, 2, 4, 8)
_MOST_METADATA = 1 << 16  # bytes of the metadata of an array
_INDEX_ENTRY = struct.Struct("<QQ")  # of a shard: offset, bytes; then a CRC-32C of them all
_BLOSC = struct.Struct("<4xIII")  # bytes in all, bytes in a block, bytes compressed

Words = NDArray[Any]  # unsigned integers


def xor_name(itemsize: int) -> str:
    """The array of the differing bits of elements of a size."""
    return f"xor{8 * itemsize}"


def _dtypes() -> dict[str, str]:
    return {"counts": "<u4", "gaps": "<u2", **{xor_name(itemsize): f"<u{itemsize}" for itemsize in ITEMSIZES}}


class ArchiveWriter:
    """Writes the arrays of an archive into a directory, in bounded memory."""

    def __init__(self, path: str) -> None:
        import zarr

        self._path = path
        self._group = zarr.create_group(store=path, zarr_format=3)
        self._arrays = {name: _Growing(_made(self._group, name, dtype)) for name, dtype in _dtypes().items()}

    def add(self, elements: int, places: NDArray[np.int64], xor: Words) -> None:
        """Take the next run of a tensor; all runs but its last are of whole blocks.

        Args:
            elements: of the run.
            places: of those that are kept, rising.
            xor: their bits on one side exclusive-or those on the other.

        Raises:
            OutputError: they cannot be written.
        """
        counts = np.bincount(places // BLOCK, minlength=-(-elements // BLOCK))
        try:
            for name, values in (("counts", counts), ("gaps", _gaps(places, counts)), (xor_name(xor.itemsize), xor)):
                self._arrays[name].append(values)
        except OSError as error:
            raise write_failed(self._path, error, xor.nbytes) from error

    def close(self, archive: Archive) -> None:
        """Write what is left, and the attributes.

        Raises:
            OutputError: they cannot be written.
        """
        try:
            for array in self._arrays.values():
                array.flush()
            self._group.update_attributes(archive.attributes())
        except OSError as error:
            raise write_failed(self._path, error, SHARD) from error


class ArchiveReader:
    """Reads the arrays of an archive once, in order."""

    def __init__(self, archive: Archive) -> None:
        self._path = archive.path
        lengths = dict.fromkeys(_dtypes(), 0)
        for tensor in archive.tensors:
            lengths["counts"] += -(-tensor.elements // BLOCK)
            lengths["gaps"] += tensor.kept
            lengths[xor_name(tensor.dtype.itemsize)] += tensor.kept
        self._arrays = {name: _Stream(archive.path, name, length) for name, length in lengths.items()}

    def take(self, tensor: ArchivedTensor, elements: int) -> tuple[NDArray[np.int64], Words]:
        """The next run of a tensor, cut as for `ArchiveWriter.add`: places, rising, and bits.

        Raises:
            ArchiveError: the archive is damaged.
        """
        counts = self._arrays["counts"].take(-(-elements // BLOCK)).astype(np.int64)
        sizes = np.minimum(BLOCK, elements - BLOCK * np.arange(counts.size))
        if (counts > sizes).any():
            raise self._damaged("counts", tensor, "more elements kept than a block has")
        kept = int(counts.sum())
        places, last = _places(self._arrays["gaps"].take(kept), counts)
        if (last >= sizes).any():
            raise self._damaged("gaps", tensor, "a place beyond the end of a block")
        return places, self._arrays[xor_name(tensor.dtype.itemsize)].take(kept)

    def _damaged(self, array: str, tensor: ArchivedTensor, found: str) -> ArchiveError:
        return ArchiveError([Problem(f"{self._path}/{array}: tensor {quoted(tensor.name)}", "", found, MEND)])


def _gaps(places: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many elements are passed over before each place, since the one before it in its block."""
    gaps = np.diff(places, prepend=-1) - 1
    first = (np.cumsum(counts) - counts)[counts > 0]
    gaps[first] = places[first] % BLOCK
    return gaps


def _places(gaps: Words, counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places, and the last one in each block, counted from its beginning; −1 where it has none."""
    run = np.concatenate([[0], np.cumsum(gaps.astype(np.int64) + 1)])
    ends = np.cumsum(counts)
    before = run[ends - counts]
    starts = BLOCK * np.arange(counts.size) - before - 1
    return run[1:] + np.repeat(starts, counts), run[ends] - before - 1


class _Growing:
    """An array that is written by whole shards."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._buffer = np.empty(SHARD, array.dtype)
        self._held = self._written = 0

    def append(self, values: NDArray[Any]) -> None:
        while values.size:
            part = values[: SHARD - self._held]
            self._buffer[self._held : self._held + part.size] = part
            self._held += part.size
            values = values[part.size :]
            if self._held == SHARD:
                self.flush()

    def flush(self) -> None:
        start, stop = self._written, self._written + self._held
        if stop > start:
            self._array.resize((stop,))
            self._array[start:stop] = self._buffer[: self._held]
        self._written, self._held = stop, 0


class _Stream:
    """An array of an archive, read by shards; each is looked at before zarr and its codecs get it."""

    def __init__(self, path: str, name: str, length: int) -> None:
        import zarr

        self._folder = os.path.join(path, name)
        with believed(self._folder):
            read_bounded(self._folder, "zarr.json", _MOST_METADATA)
            self._array: Any = zarr.open_array(self._folder, mode="r", zarr_format=3)
            self._check_metadata(name, length)
        self._held = np.empty(0, self._array.dtype)
        self._read = 0

    def take(self, count: int) -> Words:
        """The next entries; fewer are never left."""
        parts = []
        while count > self._held.size:
            parts.append(self._held)
            count -= self._held.size
            self._held = self._shard()
        parts.append(self._held[:count])
        self._held = self._held[count:]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _shard(self) -> Words:
        start, stop = self._read, min(self._read + SHARD, self._array.shape[0])
        file = f"c/{start // SHARD}"
        with believed(os.path.join(self._folder, file)):
            if start == stop:
                raise ValueError("fewer entries than the counts of blocks add up to")
            self._check_shard(file, -(-(stop - start) // CHUNK))
            held: Words = np.asarray(self._array[start:stop])
        self._read = stop
        return held

    def _check_metadata(self, name: str, length: int) -> None:
        """Exactly what this version writes: no other codec, dtype or size of chunk is ever run."""
        import zarr

        group = zarr.create_group(store=zarr.storage.MemoryStore(), zarr_format=3)
        wanted, found = (_bare(array) for array in (_made(group, name, _dtypes()[name]), self._array))
        if found != wanted:
            raise ValueError("an array of other dtype, chunks or codecs")
        if self._array.shape != (length,):
            raise ValueError(f"{self._array.shape} entries where the tensors have {length:,}")

    def _check_shard(self, file: str, chunks: int) -> None:
        """That a shard has its chunks, and that each unpacks to its size: a few bytes could claim gigabytes.

        Source: zarr v3, sharding codec 1.0, "Binary shard format"; C-Blosc 1, README_CHUNK_FORMAT.
        """
        fd, status = open_file(self._folder, file)
        try:
            size = SHARD // CHUNK * _INDEX_ENTRY.size + 4
            index = read_exactly(fd, size, status.st_size - size) if status.st_size > size else b""
            if len(index) != size:
                raise ValueError("a file that was cut off")
            for offset, nbytes in list(_INDEX_ENTRY.iter_unpack(index[:-4]))[:chunks]:
                if nbytes < 16 or offset + nbytes > status.st_size:
                    raise ValueError("chunks that are not in the file")
                unpacked, _, packed = _BLOSC.unpack(read_exactly(fd, _BLOSC.size, offset))
                if (unpacked, packed) != (CHUNK * self._array.dtype.itemsize, nbytes):
                    raise ValueError("a chunk of another size")
        finally:
            os.close(fd)


def _made(group: Any, name: str, dtype: str) -> Any:
    """An empty array of an archive. Bits of gaps and bytes of words are sorted by their place: both are mostly zero."""
    from zarr.codecs import BloscCodec

    codec = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle" if name == "gaps" else "shuffle")
    return group.create_array(
        name, shape=(0,), dtype=dtype, chunks=(CHUNK,), shards=(SHARD,), compressors=codec, filters=None, fill_value=0,
        config={"write_empty_chunks": True},
    )  # fmt: skip


def _bare(array: Any) -> dict[str, Any]:
    """What an array is, whatever its length."""
    metadata: dict[str, Any] = array.metadata.to_dict()
    return {key: value for key, value in metadata.items() if key not in ("shape", "attributes")}
