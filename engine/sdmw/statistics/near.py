"""The deltas near a percentile, listed while they are counted, so that its exact value seldom needs another look.

A piece's first elements tell roughly where the percentile lies; from there on every delta in a bracket of bins around
it is listed, if its low bits are not zero: those that are the histogram's count leaves over. Between bfloat16 models
that is a few in a thousand. Where the bracket misses, or the list is full, the layer is read again instead.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdmw.kernels.bins import BINS, LOW
from sdmw.statistics.low_bits import LowBits

MOST_OF_PIECE = 1 << 17  # patterns listed of one model in one piece, 0.5 MB
MOST = 1 << 18  # patterns kept of one model in one component of a layer, 1 MB


@dataclass(frozen=True, slots=True)
class Near:
    """All deltas of some bins whose low bits are not zero.

    Attributes:
        first, stop: the bins; none where stop is not larger.
        patterns: uint32, of each such delta's magnitude, in no order.
    """

    first: int
    stop: int
    patterns: NDArray[np.uint32]

    def __add__(self, other: "Near") -> "Near":
        first, stop = max(self.first, other.first), min(self.stop, other.stop)
        joined = Near(first, stop, np.concatenate([self._inside(first, stop), other._inside(first, stop)]))
        while joined.patterns.size > MOST:
            joined = joined._narrowed()
        return joined

    def covers(self, bins: Iterable[int]) -> bool:
        """Whether all these bins are known."""
        return all(self.first <= place < self.stop for place in bins)

    def low_bits(self, bins: Iterable[int]) -> LowBits:
        """How often each low half occurs in bins that are covered."""
        lows = {place: (self._inside(place, place + 1) & np.uint32(LOW - 1)).astype(np.uint16) for place in bins}
        found = {place: np.unique(each, return_counts=True) for place, each in lows.items()}
        return LowBits(
            {place: values for place, (values, _) in found.items()},
            {place: counts for place, (_, counts) in found.items()},
        )

    def _inside(self, first: int, stop: int) -> NDArray[np.uint32]:
        if first <= self.first and self.stop <= stop:
            return self.patterns
        return self.patterns[(self.patterns >= first << 16) & (self.patterns < max(first, stop) << 16)]

    def _narrowed(self) -> "Near":
        """The middle half of the bins; nothing where there is but one."""
        quarter = (self.stop - self.first) // 4
        if not quarter:
            return NOTHING
        first, stop = self.first + quarter, self.stop - quarter
        return Near(first, stop, self._inside(first, stop))


NOTHING = Near(0, 0, np.empty(0, np.uint32))  # knows no bin
NONE_MET = Near(0, BINS, np.empty(0, np.uint32))  # knows that every bin is empty of such deltas


def bracket(counts: NDArray[np.int64], k: float, margin: float) -> tuple[int, int] | None:
    """Bins that likely hold the k-th percentile of more data like these; None where nothing was counted.

    Args:
        counts: of all finite bins.
        k: the percentile, 0 to 100.
        margin: the share of ranks, 0 to 1, by which it may lie to either side.
    """
    if not counts.any():  # a tenth of the time of the sums
        return None
    ranks = np.cumsum(counts)
    count = int(ranks[-1])
    # Two ranks more, since the percentile lies between two. To the ends it reaches further than any rank: 0 and 100
    # ask for the extremes of all the data.
    low, high = (k / 100 - margin) * count - 2, (k / 100 + margin) * count + 2
    first = 0 if low <= 0 else int(np.searchsorted(ranks, low, side="right"))
    stop = counts.size if high >= count else int(np.searchsorted(ranks, high, side="right")) + 1
    return first, stop
