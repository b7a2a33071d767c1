"""How two tensors differ: exact sums over their values and over |delta|, found in one read."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sdmw.kernels.bins import FIRST_NONFINITE_BIN
from sdmw.statistics.gram import GramLook
from sdmw.statistics.histogram import Histogram, HistogramLook
from sdmw.statistics.look import Tile

EXPONENTS = FIRST_NONFINITE_BIN >> 7  # of finite float32: 0 for subnormals, e for magnitudes from 2**(e - 127) on
_VALUES, _DELTAS = GramLook(base=True, deltas=False), GramLook(base=True, deltas=True)
COUNTER = HistogramLook.memory.counter + 2 * GramLook.memory.counter  # bytes that counting takes
RESULT = 1 << 14  # bytes of a difference, at most: counts, and sums of up to 2,200 bits


def _no_exponents() -> NDArray[np.int64]:
    return np.zeros(EXPONENTS, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """Of some elements of two tensors, A and B, whose deltas are B - A in float32. Parts can be added in any order.

    Attributes:
        changed: elements whose bits differ; all else is of floats.
        nonfinite: deltas that are NaN or infinite; they are in no other number here but `changed`.
        largest: the float32 pattern of the largest |delta|.
        total: the exact sum of |delta|, as a multiple of 2**-149.
        exponents: int64, how many |delta| have each exponent of float32; zeros are in none.
        squares: delta * delta, as a multiple of 2**-1074: the exact sum of the sums of fixed blocks.
        products: A * A, A * B and B * B, likewise; NaN and infinity count as zero.
    """

    changed: int = 0
    nonfinite: int = 0
    largest: int = 0
    total: int = 0
    exponents: NDArray[np.int64] = field(default_factory=_no_exponents)
    squares: int = 0
    products: tuple[int, ...] = (0, 0, 0)

    def __add__(self, other: "Difference") -> "Difference":
        return Difference(
            self.changed + other.changed,
            self.nonfinite + other.nonfinite,
            max(self.largest, other.largest),
            self.total + other.total,
            self.exponents + other.exponents,
            self.squares + other.squares,
            tuple(map(int.__add__, self.products, other.products)),
        )


class DifferenceCounter:
    """Counts tiles of two inputs of floats. They come in order, the first of them at a multiple of GRAIN."""

    def __init__(self) -> None:
        from sdmw.kernels.changed import count_changed

        self._count, self._found = count_changed, np.zeros(2, np.int64)
        self._histogram = HistogramLook().counter(1)
        self._values, self._deltas = _VALUES.counter(1), _DELTAS.counter(1)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        for each in (self._histogram, self._values, self._deltas):
            each.add(tile)
        self._count(tile.addresses, tile.codes, tile.count, self._found)

    def result(self) -> Difference:
        """The difference so far; counting begins again."""
        (histogram,) = self._histogram.result()
        (squares,), products = self._deltas.result().totals, self._values.result().totals
        changed, largest = self._found.tolist()
        self._found[:] = 0
        return Difference(
            changed, histogram.nonfinite, largest, histogram.sum_from(0), _exponents(histogram), squares, products
        )


def _exponents(histogram: Histogram) -> NDArray[np.int64]:
    finite, counts = slice(histogram.finite_bins), _no_exponents()
    np.add.at(counts, histogram.bins[finite] >> 7, histogram.counts[finite])
    return counts
