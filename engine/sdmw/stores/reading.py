"""Reads the arrays of a store. Their metadata must be what this version writes, and numbers must fit together."""

import os
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmw.archives.shards import ArrayReader
from sdmw.kernels.bins import FIRST_NONFINITE_BIN, LOW
from sdmw.storage.files import read_bounded
from sdmw.stores.bins import StoredBins
from sdmw.stores.forms import ENTRIES, Form, forms, made
from sdmw.stores.rows import Row
from sdmw.stores.store import Store, trusted

_MOST_METADATA = 1 << 16  # bytes of the metadata of an array


class StoreReader:
    """Opens the arrays of a store as they are asked for."""

    def __init__(self, store: Store) -> None:
        self._store, self._forms = store, forms(len(store.models))
        self._entries: dict[str, ArrayReader] = {}
        self._at = 0  # the tensor that comes next in them

    def numbers(self, name: str) -> NDArray[Any]:
        """An array that has numbers for each tensor.

        Raises:
            StoreError: the store is damaged.
        """
        form, length = self._forms[name], len(self._store.tensors)
        return self._take(name, form, length).reshape(length, *form.row)

    def magnitudes(self, tensor: int) -> list[StoredBins]:
        """Of each model in a tensor; tensors that come one after the other are read once.

        Raises:
            StoreError: the store is damaged.
        """
        return self._bins(tensor, self._sought(tensor))

    def row(self, tensor: int) -> Row:
        """All that the store has of a tensor, as it is written.

        Raises:
            StoreError: the store is damaged.
        """
        columns = self._sought(tensor)
        self._bins(tensor, columns)  # checks them
        numbers = {name: values[tensor] for name, values in self._by_tensor.items()}
        return Row(np.diff(self._ends(tensor)).tolist(), {**numbers, **columns})

    @cached_property
    def _by_tensor(self) -> dict[str, NDArray[Any]]:
        names = (name for name in self._forms if name not in (*ENTRIES, "offset", "elements", "block"))
        return {name: self.numbers(name) for name in names}

    def _bins(self, tensor: int, columns: dict[str, NDArray[Any]]) -> list[StoredBins]:
        """Of each model, checked."""
        low = columns["low_squares"]
        squares = np.stack([low[:, 0] & 0xFFFFFFFF, low[:, 0] >> 32 | low[:, 1] << 32], axis=1).astype(np.int64)
        lows = columns["low_sum"].astype(np.int64)
        smallest, largest = (each[tensor].tolist() for each in self._extremes)
        ends = self._ends(tensor)
        found = []
        for model in range(len(self._store.models)):
            own = slice(int(ends[model] - ends[0]), int(ends[model + 1] - ends[0]))
            each = StoredBins(
                columns["bin"][own], columns["count"][own], columns["at_edge"][own], lows[own], squares[own],
                smallest[model], largest[model],
            )  # fmt: skip
            with trusted(self._store.path):
                _check_model(each, self._store.tensors[tensor].elements)
            found.append(each)
        return found

    def _ends(self, tensor: int) -> NDArray[np.int64]:
        """Where the entries of each model begin, and where the last one's end."""
        models = len(self._store.models)
        return self._offsets[tensor * models : (tensor + 1) * models + 1]

    def _sought(self, tensor: int) -> dict[str, NDArray[Any]]:
        """The entries of a tensor, checked."""
        if not self._entries:
            length = int(self._offsets[-1])
            self._entries = {name: self._opened(name, self._forms[name], length) for name in ENTRIES}
        if tensor != self._at:
            first = int(self._offsets[tensor * len(self._store.models)])
            with trusted(self._store.path):
                for name, reader in self._entries.items():
                    reader.seek(first * self._forms[name].size)
        self._at = -1  # nowhere, until all of it is read
        ends, found = self._ends(tensor), {}
        size = int(ends[-1] - ends[0])
        with trusted(self._store.path):
            for name, reader in self._entries.items():
                form = self._forms[name]
                found[name] = reader.take(np.empty(size * form.size, form.dtype)).reshape(size, *form.row)
            _check(found)
        self._at = tensor + 1
        return found

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        models, name = len(self._store.models), "offset"
        found = self._take(name, self._forms[name], len(self._store.tensors) * models + 1)
        with trusted(os.path.join(self._store.path, name)):
            sizes = np.diff(found)
            if found[0] != 0 or (sizes < 0).any() or (sizes > FIRST_NONFINITE_BIN).any():
                raise ValueError("offsets that do not rise, or rise by more than the number of bins")
        return found

    @cached_property
    def _extremes(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.numbers("smallest"), self.numbers("largest")

    def _take(self, name: str, form: Form, length: int) -> NDArray[Any]:
        reader = self._opened(name, form, length)
        with trusted(os.path.join(self._store.path, name)):
            return reader.take(np.empty(length * form.size, form.dtype))

    def _opened(self, name: str, form: Form, length: int) -> ArrayReader:
        """An array of so many places, exactly as this version writes it: no other codec, dtype or chunk is run."""
        import zarr

        folder = os.path.join(self._store.path, name)
        with trusted(folder):
            read_bounded(folder, "zarr.json", _MOST_METADATA)
            array = zarr.open_array(folder, mode="r", zarr_format=3)
            group = zarr.create_group(store=zarr.storage.MemoryStore(), zarr_format=3)
            if array.metadata.to_dict() != made(group, name, form, length).metadata.to_dict():
                raise ValueError("an array of other length, dtype, chunks or codecs")
        return ArrayReader(folder, length * form.size, form.dtype, "shuffle", form.size, len(form.dimensions))


def _check(columns: dict[str, NDArray[Any]]) -> None:
    """ValueError where bins hold what no deltas give."""
    count, at_edge, low_sum = columns["count"], columns["at_edge"], columns["low_sum"]
    if (columns["bin"] >= FIRST_NONFINITE_BIN).any() or (count <= 0).any() or (count > 1 << 46).any():
        raise ValueError("invalid bins or counts")
    if (at_edge < 0).any() or (at_edge > count).any():
        raise ValueError("more magnitudes at an edge than in a bin")
    odds = (count - at_edge).astype(np.uint64)
    if (low_sum < odds).any() or (low_sum > odds * np.uint64(LOW - 1)).any():
        raise ValueError("low bits that do not fit their count")
    if (columns["low_squares"][:, 1] > 1 << 20).any():
        raise ValueError("squares that do not fit their count")


def _check_model(found: StoredBins, elements: int) -> None:
    """ValueError where bins do not rise, or hold more than a tensor has."""
    if (np.diff(found.bins.astype(np.int64)) <= 0).any() or int(found.counts.sum()) > elements:
        raise ValueError("bins that do not rise, or more deltas than elements")
    ends = [int(np.float32(value).view(np.uint32)) >> 16 for value in (found.smallest, found.largest)]
    if ends != ([int(found.bins[0]), int(found.bins[-1])] if found.bins.size else [0, 0]):
        raise ValueError("extremes that lie in other bins")
