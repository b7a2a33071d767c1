"""How much the changes of one model matter: the histogram of their scores over the high half of an ordered key.

A score is a change's magnitude times the divergence of its row. A tile holds whole rows, whose divergences are found on
the way; or it is part of one row, whose divergence the look has.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sdmw.kernels.bins import LOW
from sdmw.statistics.look import Look, LookMemory, Tile, check_models
from sdmw.statistics.low_bits import LowBits

MOST_BINS = 3  # whose low bits are asked for


@dataclass(frozen=True, eq=False, slots=True)
class Scores:
    """How many scores lie in each bin.

    Attributes:
        bins: uint16, those that hold anything, rising: the high half of a key that is ordered as scores are.
        counts: int64, scores in each.
        low_sums: int64, the sum of the low halves of their keys.
    """

    bins: NDArray[np.uint16]
    counts: NDArray[np.int64]
    low_sums: NDArray[np.int64]

    def __add__(self, other: "Scores") -> "Scores":
        bins, places = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        counts, low_sums = np.zeros(bins.size, np.int64), np.zeros(bins.size, np.int64)
        np.add.at(counts, places, np.concatenate([self.counts, other.counts]))
        np.add.at(low_sums, places, np.concatenate([self.low_sums, other.low_sums]))
        return Scores(bins, counts, low_sums)

    def bins_to_open(self, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """The bins that hold the scores of some ranks (0 is the smallest) and whose low halves are not all zero."""
        places = sorted({self._place(rank) for rank in ranks})
        return tuple(int(self.bins[place]) for place in places if self.low_sums[place])

    def at(self, rank: int, low_bits: LowBits) -> float:
        """The score of a rank; `low_bits` has what `bins_to_open` asks for."""
        place = self._place(rank)
        before = int(self.counts[:place].sum())
        high = int(self.bins[place])
        key = high << 16 | low_bits.at_rank(high, rank - before, int(self.counts[place]))
        pattern = key & 0x7FFFFFFF if key >> 31 else ~key & 0xFFFFFFFF
        return float(np.uint32(pattern).view(np.float32))

    def _place(self, rank: int) -> int:
        return int(np.searchsorted(np.cumsum(self.counts), rank, side="right"))


def rows_of(tile: Tile, divergence: float | None) -> tuple[int, NDArray[np.float64]]:
    """A tile's rows, as kernels take them: how long they are, and the divergence of the one that it is part of."""
    if divergence is None:
        return tile.row, np.empty(0)
    return tile.count, np.array([divergence])


@dataclass(frozen=True, slots=True)
class ScoresLook(Look[Scores]):
    """Asks for the histogram of the scores of one model's changes.

    Attributes:
        divergence: of the tensor's only row; None where tiles hold whole rows.
    """

    divergence: float | None = None

    # 65,536 counts and sums of 8 bytes, and 0.1 MB of the kernel's; a result has 18 bytes for each.
    memory: ClassVar[LookMemory] = LookMemory(counter=9 << 17, result=19 << 16, kept=19 << 16)
    whole_rows: ClassVar[bool] = True

    def counter(self, models: int) -> "ScoresCounter":
        """A new counter, at zero."""
        return ScoresCounter(models, self.divergence)

    def nothing(self, models: int) -> Scores:
        """No score."""
        return Scores(np.empty(0, np.uint16), np.empty(0, np.int64), np.empty(0, np.int64))

    def add(self, one: Scores, other: Scores) -> Scores:
        """Bin by bin."""
        return one + other


class ScoresCounter:
    """Counts tiles into arrays over all bins."""

    def __init__(self, models: int, divergence: float | None) -> None:
        from sdmw.kernels import fusion

        self._count, self._models, self._divergence = fusion.count_scores, models, divergence
        self._counts, self._low_sums = np.zeros(fusion.BINS, np.int64), np.zeros(fusion.BINS, np.int64)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        check_models(tile, self._models)
        rows = rows_of(tile, self._divergence)
        self._count(tile.addresses, tile.codes, tile.count, *rows, self._counts, self._low_sums)

    def result(self) -> Scores:
        """The histogram so far; counting begins again."""
        bins = np.flatnonzero(self._counts != 0)
        found = Scores(bins.astype(np.uint16), self._counts[bins], self._low_sums[bins])
        self._counts[bins] = self._low_sums[bins] = 0
        return found


@dataclass(frozen=True, slots=True)
class LowScoresLook(Look[LowBits]):
    """Asks for the low halves of the keys in some bins.

    Attributes:
        bins: at most `MOST_BINS`.
        divergence: as of `ScoresLook`.
    """

    bins: tuple[int, ...]
    divergence: float | None = None

    # 65,536 counts of 8 bytes for each bin, and 0.1 MB of the kernel's; of a result 10 bytes for each.
    memory: ClassVar[LookMemory] = LookMemory(counter=13 << 17, result=31 << 16, kept=31 << 16)
    whole_rows: ClassVar[bool] = True

    def counter(self, models: int) -> "LowScoresCounter":
        """A new counter, at zero."""
        return LowScoresCounter(models, self)

    def nothing(self, models: int) -> LowBits:
        """No occurrence."""
        return LowBits.of_occurrences(dict.fromkeys(self.bins, np.zeros(LOW, np.int64)))

    def add(self, one: LowBits, other: LowBits) -> LowBits:
        """Value by value."""
        return one + other


class LowScoresCounter:
    """Counts tiles into an array over all low halves for each bin."""

    def __init__(self, models: int, look: LowScoresLook) -> None:
        from sdmw.kernels import fusion

        self._count, self._models, self._look = fusion.count_low_scores, models, look
        self._bins, self._counts = np.array(look.bins, np.int64), np.zeros((len(look.bins), LOW), np.int64)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        check_models(tile, self._models)
        rows = rows_of(tile, self._look.divergence)
        self._count(tile.addresses, tile.codes, tile.count, *rows, self._bins, self._counts)

    def result(self) -> LowBits:
        """The occurrences so far; counting begins again."""
        found = LowBits.of_occurrences(dict(zip(self._look.bins, self._counts, strict=True)))
        self._counts[:] = 0
        return found
