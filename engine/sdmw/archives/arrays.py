"""The arrays of a delta archive: written chunk by chunk as they come, read in order and never believed."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from sdmw.archives import runs, shards
from sdmw.archives.archive import MEND, Archive, ArchivedTensor, believed
from sdmw.archives.group import Chunk, GroupWriter
from sdmw.archives.runs import Run
from sdmw.archives.shards import ArrayReader, ArrayWriter, Shuffle
from sdmw.errors import ArchiveError, Problem, quoted
from sdmw.storage.files import read_bounded
from sdmw.tensors.staging import staging

ITEMSIZES = (1, 2, 4, 8)
_MOST_METADATA = 1 << 16  # bytes of the metadata of an array


def xor_name(itemsize: int) -> str:
    """The array of the differing bits of elements of a size."""
    return f"xor{8 * itemsize}"


def shuffle_of(name: str) -> Shuffle:
    """How an array is shuffled. Bits of gaps and bytes of words are sorted by their place: both are mostly zero."""
    return "bitshuffle" if name == "gaps" else "shuffle"


def _dtypes() -> dict[str, str]:
    return {"counts": "<u4", "gaps": "<u2", **{xor_name(itemsize): f"<u{itemsize}" for itemsize in ITEMSIZES}}


FOLDERS = (*_dtypes(), "files")  # all that an archive has beside its attributes


class ArchiveWriter(GroupWriter):
    """Writes the arrays of an archive into a directory."""

    def __init__(self, path: str) -> None:
        import zarr

        self._group = zarr.create_group(store=path, zarr_format=3)
        self._zarr = {name: _made(self._group, name, dtype) for name, dtype in _dtypes().items()}
        super().__init__(
            path, {name: ArrayWriter(os.path.join(path, name), dtype) for name, dtype in _dtypes().items()}
        )

    def add(self, run: Run) -> Iterator[Chunk]:
        """Take the next run of a tensor; all runs but its last are of whole blocks. Gives the chunks that are full."""
        for name, values in (("counts", run.counts), ("gaps", run.gaps), (xor_name(run.xor.itemsize), run.xor)):
            yield from self.append(name, values)

    def close(self, archive: Archive) -> None:
        """Write what is left, and the attributes, when all chunks are stored.

        Raises:
            OutputError: they cannot be written.
        """
        with self.closing():
            for name, array in self.arrays.items():
                if array.length:
                    self._zarr[name].resize((array.length,))
            self._group.update_attributes(archive.attributes())


class ArchiveReader:
    """Reads the arrays of an archive once, in order."""

    def __init__(self, archive: Archive) -> None:
        self._path = archive.path
        lengths = dict.fromkeys(_dtypes(), 0)
        for tensor in archive.tensors:
            lengths["counts"] += runs.blocks(tensor.elements)
            lengths["gaps"] += tensor.kept
            lengths[xor_name(tensor.dtype.itemsize)] += tensor.kept
        self._arrays = {name: _opened(archive.path, name, length) for name, length in lengths.items()}

    def take(self, tensor: ArchivedTensor, elements: int) -> Run:
        """The next run of a tensor, cut as for `ArchiveWriter.add`.

        Raises:
            ArchiveError: the archive is damaged.
        """
        counts = self._arrays["counts"].take(np.empty(runs.blocks(elements), np.uint32))
        sizes = np.minimum(runs.BLOCK, elements - runs.BLOCK * np.arange(counts.size))
        if (counts > sizes).any():
            where = f"{self._path}/counts: tensor {quoted(tensor.name)}"
            raise ArchiveError([Problem(where, "", "more elements kept than a block has", MEND)])
        kept = int(counts.sum())
        gaps = self._arrays["gaps"].take(staging.array(0, kept * 2).view("<u2"))
        itemsize = tensor.dtype.itemsize
        xor = self._arrays[xor_name(itemsize)].take(staging.array(0, kept * itemsize).view(f"<u{itemsize}"))
        return Run(counts, gaps, xor)


def _opened(path: str, name: str, length: int) -> ArrayReader:
    """An array of so many entries, exactly as this version writes it: no other codec, dtype or size of chunk is run."""
    import zarr

    folder, dtype = os.path.join(path, name), _dtypes()[name]
    with believed(folder):
        read_bounded(folder, "zarr.json", _MOST_METADATA)
        array = zarr.open_array(folder, mode="r", zarr_format=3)
        group = zarr.create_group(store=zarr.storage.MemoryStore(), zarr_format=3)
        if _bare(array) != _bare(_made(group, name, dtype)):
            raise ValueError("an array of other dtype, chunks or codecs")
        if array.shape != (length,):
            raise ValueError(f"{array.shape} entries, but the tensors have {length:,}")
    return ArrayReader(folder, length, dtype, shuffle_of(name))


def _made(group: Any, name: str, dtype: str) -> Any:
    """An empty array of an archive."""
    from zarr.codecs import BloscCodec

    codec = BloscCodec(cname="zstd", clevel=shards.LEVEL, shuffle=shuffle_of(name))
    return group.create_array(
        name, shape=(0,), dtype=dtype, chunks=(shards.CHUNK,), shards=(shards.SHARD,), compressors=codec, filters=None,
        fill_value=0,
    )  # fmt: skip


def _bare(array: Any) -> dict[str, Any]:
    """What an array is, whatever its length."""
    metadata: dict[str, Any] = array.metadata.to_dict()
    return {key: value for key, value in metadata.items() if key not in ("shape", "attributes")}
