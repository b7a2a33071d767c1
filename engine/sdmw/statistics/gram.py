"""The Gram matrix of the models, or of their deltas: all norms and dot products, exact sums of fixed blocks."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sdmw.kernels.blocks import GRAIN
from sdmw.statistics.blocks import OpenBlocks, rounded
from sdmw.statistics.look import Look, LookMemory, Tile, check_models


@dataclass(frozen=True, slots=True)
class Gram:
    """Dot products of all pairs of vectors.

    Attributes:
        totals: of the pairs (0, 0), (0, 1), …, (1, 1), …, as multiples of 2**-1074; each the exact sum of the blocks'
            sums, so that parts can be added in any order.
        nonfinite: how many elements of the vectors are NaN or infinite; they count as zero.
    """

    totals: tuple[int, ...]
    nonfinite: int = 0

    def __add__(self, other: "Gram") -> "Gram":
        totals = tuple(mine + more for mine, more in zip(self.totals, other.totals, strict=True))
        return Gram(totals, self.nonfinite + other.nonfinite)

    def matrix(self) -> NDArray[np.float64]:
        """The symmetric matrix, each total rounded once."""
        size = math.isqrt(2 * len(self.totals))
        found = np.zeros((size, size))
        upper = np.triu_indices(size)
        found[upper] = rounded(self.totals)
        found.T[upper] = found[upper]
        return found


@dataclass(frozen=True, slots=True)
class GramLook(Look[Gram]):
    """Asks for the Gram matrix.

    Attributes:
        base: tiles have the base before the models.
        deltas: of the models' deltas from the base; else of all values that tiles have.
    """

    base: bool
    deltas: bool

    # For 400 models: 200 pairs of each with 16 lanes of 8 bytes and the sums of a tile's blocks; and as many totals of
    # up to 2,200 bits.
    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 18, result=1 << 16, kept=1 << 16)
    grain: ClassVar[int] = GRAIN
    in_order: ClassVar[bool] = True

    def counter(self, models: int) -> "GramCounter":
        """A new counter, at zero."""
        return GramCounter(models + self.base, deltas=self.deltas)

    def nothing(self, models: int) -> Gram:
        """No product."""
        return Gram((0,) * _pairs(models + self.base, deltas=self.deltas))

    def add(self, one: Gram, other: Gram) -> Gram:
        """Pair by pair."""
        return one + other

    def nonfinite(self, statistic: Gram) -> int:
        """Elements that are NaN or infinite."""
        return statistic.nonfinite


class GramCounter:
    """Adds products block by block. Tiles come in order, the first of them at a block's beginning."""

    def __init__(self, inputs: int, *, deltas: bool) -> None:
        from sdmw.kernels import dots

        self._dots, self._inputs, self._deltas = dots.dots, inputs, deltas
        self._blocks, self._nonfinite = OpenBlocks(_pairs(inputs, deltas=deltas)), np.zeros(1, np.int64)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        check_models(tile, self._inputs - 1)
        lanes, sums = self._blocks.lanes, self._blocks.room(tile)
        ended = self._dots(
            tile.addresses, tile.codes, tile.count, tile.first, self._deltas, lanes, sums, self._nonfinite
        )
        self._blocks.take(tile, sums[:ended])

    def result(self) -> Gram:
        """The matrix so far; counting begins again."""
        found = Gram(self._blocks.result().totals, int(self._nonfinite[0]))
        self._nonfinite[:] = 0
        return found


def _pairs(inputs: int, *, deltas: bool) -> int:
    size = inputs - deltas
    return size * (size + 1) // 2
