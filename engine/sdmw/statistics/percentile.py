"""The k-th percentile of the nonzero magnitudes, from a histogram and the low bits of the bins that hold its ranks."""

import math
from dataclasses import dataclass

import numpy as np

from sdmw.statistics.histogram import Histogram, bin_sum
from sdmw.statistics.low_bits import LowBits

ALL_KEPT = 1  # the pattern that every magnitude but zero reaches
NOTHING_KEPT = 0x7F800000  # the pattern of infinity: above every finite magnitude


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where a layer of one model is cut.

    Attributes:
        value: P; None where nothing changed.
        pattern: of the smallest float32 that is at least P: what reaches it is kept.
        rank_error: the most ranks by which the cut can be off; 0 where it is exact.
    """

    value: float | None
    pattern: int
    rank_error: int = 0


UNCHANGED = Threshold(None, NOTHING_KEPT)


def ranks(count: int, k: float) -> tuple[int, int, float]:
    """The ranks between which the k-th percentile of `count` numbers lies, and where: `numpy.percentile`, linear."""
    rank = (count - 1) * (k / 100)
    lower = math.floor(rank)
    return lower, min(lower + 1, count - 1), rank - lower


def is_known(histogram: Histogram, k: float) -> bool:
    """Whether the histogram's bracket holds the ranks of a percentile, if there are any."""
    lower, upper, _ = ranks(histogram.nonzero, k)
    return histogram.nonzero == 0 or (histogram.knows(lower) and histogram.knows(upper))


def bins_to_open(histogram: Histogram, k: float) -> tuple[int, ...]:
    """The bins whose low bits the exact percentile needs: those of its ranks, where low bits occur at all."""
    if histogram.nonzero == 0:
        return ()
    lower, upper, _ = ranks(histogram.nonzero, k)
    places = sorted({histogram.place_of_rank(lower), histogram.place_of_rank(upper)})
    return tuple(int(histogram.bins[place]) for place in places if histogram.low_sums[place])


def exact(histogram: Histogram, low_bits: LowBits, k: float) -> Threshold:
    """P by linear interpolation in float64. Source: METHOD.md, "P, exact"."""
    count = histogram.nonzero
    if count == 0:
        return UNCHANGED
    lower, upper, share = ranks(count, k)
    a, b = magnitude_at(histogram, low_bits, lower), magnitude_at(histogram, low_bits, upper)
    # Two ways of writing it, by the half: NumPy's, or 13 % of layers get another last bit.
    value = a + (b - a) * share if share < 0.5 else b - (b - a) * (1 - share)
    return Threshold(value, smallest_pattern_from(value))


def approximate(histogram: Histogram, k: float) -> Threshold:
    """The lower edge of the bin that holds the lower rank. Source: METHOD.md, "P, approximate"."""
    if histogram.nonzero == 0:
        return UNCHANGED
    lower, _, _ = ranks(histogram.nonzero, k)
    place = histogram.place_of_rank(lower)
    pattern = max(int(histogram.bins[place]) << 16, 1)
    return Threshold(magnitude_of(pattern), pattern, int(histogram.counts[place]))


def magnitude_at(histogram: Histogram, low_bits: LowBits, rank: int) -> float:
    """The magnitude of a rank in S sorted."""
    place = histogram.place_of_rank(rank)
    high = int(histogram.bins[place])
    low = low_bits.at_rank(high, rank - histogram.rank_before(place), int(histogram.counts[place]))
    return magnitude_of(high << 16 | low)


def magnitude_of(pattern: int) -> float:
    """The value of a float32 pattern."""
    return float(np.uint32(pattern).view(np.float32))


def smallest_pattern_from(value: float) -> int:
    """The pattern of the smallest float32 that is at least a finite positive float64."""
    nearest = np.float32(value)
    pattern = int(nearest.view(np.uint32))
    return pattern + 1 if float(nearest) < value else pattern


def kept(histogram: Histogram, low_bits: LowBits, pattern: int) -> tuple[int, int]:
    """How many finite deltas reach a pattern, and the exact sum of their magnitudes as a multiple of 2**-149.

    Exact where the pattern lies at a bin's edge, in a bin that holds nothing, or in one that `low_bits` has opened.
    """
    if pattern <= 1:
        return histogram.nonzero, histogram.sum_from(0)
    high, low = pattern >> 16, pattern & 0xFFFF
    place = int(np.searchsorted(histogram.bins, high))
    count, total = 0, 0
    if low and place < histogram.finite_bins and histogram.bins[place] == high:
        count, low_sum = low_bits.from_low(high, low)
        total = bin_sum(high, count, low_sum)
        place += 1
    return count + histogram.nonzero - histogram.rank_before(place), total + histogram.sum_from(place)
