"""What a store tells of one model's deltas, by occupied bin."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, slots=True)
class StoredBins:
    """One model's nonzero deltas in a tensor, or in several.

    Attributes:
        bins: uint16, rising.
        counts: int64, deltas in each.
        at_edge: int64, those among them whose low 16 bits are zero.
        low_sums: int64, the sum of the low bits.
        squares: int64, (bins, 2): the sum of their squares, as its low 32 bits and the rest.
        smallest, largest: the extreme magnitudes; 0 where there is none.
    """

    bins: NDArray[np.uint16]
    counts: NDArray[np.int64]
    at_edge: NDArray[np.int64]
    low_sums: NDArray[np.int64]
    squares: NDArray[np.int64]
    smallest: float
    largest: float

    def __add__(self, other: "StoredBins") -> "StoredBins":
        if not (self.bins.size and other.bins.size):
            return self if self.bins.size else other
        bins, places = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)

        def added(one: NDArray[np.int64], two: NDArray[np.int64]) -> NDArray[np.int64]:
            found: NDArray[Any] = np.zeros((bins.size, *one.shape[1:]), np.int64)
            found[places[: one.shape[0]]] = one
            found[places[one.shape[0] :]] += two
            return found

        return StoredBins(
            bins,
            added(self.counts, other.counts),
            added(self.at_edge, other.at_edge),
            added(self.low_sums, other.low_sums),
            added(self.squares, other.squares),
            min(self.smallest, other.smallest),
            max(self.largest, other.largest),
        )
