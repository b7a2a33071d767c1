"""The arrays of one zarr group, written chunk by chunk in bounded memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from sdmw.archives.shards import CHUNK, ArrayWriter
from sdmw.linux import write_failed

Chunk = tuple[str, NDArray[Any]]  # the array's name, its next entries


class GroupWriter:
    """Hands out chunks when they are full. A context manager, for its open files.

    Chunks are compressed anywhere, and brought back in the same order.
    """

    def __init__(self, path: str, arrays: Mapping[str, ArrayWriter]) -> None:
        self.path, self.arrays = path, arrays

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for array in self.arrays.values():
            array.close()

    def append(self, name: str, values: NDArray[Any]) -> list[Chunk]:
        """Entries more of an array. Gives the chunks that are full."""
        return [(name, chunk) for chunk in self.arrays[name].append(values)]

    def rest(self) -> Iterator[Chunk]:
        """The last chunk of each array, when all entries are appended."""
        for name, array in self.arrays.items():
            for chunk in array.rest():
                yield name, chunk

    def store(self, name: str, data: bytes) -> None:
        """Write the next chunk of an array, compressed.

        Raises:
            OutputError: it cannot be written.
        """
        with self.failing(len(data)):
            self.arrays[name].store(data)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """What is left is written; within the block metadata are.

        Raises:
            OutputError: they cannot be written.
        """
        with self.failing(CHUNK):
            for array in self.arrays.values():
                array.finish_shard()
            yield

    @contextmanager
    def failing(self, size: int) -> Iterator[None]:
        """Makes an OutputError of what prevents so many bytes to be written."""
        try:
            yield
        except OSError as error:
            raise write_failed(self.path, error, size) from error
