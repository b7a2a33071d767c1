"""How often each value of the low 16 bits occurs in chosen bins of a histogram: the second pass of the percentile."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sdmw.kernels.bins import LOW
from sdmw.statistics.look import Look, LookMemory, Tile, add_by_model, check_models

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
class LowBitsLook(Look[tuple[LowBits, ...]]):
    """Asks for the low bits in certain bins. Infinities and NaNs were counted by the histogram.

    Attributes:
        bins: for each model the bins to open: none, one or two.
    """

    bins: tuple[tuple[int, ...], ...]

    # 65,536 counts of 8 bytes in each of two bins, and 0.1 MB of the kernel's; a result has 10 bytes for each low half
    # that occurs, and the arrays' heads.
    memory: ClassVar[LookMemory] = LookMemory(counter=9 << 17, result=21 << 16, kept=21 << 16)

    def reads(self, models: int) -> tuple[int, ...]:
        """The models of which bins are asked."""
        return tuple(number for number, asked in enumerate(self.bins) if asked)

    def counter(self, models: int) -> "LowBitsCounter":
        """A new counter, at zero."""
        return LowBitsCounter(self.bins)

    def add(self, one: tuple[LowBits, ...], other: tuple[LowBits, ...]) -> tuple[LowBits, ...]:
        """Model by model."""
        return add_by_model(one, other)

    def nothing(self, models: int) -> tuple[LowBits, ...]:
        """No occurrence in any asked bin."""
        empty = np.zeros(LOW, np.int64)
        return tuple(LowBits.of_occurrences(dict.fromkeys(asked, empty)) for asked in self.bins)


class LowBitsCounter:
    """Counts tiles of the models of which bins are asked into arrays over all low halves, 1 MB a model."""

    def __init__(self, bins: tuple[tuple[int, ...], ...]) -> None:
        from sdmw.kernels import tiles

        self._count = tiles.count_low_bits
        self._asked = bins
        opened = [asked for asked in bins if asked]
        self._bins = np.array([[*asked, -1][:2] for asked in opened], np.int64).reshape(-1, 2)
        self._counts = np.zeros((len(opened), 2, LOW), np.int64)

    def add(self, tile: Tile) -> None:
        """Count a tile of the models of which bins are asked."""
        check_models(tile, len(self._counts))
        self._count(tile.addresses, tile.codes, tile.count, self._bins, self._counts)

    def result(self) -> tuple[LowBits, ...]:
        """The `LowBits` of each model; the arrays are zero again."""
        counts = iter(self._counts)
        found = tuple(
            LowBits.of_occurrences(dict(zip(asked, next(counts), strict=False)) if asked else {})
            for asked in self._asked
        )
        self._counts[:] = 0
        return found
