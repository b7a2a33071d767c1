"""How often each value of the low 16 bits occurs in chosen bins of a histogram: the second pass of the percentile."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdmw.statistics.look import Tile

LOW = 1 << 16

Occurrences = NDArray[np.int64]  # (LOW,), but index 0 is always 0: the histogram's count leaves those over


@dataclass(frozen=True, slots=True, eq=False)
class LowBits:
    """For each opened bin the nonzero low halves that occur in it.

    Attributes:
        values: per bin the low halves, rising, uint16.
        counts: per bin how often each occurs, int64.
    """

    values: Mapping[int, NDArray[np.uint16]]
    counts: Mapping[int, NDArray[np.int64]]

    nonfinite: ClassVar[int] = 0  # the histogram has counted them

    @classmethod
    def of_occurrences(cls, occurrences: Mapping[int, Occurrences]) -> "LowBits":
        """From arrays over all low halves, which are not kept."""
        values = {place: np.flatnonzero(row).astype(np.uint16) for place, row in occurrences.items()}
        return cls(values, {place: row[values[place]] for place, row in occurrences.items()})

    def __add__(self, other: "LowBits") -> "LowBits":
        occurrences = {}
        for place in self.values:
            row = np.zeros(LOW, np.int64)
            row[self.values[place]] = self.counts[place]
            row[other.values[place]] += other.counts[place]
            occurrences[place] = row
        return LowBits.of_occurrences(occurrences)

    def at_rank(self, place: int, rank: int, in_bin: int) -> int:
        """The low half of the delta of a rank within a bin that holds `in_bin` deltas."""
        if place not in self.values:
            return 0
        zeros = in_bin - int(self.counts[place].sum())
        if rank < zeros:
            return 0
        return int(self.values[place][np.searchsorted(np.cumsum(self.counts[place]), rank - zeros, side="right")])

    def from_low(self, place: int, low: int) -> tuple[int, int]:
        """How many deltas of a bin have low halves of at least `low`, which is not 0, and the sum of those halves."""
        if place not in self.values:
            return 0, 0
        values, counts = self.values[place].astype(np.int64), self.counts[place]
        kept = values >= low
        return int(counts[kept].sum()), int((values[kept] * counts[kept]).sum())


@dataclass(frozen=True, slots=True)
class LowBitsLook:
    """Asks for the low bits in certain bins.

    Attributes:
        bins: for each model the bins to open: none, one or two.
    """

    bins: tuple[tuple[int, ...], ...]

    kind: ClassVar[str] = "low_bits"

    def counter(self, models: int) -> "LowBitsCounter":
        """A new counter, at zero."""
        return LowBitsCounter(self.bins)

    def nothing(self, models: int) -> tuple[LowBits, ...]:
        """No occurrence in any asked bin."""
        empty = np.zeros(LOW, np.int64)
        return tuple(LowBits.of_occurrences(dict.fromkeys(asked, empty)) for asked in self.bins)


class LowBitsCounter:
    """Counts tiles into arrays over all low halves, 1 MB a model."""

    def __init__(self, bins: tuple[tuple[int, ...], ...]) -> None:
        from sdmw.kernels import tiles

        self._count = tiles.count_low_bits
        self._asked = bins
        self._bins = np.array([[*asked, -1, -1][:2] for asked in bins], np.int64)
        self._counts = np.zeros((len(bins), 2, LOW), np.int64)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        self._count(tile.addresses, tile.codes, tile.count, self._bins, self._counts)

    def result(self) -> tuple[Any, ...]:
        """The `LowBits` of each model; the arrays are zero again."""
        found = tuple(
            LowBits.of_occurrences(dict(zip(asked, rows, strict=False)))
            for asked, rows in zip(self._asked, self._counts, strict=True)
        )
        self._counts[:] = 0
        return found
