"""Cuts of a tensor's elements by rank, from a histogram: what methods that keep so many of the largest share.

Source: METHODS.md, section 4.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from sdmw.codec import Within, tagged
from sdmw.statistics import percentile
from sdmw.statistics.histogram import Histogram, bin_sum
from sdmw.statistics.low_bits import LowBits
from sdmw.statistics.percentile import NOTHING_KEPT
from sdmw.statistics.ties import Taken, Tied, block_of

LAST = (1 << 63) - 1  # behind every element


@tagged
@dataclass(frozen=True, slots=True)
class Cut:
    """Divides the elements of a tensor, in the order of kernels/cuts.py.

    Attributes:
        pattern: of float32: larger magnitudes come before the cut.
        element: of equal ones those up to this element.
    """

    pattern: Annotated[int, Within(0, NOTHING_KEPT)]
    element: Annotated[int, Within(-1, LAST)]


BEFORE_ALL, BEHIND_ALL = Cut(NOTHING_KEPT, -1), Cut(0, LAST)


@dataclass(frozen=True, slots=True)
class Place:
    """A cut behind so many elements, before it is known which of the equal ones they are.

    Attributes:
        pattern: as of `Cut`.
        taken: of the elements that equal it.
        tied: all that do.
        total: the sum of the magnitudes before it, as a multiple of 2**-149.
    """

    pattern: int
    taken: int
    tied: int
    total: int

    @property
    def splits(self) -> bool:
        """Whether it divides equal magnitudes."""
        return 0 < self.taken < self.tied

    def cut(self, last: int | None) -> Cut:
        """The cut, given the last element that is taken where it splits; None elsewhere."""
        if last is None:
            last = LAST if self.taken else -1
        return Cut(self.pattern, last)


def bins_of(histogram: Histogram, ends: Iterable[int]) -> tuple[int, ...]:
    """The bins of the cuts behind so many elements whose low bits are not all zero."""
    ranks = {histogram.nonzero - end for end in ends if 0 < end < histogram.nonzero}
    places = sorted({histogram.place_of_rank(rank) for rank in ranks})
    return tuple(int(histogram.bins[place]) for place in places if histogram.low_sums[place])


def place_of(histogram: Histogram, low_bits: LowBits, end: int) -> Place:
    """The cut behind so many elements; `low_bits` has the bins of `bins_of`."""
    if end <= 0:
        return Place(NOTHING_KEPT, 0, 0, 0)
    if end >= histogram.nonzero:  # zeros need no order: they add nothing
        return Place(0, 0, 0, histogram.sum_from(0))
    magnitude = percentile.magnitude_at(histogram, low_bits, histogram.nonzero - end)
    pattern = int(np.float32(magnitude).view(np.uint32))
    reaching, _ = percentile.kept(histogram, low_bits, pattern)
    above, total = percentile.kept(histogram, low_bits, pattern + 1)
    taken = end - above
    return Place(pattern, taken, reaching - above, total + bin_sum(pattern >> 16, taken, taken * (pattern & 0xFFFF)))


def taken_of(model: int, place: Place, counts: NDArray[np.int64], elements: int) -> Taken:
    """Of the equal magnitudes that a cut takes: those in the block that holds the last of them.

    Args:
        model: its number.
        place: the cut.
        counts: how many of them each block of the tensor holds.
        elements: of the tensor.
    """
    before, block = np.cumsum(counts), block_of(elements)
    number = int(np.searchsorted(before, place.taken))
    left = place.taken - int(before[number] - counts[number])
    tied = Tied(model, place.pattern)
    return Taken(tied, number * block, min((number + 1) * block, elements), left)
