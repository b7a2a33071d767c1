"""Writes a store, chunk by chunk, in bounded memory."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sdmw.archives.shards import CHUNK, ArrayWriter
from sdmw.linux import write_failed
from sdmw.stores.forms import forms, made
from sdmw.stores.rows import Row

Chunk = tuple[str, NDArray[Any]]  # the array's name, its next entries


class StoreWriter:
    """Takes the tensors of a store in order. A context manager, for its open files.

    Chunks are handed out when they are full. They are compressed anywhere, and brought back in the same order.
    """

    def __init__(self, path: str, models: int) -> None:
        import zarr

        self._path, self._forms, self._end = path, forms(models), 0
        self._group = zarr.create_group(store=path, zarr_format=3)
        self._zarr = {name: made(self._group, name, form) for name, form in self._forms.items()}
        self._arrays = {
            name: ArrayWriter(os.path.join(path, name), form.dtype, form.size, len(form.dimensions))
            for name, form in self._forms.items()
        }

    def __enter__(self) -> Self:
        self._waiting = self._append({"offset": np.zeros(1, np.int64)})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for array in self._arrays.values():
            array.close()

    def add(self, elements: int, block: int | None, row: Row) -> list[Chunk]:
        """Take the next tensor. Gives the chunks that are full.

        Args:
            elements: of the tensor.
            block: the transformer block that it lies in; None for none.
            row: of all models of the store.
        """
        waiting, self._waiting = self._waiting, []
        ends = self._end + np.cumsum(row.sizes)
        self._end = int(ends[-1])
        numbers = {"elements": np.array([elements]), "block": np.array([-1 if block is None else block])}
        return waiting + self._append({**numbers, "offset": ends, **row.columns})

    def rest(self) -> Iterator[Chunk]:
        """The last chunk of each array, when all tensors are added."""
        for name, array in self._arrays.items():
            for chunk in array.rest():
                yield name, chunk

    def store(self, name: str, data: bytes) -> None:
        """Write the next chunk of an array, compressed.

        Raises:
            OutputError: it cannot be written.
        """
        with self._writing(len(data)):
            self._arrays[name].store(data)

    def close(self, attributes: Mapping[str, Any]) -> None:
        """Write what is left, and the attributes, when all chunks are stored.

        Raises:
            OutputError: they cannot be written.
        """
        import zarr

        with self._writing(CHUNK):
            for name, array in self._arrays.items():
                array.finish_shard()
                form = self._forms[name]
                if array.length:
                    self._zarr[name].resize((array.length // form.size, *form.row))
            self._group.update_attributes(dict(attributes))
            with warnings.catch_warnings():  # that other readers of zarr may not know it yet
                warnings.simplefilter("ignore")
                zarr.consolidate_metadata(self._path, zarr_format=3)

    def _append(self, parts: Mapping[str, NDArray[Any]]) -> list[Chunk]:
        found = []
        for name, values in parts.items():
            if name in self._arrays:
                flat = np.ascontiguousarray(values, self._forms[name].dtype).reshape(-1)
                found += [(name, chunk) for chunk in self._arrays[name].append(flat)]
        return found

    @contextmanager
    def _writing(self, size: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_failed(self._path, error, size) from error
