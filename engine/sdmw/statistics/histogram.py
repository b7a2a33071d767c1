"""Histogram of |delta| over the high 16 bits of its float32 pattern, with exact sums. Source: METHOD.md, "bins"."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdmw.kernels.bins import BINS, BLOCK, FIRST_NONFINITE_BIN
from sdmw.kernels.codes import DELTA, F32
from sdmw.statistics.look import Look, LookMemory, Tile, add_by_model, check_models
from sdmw.statistics.near import MOST_OF_PIECE, NONE_MET, NOTHING, Near, bracket

MiB = 1 << 20
UNIT_EXPONENT = 149  # sums of float32 are integers times 2**-149
SAMPLE = 1 << 17  # elements from which a bracket is guessed
HALF_MARGIN = 0.03  # of ranks: deltas between halves mostly have low bits of zero, so a wide bracket lists few
WIDE_MARGIN = 0.005  # of ranks: where a float32 takes part, every delta in the bracket is listed


@dataclass(frozen=True, slots=True)
class Outside:
    """What a histogram knows of finite deltas in other bins than those of its bracket.

    Attributes:
        first, stop: the bracket, which holds the bins from first up to stop.
        below, above: how many deltas lie in the bins before and behind it.
        sum_above: the exact sum of the magnitudes above, as a multiple of 2**-149.
    """

    first: int = 0
    stop: int = FIRST_NONFINITE_BIN
    below: int = 0
    above: int = 0
    sum_above: int = 0


NOTHING_OUTSIDE = Outside()


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many deltas lie in each bin, and the sum of their low bits, which together give exact sums.

    Attributes:
        bins: uint16, the bins that hold anything, rising. Bin h holds the magnitudes with patterns h << 16 and up;
            from 0x7F80 on they are infinities and NaNs. Zeros are in none.
        counts: int64, deltas in each.
        low_sums: int64, the sum of the low 16 bits of their patterns.
        near: what was listed around the percentile.
        outside: deltas that are in no bin here, since their bins lie outside of a bracket.
    """

    bins: NDArray[np.uint16]
    counts: NDArray[np.int64]
    low_sums: NDArray[np.int64]
    near: Near = NOTHING
    outside: Outside = NOTHING_OUTSIDE

    @classmethod
    def of_bins(cls, counts: NDArray[np.int64], low_sums: NDArray[np.int64], near: Near = NOTHING) -> "Histogram":
        """From arrays over all 32,768 bins, which are not kept."""
        bins = np.flatnonzero(counts != 0)  # of booleans it is ten times as fast
        return cls(bins.astype(np.uint16), counts[bins], low_sums[bins], near)

    def __add__(self, other: "Histogram") -> "Histogram":
        first = max(self.outside.first, other.outside.first)
        stop = min(self.outside.stop, other.outside.stop)
        one, two = self.within(first, stop), other.within(first, stop)
        near = self.near + other.near
        if not one.bins.size:  # most layers are one piece, added to nothing
            return two.beside(one.outside, near)
        if not two.bins.size:
            return one.beside(two.outside, near)
        bins, places = np.unique(np.concatenate([one.bins, two.bins]), return_inverse=True)
        counts, low_sums = np.zeros(bins.size, np.int64), np.zeros(bins.size, np.int64)
        np.add.at(counts, places, np.concatenate([one.counts, two.counts]))
        np.add.at(low_sums, places, np.concatenate([one.low_sums, two.low_sums]))
        return Histogram(bins, counts, low_sums, near, one.outside).beside(two.outside, near)

    def __eq__(self, other: object) -> bool:
        """Equal counts and sums; what was listed may differ with the tiling."""
        return (
            isinstance(other, Histogram)
            and self.outside == other.outside
            and all(
                np.array_equal(getattr(self, name), getattr(other, name)) for name in ("bins", "counts", "low_sums")
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def within(self, first: int, stop: int) -> "Histogram":
        """The same with a bracket that lies within its own; an empty one tells no more than how many deltas there are.

        Args:
            first: the bracket's first bin.
            stop: the one behind its last; none where it is not larger.
        """
        known = self.outside
        if (first, stop) == (known.first, known.stop):
            return self
        low, high = (int(np.searchsorted(self.bins[: self.finite_bins], each)) for each in (first, stop))
        if stop <= first:
            total = known.below + known.above + int(self.counts[: self.finite_bins].sum())
            outside, inside = Outside(first, stop, below=total), slice(0, 0)
        else:
            below, above = (int(self.counts[part].sum()) for part in (slice(low), slice(high, self.finite_bins)))
            outside = Outside(first, stop, known.below + below, known.above + above, self.sum_from(high))
            inside = slice(low, high)
        bins, counts, low_sums = (
            np.concatenate([each[inside], each[self.finite_bins :]]) for each in (self.bins, self.counts, self.low_sums)
        )
        return Histogram(bins, counts, low_sums, self.near, outside)

    def beside(self, outside: Outside, near: Near) -> "Histogram":
        """The same deltas and some more that lie outside of the same bracket; `near` is of all of them."""
        own = self.outside
        both = Outside(
            own.first, own.stop, own.below + outside.below, own.above + outside.above, own.sum_above + outside.sum_above
        )
        return Histogram(self.bins, self.counts, self.low_sums, near, both)

    def knows(self, rank: int) -> bool:
        """Whether the delta of a rank (0 is the smallest) lies in one of the bins."""
        return self.outside.below <= rank < self.nonzero - self.outside.above

    @property
    def nonfinite(self) -> int:
        """How many deltas are NaN or infinite; they are in no other number here."""
        return int(self.counts[self.finite_bins :].sum())

    @cached_property
    def nonzero(self) -> int:
        """How many finite deltas are not zero: the size of S."""
        return (int(self._ranks[-1]) if self._ranks.size else self.outside.below) + self.outside.above

    @cached_property
    def finite_bins(self) -> int:
        """How many of `bins` hold finite magnitudes."""
        return int(np.searchsorted(self.bins, np.uint16(FIRST_NONFINITE_BIN)))

    def place_of_rank(self, rank: int) -> int:
        """The place in `bins` of the bin that holds the delta of a rank that it `knows` (0 is the smallest of S)."""
        return int(np.searchsorted(self._ranks, rank, side="right"))

    def rank_before(self, place: int) -> int:
        """How many deltas lie in finite bins before a place."""
        return int(self._ranks[place - 1]) if place else self.outside.below

    @cached_property
    def _ranks(self) -> NDArray[np.int64]:
        """How many deltas lie in each finite bin and those before it."""
        return np.cumsum(self.counts[: self.finite_bins]) + self.outside.below

    def sum_from(self, place: int) -> int:
        """The exact sum of |delta| in the finite bins from a place on and above them, as a multiple of 2**-149."""
        bins = self.bins[place : self.finite_bins].astype(np.int64)
        if not bins.size:
            return self.outside.sum_above
        starts = np.flatnonzero(np.diff(bins >> 7, prepend=-1))  # of each exponent; bins rise
        heads = self.counts[place : self.finite_bins] * ((bins & 127) + np.where(bins >> 7, 128, 0))
        # Per exponent both sums fit 64 bits up to 2**55 deltas; only Python's integers hold them all together.
        heads, lows = (
            np.add.reduceat(part, starts).tolist() for part in (heads, self.low_sums[place : self.finite_bins])
        )
        per_exponent = zip((bins[starts] >> 7).tolist(), heads, lows, strict=True)
        inside: int = sum(((head << 16) + low) << (max(exponent, 1) - 1) for exponent, head, low in per_exponent)
        return inside + self.outside.sum_above


def bin_sum(place: int, count: int, low_sum: int) -> int:
    """The exact sum of `count` magnitudes in a bin whose low bits add up to `low_sum`, as a multiple of 2**-149."""
    exponent, mantissa = place >> 7, (place & 127) << 16
    return (count * (mantissa + (1 << 23 if exponent else 0)) + low_sum) << (max(exponent, 1) - 1)


@dataclass(frozen=True, slots=True)
class HistogramLook(Look[tuple[Histogram, ...]]):
    """Asks for the histogram of each model, and for what lies near its percentile.

    Attributes:
        near: the percentile, for each model; None where no deltas are to be listed.
    """

    near: tuple[float, ...] | None = None

    # A worker's arrays take 0.8 MB and its list 0.5, a sample that is counted aside 0.3, the kernel 0.1; a result has
    # at most 32,705 bins of 18 bytes and the list; what is kept has a list of 1 MB, and ranks of 8 bytes a bin.
    memory: ClassVar[LookMemory] = LookMemory(counter=15 * MiB // 8, result=5 * MiB // 4, kept=15 * MiB // 8)

    def counter(self, models: int) -> "HistogramCounter":
        """A new counter, at zero."""
        return HistogramCounter(models, self.near)

    def add(self, one: tuple[Histogram, ...], other: tuple[Histogram, ...]) -> tuple[Histogram, ...]:
        """Model by model."""
        return add_by_model(one, other)

    def nonfinite(self, statistic: tuple[Histogram, ...]) -> int:
        """Of all models."""
        return sum(histogram.nonfinite for histogram in statistic)

    def nothing(self, models: int) -> tuple[Histogram, ...]:
        """Empty histograms."""
        none = np.empty(0, np.int64)
        return (Histogram(none.astype(np.uint16), none, none, NONE_MET),) * models


class HistogramCounter:
    """Counts tiles into arrays over all bins, 0.8 MB a model, and lists up to 0.5 MB of patterns near a percentile."""

    def __init__(self, models: int, near: tuple[float, ...] | None) -> None:
        from sdmw.kernels import tiles

        self._count, self._float32 = tiles.count_magnitudes, (F32, DELTA)
        self._packed = np.zeros((models, tiles.PACKED), np.uint64)
        self._counts = np.zeros((models, BINS), np.int64)
        self._low_sums = np.zeros((models, BINS), np.int64)
        self._near = near
        self._edges = np.zeros((models, 2), np.int64)  # of bins; none yet
        self._listed = np.empty((models, MOST_OF_PIECE if near else 0), np.uint32)
        self._sizes = np.zeros(models, np.int64)

    def add(self, tile: Tile) -> None:
        """Count a tile; while a bracket is unknown, in samples, of which the first to tell is repeated."""
        check_models(tile, len(self._counts))
        while self._near and tile.count and not self._edges.any(axis=1).all():
            sample = tile.cut(0, min(SAMPLE, tile.count))
            self._add(sample, self._counts, self._low_sums, self._edges)
            found = self._new_edges(self._near, sample)
            if found.any():
                aside = np.zeros_like(self._counts)
                self._add(sample, aside, aside, found)
                self._edges += found
            tile = tile.cut(sample.count, tile.count)
        if tile.count:
            self._add(tile, self._counts, self._low_sums, self._edges)

    def result(self) -> tuple[Histogram, ...]:
        """The `Histogram` of each model; the arrays are zero again, since new ones cost more than a small tensor."""
        near = map(self._near_of, range(len(self._counts)))
        found = tuple(map(Histogram.of_bins, self._counts, self._low_sums, near))
        for model, histogram in enumerate(found):
            self._counts[model, histogram.bins] = self._low_sums[model, histogram.bins] = 0
        self._edges[:] = self._sizes[:] = 0
        return found

    def _add(self, tile: Tile, counts: Any, low_sums: Any, edges: Any) -> None:
        self._count(
            tile.addresses,
            tile.codes,
            tile.count,
            BLOCK,
            self._packed,
            counts,
            low_sums,
            edges,
            self._listed,
            self._sizes,
        )

    def _new_edges(self, near: tuple[float, ...], sample: Tile) -> NDArray[np.int64]:
        """Brackets of the models that had none and can have one now."""
        margin = WIDE_MARGIN if np.isin(sample.codes, self._float32).any() else HALF_MARGIN
        found = np.zeros_like(self._edges)
        for model, k in enumerate(near):
            if not self._edges[model].any():
                found[model] = bracket(self._counts[model, :FIRST_NONFINITE_BIN], k, margin) or (0, 0)
        return found

    def _near_of(self, model: int) -> Near:
        if not self._near or self._sizes[model] > self._listed.shape[1]:
            return NOTHING
        if not self._edges[model].any():
            return NONE_MET
        first, stop = self._edges[model].tolist()
        return Near(first, stop, self._listed[model, : self._sizes[model]].copy())
