"""How many magnitudes of each model lie in ranges of patterns, from any start to the next: what bounds their ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sdmw.kernels.bins import BINS
from sdmw.statistics.look import Look, LookMemory, Tile, add_by_model, check_models

EVERY_BIN = (np.arange(BINS, dtype="<u4") << np.uint32(16)).tobytes()
# Bytes of a range: in a worker, counted and given away, with two results on their way; and while a layer is decided.
RANGE_BYTES, OPEN_RANGE = 80, 160
_NONE = np.uint32(0xFFFFFFFF)  # above every pattern


@dataclass(frozen=True, eq=False, slots=True)
class Ranges:
    """Of one model.

    Attributes:
        starts: uint32, rising: the least pattern of each range.
        counts: int64, magnitudes in each.
        lowest, highest: uint32, the least and the largest pattern that there is in each.
    """

    starts: NDArray[np.uint32]
    counts: NDArray[np.int64]
    lowest: NDArray[np.uint32]
    highest: NDArray[np.uint32]

    def __add__(self, other: "Ranges") -> "Ranges":
        lowest, highest = np.minimum(self.lowest, other.lowest), np.maximum(self.highest, other.highest)
        return Ranges(self.starts, self.counts + other.counts, lowest, highest)

    def filled(self) -> "Ranges":
        """Those that hold anything."""
        held = self.counts != 0
        return Ranges(self.starts[held], self.counts[held], self.lowest[held], self.highest[held])


@dataclass(frozen=True, slots=True)
class RangesLook(Look[tuple[Ranges, ...]]):
    """Asks for the magnitudes in each range.

    Attributes:
        starts: of each model, uint32, little-endian.
    """

    starts: tuple[bytes, ...]

    # Of 32,768 ranges; further ones come to it, `Method.ranges`.
    memory: ClassVar[LookMemory] = LookMemory(counter=5 << 18, result=11 << 16, kept=11 << 17)

    def counter(self, models: int) -> "RangesCounter":
        """A new counter, at zero."""
        return RangesCounter(models, self.starts)

    def nothing(self, models: int) -> tuple[Ranges, ...]:
        """No magnitude."""
        return tuple(_empty(np.frombuffer(each, "<u4")) for each in self.starts)

    def add(self, one: tuple[Ranges, ...], other: tuple[Ranges, ...]) -> tuple[Ranges, ...]:
        """Model by model."""
        return add_by_model(one, other)


@dataclass(frozen=True, slots=True)
class ApartLook(RangesLook):
    """The same, of ranges that part magnitudes which were open before."""


class RangesCounter:
    """Counts tiles of base and models."""

    def __init__(self, models: int, starts: Sequence[bytes]) -> None:
        from sdmw.kernels import steps

        self._count, self._models = steps.count_ranges, models
        self._own = [np.frombuffer(each, "<u4") for each in starts]
        self._starts, self._ends = np.concatenate(self._own), ends_of(self._own)
        self._met = _empty(self._starts)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        check_models(tile, self._models)
        met = self._met
        self._count(tile.addresses, tile.codes, tile.count, met.starts, self._ends, met.counts, met.lowest, met.highest)

    def result(self) -> tuple[Ranges, ...]:
        """What was met so far; counting begins again."""
        parts = [np.split(each, self._ends[1:-1]) for each in (self._met.counts, self._met.lowest, self._met.highest)]
        self._met = _empty(self._starts)
        return tuple(map(Ranges, self._own, *parts))


def ends_of(arrays: Sequence[NDArray[np.uint32]]) -> NDArray[np.int64]:
    """Where each array begins once they stand one behind the other, and where the last one ends."""
    return np.cumsum([0, *(each.size for each in arrays)])


def _empty(starts: NDArray[np.uint32]) -> Ranges:
    size = starts.size
    return Ranges(starts, np.zeros(size, np.int64), np.full(size, _NONE, np.uint32), np.zeros(size, np.uint32))
