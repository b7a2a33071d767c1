"""The numbers that a store has for each tensor and model, read once and checked."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmw.statistics.survey import MOST_OVERLAPPING
from sdmw.stores.reading import StoreReader
from sdmw.stores.store import Store, trusted

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
ROUNDED = 1e-6  # by which a dot product may exceed the product of the norms: all are float64 sums


# Without slots: properties are kept.
@dataclass(frozen=True, eq=False)
class Numbers:
    """Of T tensors and M models, all of unfiltered deltas.

    Attributes:
        store: that they were read from.
        elements: (T).
        nonzero: (T, M), finite deltas that are not zero.
        nonfinite: (T, M), deltas that are NaN or infinite.
        unchanged: (T, M, 2), deltas that bfloat16 and float16 swallow.
        gram: (T, M, M), dot products.
        conflict: (T, M, M), elements that both models change, with unlike signs.
        overlap: (T, 2**M), elements by the subset of models that change them; None above 8 models.
    """

    store: Store
    elements: Integers
    nonzero: Integers
    nonfinite: Integers
    unchanged: Integers
    gram: Floats
    conflict: Integers
    overlap: Integers | None

    @cached_property
    def squares(self) -> Floats:
        """(T, M): the sum of each model's squared deltas."""
        return np.ascontiguousarray(np.diagonal(self.gram, axis1=1, axis2=2))

    @cached_property
    def total(self) -> Floats:
        """(M, M): the dot products over all tensors, each rounded once."""
        return added(self.gram)

    @cached_property
    def norms(self) -> tuple[float, ...]:
        """Of each model's delta over all tensors."""
        return tuple(np.sqrt(np.diagonal(self.total)).tolist())

    @cached_property
    def both(self) -> Integers | None:
        """(T, M, M): elements that both models change; None above 8 models."""
        if self.overlap is None:
            return None
        models = self.nonzero.shape[1]
        bits = np.arange(1 << models)[:, None] >> np.arange(models) & 1
        found: Integers = np.einsum("ts,si,sj->tij", self.overlap, bits, bits)
        return found


def numbers_of(store: Store) -> Numbers:
    """Read them.

    Raises:
        StoreError: the store is damaged.
    """
    reader = StoreReader(store)
    names = ("elements", "nonzero", "nonfinite", "unchanged", "gram", "conflict")
    columns = {name: reader.numbers(name) for name in names}
    overlap = reader.numbers("overlap") if len(store.models) <= MOST_OVERLAPPING else None
    with trusted(store.path):
        _check(store, columns, overlap)
    return Numbers(store, overlap=overlap, **columns)


def added(gram: Floats) -> Floats:
    """(T, M, M) to (M, M): over all tensors, each sum rounded once."""
    return np.array([[math.fsum(column) for column in row] for row in gram.transpose(1, 2, 0)])


def _check(store: Store, columns: dict[str, NDArray[Any]], overlap: Integers | None) -> None:
    """ValueError where numbers are none that deltas give."""
    elements = np.array([tensor.elements for tensor in store.tensors], np.int64)
    if (columns["elements"] != elements).any():
        raise ValueError("tensors of other sizes than their shapes")
    for name in ("nonzero", "nonfinite", "unchanged", "conflict"):
        found = columns[name].reshape(elements.size, -1)
        if (found < 0).any() or (found > elements[:, None]).any():
            raise ValueError(f"{name} above the number of elements, or below 0")
    if overlap is not None and ((overlap < 0).any() or (overlap.sum(axis=1) > elements).any()):
        raise ValueError("overlap above the number of elements, or below 0")
    gram = columns["gram"]
    norms = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    most = norms[:, :, None] * norms[:, None, :] * (1 + ROUNDED)
    if not (np.isfinite(gram).all() and (np.abs(gram) <= most).all()):
        raise ValueError("dot products above the product of the norms")
