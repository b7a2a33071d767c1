"""Writes a store, chunk by chunk, in bounded memory."""

import os
import warnings
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sdmw.archives.group import Chunk, GroupWriter
from sdmw.archives.shards import ArrayWriter
from sdmw.stores.forms import forms, made
from sdmw.stores.rows import Row


class StoreWriter(GroupWriter):
    """Takes the tensors of a store in order."""

    def __init__(self, path: str, models: int) -> None:
        import zarr

        self._forms, self._end = forms(models), 0
        self._group = zarr.create_group(store=path, zarr_format=3)
        self._zarr = {name: made(self._group, name, form) for name, form in self._forms.items()}
        arrays = {
            name: ArrayWriter(os.path.join(path, name), form.dtype, form.size, len(form.dimensions))
            for name, form in self._forms.items()
        }
        super().__init__(path, arrays)

    def __enter__(self) -> Self:
        self._waiting = self._append({"offset": np.zeros(1, np.int64)})
        return self

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

    def close(self, attributes: Mapping[str, Any]) -> None:
        """Write what is left, and the attributes, when all chunks are stored.

        Raises:
            OutputError: they cannot be written.
        """
        import zarr

        with self.closing():
            for name, array in self.arrays.items():
                form = self._forms[name]
                if array.length:
                    self._zarr[name].resize((array.length // form.size, *form.row))
            self._group.update_attributes(dict(attributes))
            with warnings.catch_warnings():  # that other readers of zarr may not know it yet
                warnings.simplefilter("ignore")
                zarr.consolidate_metadata(self.path, zarr_format=3)

    def _append(self, parts: Mapping[str, NDArray[Any]]) -> list[Chunk]:
        found = []
        for name, values in parts.items():
            if name in self.arrays:
                found += self.append(name, np.ascontiguousarray(values, self._forms[name].dtype).reshape(-1))
        return found
