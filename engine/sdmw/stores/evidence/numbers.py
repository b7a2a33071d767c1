"""The numbers that a store has for each tensor and model, read once and checked."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmw.statistics.survey import MOST_OVERLAPPING
from sdmw.stores.reading import StoreReader
from sdmw.stores.rows import UNKNOWN
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
        gram: (T, M, M), dot products; NaN of a pair that was not measured.
        conflict: (T, M, M), elements that both models change, with unlike signs; -1 of such a pair.
        overlap: (T, 2**M), elements by the subset of models that change them; None above 8 models, and where a pair
            was not measured.
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

    @property
    def paired(self) -> bool:
        """All pairs were measured."""
        return not np.isnan(self.gram).any()

    @cached_property
    def norms(self) -> tuple[float, ...]:
        """Of each model's delta over all tensors."""
        return tuple(np.sqrt(np.diagonal(self.total)).tolist())

    @cached_property
    def both(self) -> Integers | None:
        """(T, M, M): elements that both models change; None without `overlap`."""
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
    if np.isnan(columns["gram"]).any():
        overlap = None
    return Numbers(store, overlap=overlap, **columns)


def added(gram: Floats) -> Floats:
    """(T, M, M) to (M, M): over all tensors, each sum rounded once."""
    return np.array([[math.fsum(column) for column in row] for row in gram.transpose(1, 2, 0)])


def _check(store: Store, columns: dict[str, NDArray[Any]], overlap: Integers | None) -> None:
    """ValueError where numbers are none that deltas give."""
    elements = np.array([tensor.elements for tensor in store.tensors], np.int64)
    if (columns["elements"] != elements).any():
        raise ValueError("tensors whose sizes do not fit their shapes")
    unknown = np.isnan(columns["gram"])
    if (unknown != unknown[:1]).any() or (unknown != (columns["conflict"] == UNKNOWN)).any():
        raise ValueError("pairs that were measured only in part")
    gram, conflict = (np.where(unknown, 0, columns[name]) for name in ("gram", "conflict"))
    for name, found in {**columns, "conflict": conflict}.items():
        counts = found.reshape(elements.size, math.prod(found.shape[1:]))
        if name != "gram" and ((counts < 0).any() or (counts > elements[:, None]).any()):
            raise ValueError(f"{name} above the number of elements, or below 0")
    wrong = overlap is not None and ((overlap < 0).any() or (overlap.sum(axis=1) > elements).any())
    if wrong and not unknown.any():
        raise ValueError("overlap above the number of elements, or below 0")
    squares = np.diagonal(columns["gram"], axis1=1, axis2=2)
    if not (squares >= 0).all():
        raise ValueError("squares that are negative or unknown")
    norms = np.sqrt(squares)
    most = norms[:, :, None] * norms[:, None, :] * (1 + ROUNDED)
    if not (np.isfinite(gram).all() and (np.abs(gram) <= most).all()):
        raise ValueError("dot products above the product of the norms")
