"""Histogram of |delta| in a bracket of bins around a percentile, which is guessed from a sample of each tensor.

What lies outside is only counted and summed, which takes half the time. Where the percentile turns out to lie outside,
the histogram says so, and the layer is looked at again with all bins.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sdmw.kernels.bins import BINS, BLOCK, FIRST_NONFINITE_BIN
from sdmw.kernels.codes import DELTA, F32
from sdmw.statistics.histogram import Histogram, HistogramLook, Outside
from sdmw.statistics.look import Look, LookMemory, Tile, add_by_model, check_models
from sdmw.statistics.near import MOST_OF_PIECE, NOTHING, Near, bracket

MiB = 1 << 20
SAMPLED = 16  # blocks of a tile that are counted to guess a bracket from
SAMPLE = SAMPLED * BLOCK  # elements
FINER = 4  # times as many where a float32 takes part
SPREAD = 4  # standard deviations by which a sample's rank may be off, beside
HALF_MARGIN = 0.03  # of ranks: deltas between halves mostly have low bits of zero, so a wide bracket lists few
TILES = 8  # of a piece, that one worker may take
EDGES = 0.01  # of ranks, in the bins at a bracket's ends
WIDE_MARGIN = 0.01  # of ranks: where a float32 takes part, every delta in the bracket is listed


@dataclass(frozen=True, slots=True)
class BracketLook(Look[tuple[Histogram, ...]]):
    """Asks for what a percentile needs of each model's histogram, of a layer that is one tensor.

    Attributes:
        k: the percentile, for each model.
    """

    k: tuple[float, ...]

    # As of the whole histogram: packed bins are 0.3 MB, counts and sums 0.5, the list 0.5, the kernel's bins 0.1.
    memory: ClassVar[LookMemory] = LookMemory(counter=15 * MiB // 8, result=5 * MiB // 4, kept=15 * MiB // 8)

    def counter(self, models: int) -> "BracketCounter":
        """A new counter, at zero."""
        return BracketCounter(models, self.k)

    def add(self, one: tuple[Histogram, ...], other: tuple[Histogram, ...]) -> tuple[Histogram, ...]:
        """Model by model."""
        return add_by_model(one, other)

    def nonfinite(self, statistic: tuple[Histogram, ...]) -> int:
        """Of all models."""
        return sum(histogram.nonfinite for histogram in statistic)

    def nothing(self, models: int) -> tuple[Histogram, ...]:
        """Empty histograms."""
        return HistogramLook(self.k).nothing(models)


class BracketCounter:
    """Counts tiles by a bracket for each model, which it keeps as long as they are of one tensor."""

    def __init__(self, models: int, k: tuple[float, ...]) -> None:
        from sdmw.kernels.bracket import count_by_bracket
        from sdmw.kernels.compress import SPARE
        from sdmw.kernels.tiles import PACKED, count_magnitudes

        self._count, self._sample, self._k = count_by_bracket, count_magnitudes, k
        self._packed = np.zeros((models, PACKED), np.uint64)
        self._counts = np.zeros((models, BINS), np.int64)
        self._low_sums = np.zeros((models, BINS), np.int64)
        self._listed = np.empty((models, MOST_OF_PIECE + SPARE), np.uint32)
        self._unlisted = np.zeros((models, 2), np.int64)
        self._outside, self._sizes = np.zeros((models, 4), np.int64), np.zeros(models, np.int64)
        self._brackets, self._guessed = np.zeros((models, 2), np.int64), np.zeros(models, bool)
        self._tensor, self._sampled = "", 0  # what the brackets are guessed from
        self._elements = 0  # counted by these brackets
        self._earlier = self._nothing = HistogramLook(k).nothing(models)  # what was counted by others

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        check_models(tile, len(self._counts))
        if not tile.count:
            return
        base = (tile.addresses[1:] == tile.addresses[0]) & (
            tile.codes[1:] == tile.codes[0]
        )  # models that it stands for
        guessed = tile.tensor == self._tensor and 2 * self._sampled >= min(tile.count, SAMPLE)
        if not guessed or not (self._guessed | base).all():
            self._earlier = self._taken()
            self._guess(tile)
        self._elements += tile.count
        self._count(
            tile.addresses, tile.codes, tile.count, self._brackets, self._packed, self._counts, self._low_sums,
            self._outside, self._listed, self._sizes,
        )  # fmt: skip

    def result(self) -> tuple[Histogram, ...]:
        """The `Histogram` of each model; counting begins again, by the same brackets."""
        found, self._earlier = self._taken(), self._nothing
        return found

    def _guess(self, tile: Tile) -> None:
        """New brackets, from blocks all over a tile; of a model without changes there all bins."""
        wide = np.isin(tile.codes, (F32, DELTA)).any()
        step = max(BLOCK, tile.count // (SAMPLED * (FINER if wide else 1)))
        self._sample(
            tile.addresses, tile.codes, tile.count, step, self._packed, self._counts, self._low_sums, self._unlisted,
            self._listed, self._sizes,
        )  # fmt: skip
        margin = WIDE_MARGIN if wide else HALF_MARGIN
        # All that is listed of a piece has to find room.
        most = (MOST_OF_PIECE / (TILES * tile.count) - EDGES) / 2 if wide else 1.0
        for model, k in enumerate(self._k):
            counts = self._counts[model, :FIRST_NONFINITE_BIN]
            spread = SPREAD * math.sqrt(k / 100 * (1 - k / 100) / max(1, counts.sum()))
            found = bracket(counts, k, max(spread, min(margin + spread, most)))
            self._brackets[model], self._guessed[model] = found or (0, FIRST_NONFINITE_BIN), found is not None
        self._tensor, self._sampled = tile.tensor, min(tile.count, SAMPLE)
        self._counts[:] = self._low_sums[:] = 0  # they were samples

    def _taken(self) -> tuple[Histogram, ...]:
        """What was counted so far; the arrays are zero again."""
        if not self._elements:
            return self._earlier
        found = tuple(map(self._of_model, range(len(self._counts))))
        self._outside[:] = self._sizes[:] = self._elements = 0
        return add_by_model(self._earlier, found)

    def _of_model(self, model: int) -> Histogram:
        first, stop = self._brackets[model].tolist()
        whole = Histogram.of_bins(self._counts[model], self._low_sums[model])
        self._counts[model, whole.bins] = self._low_sums[model, whole.bins] = 0
        below, above, low, high = self._outside[model].tolist()
        # In units of the last place of the bracket's end.
        apart = Outside(first, stop, below, above, ((high << 52) + low) << (max(stop >> 7, 1) - 1))
        size = int(self._sizes[model])
        near = Near(first, stop, self._listed[model, :size].copy()) if size <= MOST_OF_PIECE else NOTHING
        return whole.within(first, stop).beside(apart, near)
