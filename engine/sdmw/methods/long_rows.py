"""Keeping the larger deltas of one long row the likelier, without holding or sorting it.

An element is kept if its random word is below a bound that rises with the rank of its magnitude. Counted by ranges of
magnitudes, ranks are known within limits: most words are below the bound of the least rank in their range, or not below
that of the largest. What is open, no more elements than there are ranges, gets ranges of single magnitudes; then the
range of an element decides on its word.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sdmw.errors import Problem, RunError, quoted
from sdmw.statistics.between import Between, BetweenLook, Bounds
from sdmw.statistics.look import Look, Measured
from sdmw.statistics.ranges import EVERY_BIN, ApartLook, Ranges, RangesLook

LOOKS: tuple[type[Look[Any]], ...] = (RangesLook, BetweenLook, ApartLook)
_SPARE = 256  # open elements, beyond half as many again as are expected


@dataclass(frozen=True, slots=True)
class Chance:
    """How likely the elements of one model's row are kept.

    Attributes:
        density: on average; less than 1.
        epsilon: by how much the largest is likelier than that, and the smallest less likely.
        elements: of the row; at least two.
    """

    density: float
    epsilon: float
    elements: int

    @property
    def parts(self) -> int:
        """Into how many ranges ranks are divided: so many that no more elements than that stay open, on average."""
        return math.isqrt(int(4 * self.epsilon * self.elements)) + 1

    @property
    def populous(self) -> int:
        """A range of more elements is split."""
        return -(-self.elements // self.parts)

    @property
    def room(self) -> int:
        """Open elements at most: words that lie where these data want them would leave more."""
        return 3 * self.parts // 2 + _SPARE

    @property
    def ranges(self) -> int:
        """At most: those of `_grouped`, and two more for each open element."""
        return 3 * self.parts + 1 + 2 * self.room

    def bounds(self, ranks: NDArray[Any]) -> NDArray[np.uint32]:
        """The bounds of words of elements of these ranks, as of `kernels.ranks.bounds_by_rank`."""
        shares = (self.density - self.epsilon) + (2.0 * self.epsilon) * (ranks / (self.elements - 1))
        return (shares * 2.0**32).astype(np.uint64).astype(np.uint32)


@dataclass(frozen=True, slots=True)
class Bounded:
    """Ranges, each of which holds something, and what their ranks say of words.

    Attributes:
        ranges: of one model.
        lower: words below it are kept.
        upper: words from it on are not kept; where a range holds a single magnitude it is the same.
    """

    ranges: Ranges
    lower: NDArray[np.uint32]
    upper: NDArray[np.uint32]

    @classmethod
    def of(cls, chance: Chance, ranges: Ranges) -> "Bounded":
        """By the least and the largest rank in each range. Equal magnitudes share the mean of their ranks."""
        before, others = np.cumsum(ranges.counts) - ranges.counts, ranges.counts - 1
        single = ranges.lowest == ranges.highest
        lower = chance.bounds(before + np.where(single, 0.5 * others, 0))
        return cls(ranges, lower, chance.bounds(before + np.where(single, 0.5 * others, others)))

    @property
    def open(self) -> float:
        """How many elements have a word between both bounds, on average."""
        return float(((self.upper - self.lower) / 2.0**32 * self.ranges.counts).sum())

    def steps(self) -> bytes:
        """Starts and bounds of words, (2, ranges) uint32, little-endian; no word lies between two bounds."""
        rises = np.concatenate([[True], self.lower[1:] != self.lower[:-1]])
        return np.array([self.ranges.starts[rises], self.lower[rises]], "<u4").tobytes()


def next_look(seed: int, chances: Sequence[Chance], have: Measured) -> Look[Any] | None:
    """The next look at a row; None once every word is decided.

    Args:
        seed: of the random words.
        chances: of each model.
        have: what was measured.

    Raises:
        RunError: more elements are open than chance leaves.
    """
    if have.of(RangesLook) is None:
        return RangesLook((EVERY_BIN,) * len(chances))
    if have.of(ApartLook) is not None:
        return None
    found = bounded(chances, have)
    if have.of(BetweenLook) is None:
        if any(map(_too_open, chances, found)):
            return RangesLook(_packed(map(_split, chances, found)))
        if not any(each.open for each in found):
            return None
        bounds = tuple(Bounds.of(each.ranges.starts, each.lower, each.upper) for each in found)
        return BetweenLook(seed, bounds, max(chance.room for chance in chances))
    between = _only(have, BetweenLook)
    for chance, each in zip(chances, between, strict=True):
        _check(chance, each)
    return ApartLook(_packed(map(_apart, found, between))) if any(each.elements for each in between) else None


def bounded(chances: Sequence[Chance], have: Measured) -> list[Bounded]:
    """What was measured last says of each model."""
    if have.of(ApartLook) is not None:
        ranges = [each.filled() for each in _only(have, ApartLook)]
    else:
        ranges = [
            _grouped(chance, each.filled()) for chance, each in zip(chances, _only(have, RangesLook), strict=True)
        ]
    return list(map(Bounded.of, chances, ranges))


def _grouped(chance: Chance, ranges: Ranges) -> Ranges:
    """The populous ranges, and those between them put together where they begin in the same part of all ranks."""
    populous, begins = ranges.counts > chance.populous, np.ones(ranges.counts.size, bool)
    part = (np.cumsum(ranges.counts) - ranges.counts) // chance.populous
    begins[1:] = populous[1:] | populous[:-1] | (part[1:] != part[:-1])
    first = np.flatnonzero(begins)
    return Ranges(
        ranges.starts[first],
        np.add.reduceat(ranges.counts, first),
        np.minimum.reduceat(ranges.lowest, first),
        np.maximum.reduceat(ranges.highest, first),
    )


def _too_open(chance: Chance, found: Bounded) -> bool:
    """Whether more elements are open than there are parts, and a range can be split."""
    return found.open > chance.parts and bool((_pieces(chance, found.ranges) > 1).any())


def _pieces(chance: Chance, ranges: Ranges) -> NDArray[np.int64]:
    """Into how many each range is split: a populous one for each part of all ranks, as far as it has patterns."""
    wanted = np.where(ranges.counts > chance.populous, -(-ranges.counts // chance.populous), 1)
    found: NDArray[np.int64] = np.minimum(wanted, _width(ranges))
    return found


def _split(chance: Chance, found: Bounded) -> NDArray[np.uint32]:
    """Starts of the ranges, of which the populous ones are split evenly from the least to the largest pattern."""
    ranges, pieces = found.ranges, _pieces(chance, found.ranges)
    whole = np.repeat(np.arange(pieces.size), pieces)  # the range that each piece is one of
    number = np.arange(whole.size) - (np.cumsum(pieces) - pieces)[whole]
    starts = ranges.lowest[whole] + _width(ranges)[whole] * number // pieces[whole]
    return np.where(number, starts, ranges.starts[whole]).astype(np.uint32)


def _width(ranges: Ranges) -> NDArray[np.int64]:
    """Patterns from the least to the largest that there is in each range."""
    return ranges.highest.astype(np.int64) - ranges.lowest + 1


def _apart(found: Bounded, between: Between) -> NDArray[np.uint32]:
    """Starts of the ranges, of which each open magnitude gets one of its own."""
    return np.unique(np.concatenate([found.ranges.starts, between.patterns, between.patterns + np.uint32(1)]))


def _check(chance: Chance, between: Between) -> None:
    """RunError where an input was made so that words of this seed leave more open than they do by chance."""
    if between.elements > chance.room:
        expected = f"at most {chance.room:,} deltas whose exact ranks matter"
        mend = "Choose another random_seed"
        raise RunError([Problem(f"tensor {quoted(between.tensor)}", expected, f"{between.elements:,}", mend)])


def _packed(starts: Iterable[NDArray[np.uint32]]) -> tuple[bytes, ...]:
    return tuple(each.astype("<u4").tobytes() for each in starts)


def _only(have: Measured, look: type[Look[Any]]) -> Any:
    """What a look found in a layer of one tensor."""
    (found,) = cast("Mapping[str, Any]", have.of(look)).values()
    return found
