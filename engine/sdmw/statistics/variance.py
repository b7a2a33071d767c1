"""How far models' deltas differ at each element: the histogram of their variance, and exact sums of squares."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sdmw.kernels.bins import BINS, LOW
from sdmw.statistics.histogram import Histogram
from sdmw.statistics.look import Look, LookMemory, Tile, check_models
from sdmw.statistics.low_bits import LowBits
from sdmw.statistics.squares import total_of


@dataclass(frozen=True, slots=True)
class VarianceLook(Look[Histogram]):
    """Asks for the histogram of the variance over all models; NaN is in its last bins."""

    # A worker's arrays take 0.8 MB; a result has at most 32,705 bins of 18 bytes; what is kept has ranks of 8 beside.
    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 20, result=5 << 17, kept=15 << 16)

    def counter(self, models: int) -> "VarianceCounter":
        """A new counter, at zero."""
        return VarianceCounter(models)

    def nothing(self, models: int) -> Histogram:
        """An empty histogram."""
        none = np.empty(0, np.int64)
        return Histogram(none.astype(np.uint16), none, none)

    def add(self, one: Histogram, other: Histogram) -> Histogram:
        """Bin by bin."""
        return one + other


class VarianceCounter:
    """Counts tiles into arrays over all bins."""

    def __init__(self, models: int) -> None:
        from sdmw.kernels import consensus, tiles

        self._count, self._models = consensus.count_variances, models
        self._packed = np.zeros(tiles.PACKED, np.uint64)
        self._counts, self._low_sums = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        check_models(tile, self._models)
        self._count(tile.addresses, tile.codes, tile.count, self._packed, self._counts, self._low_sums)

    def result(self) -> Histogram:
        """The histogram so far; counting begins again."""
        found = Histogram.of_bins(self._counts, self._low_sums)
        self._counts[:] = self._low_sums[:] = 0
        return found


@dataclass(frozen=True, slots=True)
class LowVarianceLook(Look[LowBits]):
    """Asks for the low bits of the variances in one bin.

    Attributes:
        place: the bin.
    """

    place: int

    # 65,536 counts of 8 bytes, and one more such array while results are added; of a result 10 bytes for each.
    memory: ClassVar[LookMemory] = LookMemory(counter=9 << 16, result=11 << 16, kept=11 << 16)

    def counter(self, models: int) -> "LowVarianceCounter":
        """A new counter, at zero."""
        return LowVarianceCounter(models, self.place)

    def nothing(self, models: int) -> LowBits:
        """No occurrence."""
        return LowBits.of_occurrences({self.place: np.zeros(LOW, np.int64)})

    def add(self, one: LowBits, other: LowBits) -> LowBits:
        """Value by value."""
        return one + other


class LowVarianceCounter:
    """Counts tiles into an array over all low halves."""

    def __init__(self, models: int, place: int) -> None:
        from sdmw.kernels import consensus

        self._count, self._models, self._place = consensus.count_low_variances, models, place
        self._counts = np.zeros(LOW, np.int64)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        check_models(tile, self._models)
        self._count(tile.addresses, tile.codes, tile.count, self._place, self._counts)

    def result(self) -> LowBits:
        """The occurrences so far; counting begins again."""
        found = LowBits.of_occurrences({self._place: self._counts})
        self._counts[:] = 0
        return found


@dataclass(frozen=True, slots=True)
class SquaresLook(Look[tuple[int, ...]]):
    """Asks for each model's sum of the squares of its kept deltas, as multiples of 2**-298; NaN and infinity in none.

    Attributes:
        pattern, element: what is kept: larger variances than the pattern's, and of equal ones those up to the element.
            All where the pattern is None.
    """

    pattern: int | None
    element: int

    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 15, result=1 << 10, kept=1 << 10)

    def counter(self, models: int) -> "SquaresCounter":
        """A new counter, at zero."""
        return SquaresCounter(models, self)

    def nothing(self, models: int) -> tuple[int, ...]:
        """No square."""
        return (0,) * models

    def add(self, one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
        """Model by model."""
        return tuple(mine + more for mine, more in zip(one, other, strict=True))


class SquaresCounter:
    """Adds squares by exponent, as integers."""

    def __init__(self, models: int, look: SquaresLook) -> None:
        from sdmw.kernels import consensus
        from sdmw.kernels.chance import EXPONENTS

        self._add, self._look = consensus.sum_squares, look
        self._sums = np.zeros((models, EXPONENTS, 2), np.int64)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        check_models(tile, len(self._sums))
        look = self._look
        self._add(
            tile.addresses, tile.codes, tile.count, tile.first, look.pattern is None, np.uint32(look.pattern or 0),
            look.element, self._sums,
        )  # fmt: skip

    def result(self) -> tuple[int, ...]:
        """The sums so far; counting begins again."""
        found = tuple(map(total_of, self._sums))
        self._sums[:] = 0
        return found
