"""Where a percentile cuts a layer of one model, and what it keeps, as far as bins tell.

A bin holds magnitudes of equal high bits. Of its low bits a store knows how many are zero, their sum, and the sum of
their squares. So what lies in whole bins is exact; within one bin there are bounds, which are exact where it holds one
value, where the rank lies at its edge, and at the ends of the layer.
"""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np

from sdmw.kernels.bins import LOW
from sdmw.statistics.histogram import UNIT_EXPONENT
from sdmw.statistics.percentile import magnitude_of, ranks, smallest_pattern_from
from sdmw.stores.bins import StoredBins

Bounds = tuple[int, int]  # the least and the largest that it can be
LAST = LOW - 1
# Below this share of the way from one rank to the next, the percentile may round to the first; above it never does.
SURE = 2.0**-20
ROUNDED = 2.0**-50  # by which interpolation may be off, relative to the larger number: three roundings


@dataclass(frozen=True, slots=True)
class Cut:
    """What is known of one percentile.

    Attributes:
        threshold: P; None where nothing changed.
        kept: how many deltas reach it.
        magnitude: the sum of their magnitudes, as a multiple of 2**-149.
        squares: the sum of their squares, as a multiple of 2**-298.
    """

    threshold: tuple[float, float] | None
    kept: Bounds
    magnitude: Bounds
    squares: Bounds


NOTHING = Cut(None, (0, 0), (0, 0), (0, 0))


@dataclass(frozen=True, slots=True)
class _Bin:
    """One bin.

    Attributes:
        place: among the occupied ones.
        high: the high bits of its magnitudes.
        before: how many deltas lie in bins before it.
        count: of its deltas.
        odds: those among them whose low bits are not zero.
        low: the sum of these.
        squares: the sum of their squares.
    """

    place: int
    high: int
    before: int
    count: int
    odds: int
    low: int
    squares: int

    @property
    def only(self) -> int | None:
        """What all low bits are that are not zero; None where they differ, or there are none."""
        same = self.odds and self.odds * self.squares == self.low * self.low
        return self.low // self.odds if same else None

    def low_at(self, rank: int) -> Bounds:
        """The low bits of the delta of a rank within the bin."""
        number = rank - (self.count - self.odds)  # among those that are not zero
        if number < 0:
            return 0, 0
        if (only := self.only) is not None:
            return only, only
        above = self.odds - number - 1
        # What lies below is no larger, what lies above is no smaller: both bound the one that is asked for.
        least = -(-(self.low - above * LAST) // (number + 1))
        most = (self.low - number) // (above + 1)
        return max(1, least), min(LAST, most)

    def reaching(self, low: int) -> Bounds:
        """How many deltas have low bits of at least so much."""
        if low == 0:
            return self.count, self.count
        if low == 1 or not self.odds:
            return self.odds, self.odds
        if (only := self.only) is not None:
            found = self.odds if only >= low else 0
            return found, found
        least = -(-(self.low - self.odds * (low - 1)) // (LAST - low + 1)) if low < LAST else 0
        return max(0, min(self.odds, least)), min(self.odds, (self.low - self.odds) // (low - 1))

    def top(self, number: int) -> tuple[Bounds, Bounds]:
        """The sum of the low bits of the largest deltas, so many of them; and the sum of their squares."""
        if number >= self.odds:
            return (self.low, self.low), (self.squares, self.squares)
        if (only := self.only) is not None or not number:
            value = only or 0
            return (number * value,) * 2, (number * value * value,) * 2
        rest = self.odds - number
        # The largest are no smaller than the mean; and by Cauchy and Schwarz above it by so much at most.
        spread = math.isqrt(number * rest * max(0, self.odds * self.squares - self.low * self.low)) + 1
        most = min(self.low - rest, number * LAST, -(-(number * self.low + spread) // self.odds))
        most_squares = min(self.squares - rest, number * LAST * LAST)
        least, least_squares = -(-number * self.low // self.odds), -(-number * self.squares // self.odds)
        return (least, max(least, most)), (least_squares, max(least_squares, most_squares))


class Ranked:
    """One model's deltas in a layer, ranked by their bins.

    Attributes:
        nonzero: how many there are.
    """

    def __init__(self, bins: StoredBins) -> None:
        self._bins = bins
        # Lists, since to look up one number in an array takes ten times as long.
        self._high: list[int] = bins.bins.tolist()
        self._ends: list[int] = np.cumsum(bins.counts).tolist()
        self.nonzero = self._ends[-1] if self._ends else 0
        self._extremes = [int(np.float32(each).view(np.uint32)) for each in (bins.smallest, bins.largest)]
        self._sums = _Sums(bins)
        self._asked: dict[int, _Bin] = {}

    @property
    def magnitude(self) -> int:
        """The sum of all, as a multiple of 2**-149."""
        return self._sums.from_place(0)[0]

    @property
    def squares(self) -> int:
        """The sum of all squares, as a multiple of 2**-298."""
        return self._sums.from_place(0)[1]

    def at_edge(self, rank: int) -> bool:
        """Whether the delta of a rank is the first that its bin can hold."""
        found = self._bin(bisect_right(self._ends, rank))
        return rank - found.before < found.count - found.odds

    def cut(self, k: float) -> Cut:
        """What is known of the k-th percentile."""
        if not self.nonzero:
            return NOTHING
        lower, upper, share = ranks(self.nonzero, k)
        one = self._pattern_at(lower)
        other = self._pattern_at(upper) if share else one
        low, high = _between(one[0], other[0], share), _between(one[1], other[1], share)
        if one[0] != one[1] or other[0] != other[1]:
            low = max(low * (1 - ROUNDED), magnitude_of(one[0]))
            high = min(high * (1 + ROUNDED), magnitude_of(other[1]))
        # What ranks at `upper` reaches it in any case; what ranks at `lower` where the percentile is nothing more.
        certain = self.nonzero - (upper if share else lower)
        least = max(certain, self._reaching(smallest_pattern_from(high))[0])
        most = self._reaching(smallest_pattern_from(low))[1]
        if share >= SURE and one[1] < other[0]:
            most = certain
        most = max(least, most)
        magnitude, squares = self._top(least)
        more, more_squares = (magnitude, squares) if most == least else self._top(most)
        return Cut((low, high), (least, most), (magnitude[0], more[1]), (squares[0], more_squares[1]))

    def _bin(self, place: int) -> _Bin:
        """Kept: a cut asks for the same one several times, and the next percentile often for it again."""
        if place not in self._asked:
            self._asked[place] = self._made(place)
        return self._asked[place]

    def _made(self, place: int) -> _Bin:
        bins = self._bins
        count, (low, high) = int(bins.counts[place]), bins.squares[place].tolist()
        return _Bin(
            place,
            self._high[place],
            self._ends[place] - count,
            count,
            count - int(bins.at_edge[place]),
            int(bins.low_sums[place]),
            low + (high << 32),
        )

    def _pattern_at(self, rank: int) -> Bounds:
        """Of the delta of a rank."""
        first, last = self._extremes
        if rank == 0:
            return first, first
        if rank == self.nonzero - 1:
            return last, last
        found = self._bin(bisect_right(self._ends, rank))
        low, high = found.low_at(rank - found.before)
        origin = found.high << 16
        return max(first, origin | low), min(last, origin | high)

    def _reaching(self, pattern: int) -> Bounds:
        """How many deltas reach a pattern."""
        high, low = pattern >> 16, pattern & LAST
        place = bisect_left(self._high, high)
        if place == len(self._high):
            return 0, 0
        found = self._bin(place)
        above = self.nonzero - found.before
        if found.high != high:
            return above, above
        least, most = found.reaching(low)
        return above - found.count + least, above - found.count + most

    def _top(self, number: int) -> tuple[Bounds, Bounds]:
        """The sums of the magnitudes of so many deltas, the largest, and of their squares; at least one."""
        place = bisect_right(self._ends, self.nonzero - number)
        found = self._bin(place)
        inside = number - (self.nonzero - found.before - found.count)
        lows, squares = found.top(inside)
        above, above_squares = self._sums.from_place(place + 1)
        shift, head = max(found.high >> 7, 1) - 1, (found.high & 127) + (128 if found.high >> 7 else 0)

        def value(low: int) -> int:
            return above + (((inside * head << 16) + low) << shift)

        def square(low: int, squares: int) -> int:
            return above_squares + (((inside * head * head << 32) + (head * low << 17) + squares) << 2 * shift)

        return (value(lows[0]), value(lows[1])), (square(lows[0], squares[0]), square(lows[1], squares[1]))


class _Sums:
    """Exact sums of all magnitudes in bins from any place on.

    Within an exponent everything fits 64 bits; only Python's integers hold the exponents together.
    """

    def __init__(self, bins: StoredBins) -> None:
        high = bins.bins.astype(np.int64)
        heads = (high & 127) + np.where(high >> 7, 128, 0)
        columns = (
            bins.counts * heads,
            bins.low_sums,
            bins.counts * heads * heads,
            bins.low_sums * heads,
            bins.squares[:, 0],
            bins.squares[:, 1],
        )
        # By place: the sums from the first bin up to it.
        self._running = np.zeros((high.size + 1, len(columns)), np.int64)
        np.cumsum(np.stack(columns, axis=1), axis=0, out=self._running[1:])
        starts = np.flatnonzero(np.diff(high >> 7, prepend=-1))
        self._stops = np.append(starts[1:], high.size).tolist() if high.size else []
        self._exponents = (high[starts] >> 7).tolist()
        self._group = np.repeat(np.arange(starts.size), np.diff(np.append(starts, high.size)))
        self._beyond = [(0, 0)]
        for group in reversed(range(starts.size)):
            value, square = self._part(int(starts[group]), group)
            self._beyond.append((self._beyond[-1][0] + value, self._beyond[-1][1] + square))
        self._beyond.reverse()

    def _part(self, place: int, group: int) -> tuple[int, int]:
        """The sums from a place to the end of its exponent."""
        heads, lows, square_heads, mixed, low, high = (
            self._running[self._stops[group]] - self._running[place]
        ).tolist()
        shift = max(self._exponents[group], 1) - 1
        squares = (square_heads << 32) + (mixed << 17) + low + (high << 32)
        return ((heads << 16) + lows) << shift, squares << 2 * shift

    def from_place(self, place: int) -> tuple[int, int]:
        """The sums of magnitudes and squares from a place on."""
        if place >= self._group.size:
            return 0, 0
        group = int(self._group[place])
        value, square = self._part(place, group)
        beyond = self._beyond[group + 1]
        return value + beyond[0], square + beyond[1]


def in_units(bounds: Bounds, power: int = 1) -> tuple[float, float]:
    """Multiples of 2**-149 to a power, each rounded once."""
    unit = 1 << power * UNIT_EXPONENT
    return bounds[0] / unit, bounds[1] / unit


def _between(one: int, other: int, share: float) -> float:
    """Linear interpolation of two patterns' values, as METHOD.md has it."""
    a, b = magnitude_of(one), magnitude_of(other)
    return a + (b - a) * share if share < 0.5 else b - (b - a) * (1 - share)
