"""Float sums over a tensor that no tiling changes: of fixed blocks, each by itself, then added exactly as integers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdmw.kernels.blocks import GRAIN, LANES
from sdmw.statistics.look import Tile

UNIT_EXPONENT = 1074  # sums are multiples of 2**-1074, float64's smallest number


@dataclass(frozen=True, slots=True)
class BlockSums:
    """Several sums over the same elements.

    Attributes:
        totals: as multiples of 2**-1074; each the exact sum of the blocks' sums, so that parts can be added in any
            order. What is NaN or infinite adds nothing.
        finite: nothing was.
    """

    totals: tuple[int, ...]
    finite: bool = True

    def __add__(self, other: "BlockSums") -> "BlockSums":
        totals = tuple(mine + more for mine, more in zip(self.totals, other.totals, strict=True))
        return BlockSums(totals, self.finite and other.finite)

    def numbers(self) -> tuple[float, ...]:
        """Each total rounded once."""
        return rounded(self.totals)


def rounded(totals: Sequence[int]) -> tuple[float, ...]:
    """Multiples of 2**-1074, each rounded once."""
    return tuple(total / (1 << UNIT_EXPONENT) for total in totals)


class OpenBlocks:
    """The sums of all blocks that tiles ended, and the lanes of the one that the next tile goes on with.

    Tiles come in order, the first of them at a block's beginning.

    Attributes:
        lanes: (sums, LANES), float64: what a kernel adds to.
    """

    def __init__(self, sums: int) -> None:
        self.lanes = np.zeros((sums, LANES))
        self._begin()

    def _begin(self) -> None:
        self._total, self._open = BlockSums((0,) * len(self.lanes)), False

    def room(self, tile: Tile) -> NDArray[np.float64]:
        """For the sums of the blocks that a tile may end."""
        return np.empty((tile.count // GRAIN + 2, len(self.lanes)))

    def take(self, tile: Tile, ended: NDArray[np.float64]) -> None:
        """The sums of the blocks that a tile ended; its rest is in the lanes."""
        self._add(ended)
        self._open = (tile.first + tile.count) % GRAIN != 0

    def result(self) -> BlockSums:
        """All sums so far; adding begins again."""
        from sdmw.kernels.dots import folded

        if self._open:  # the tensor ends within a block
            self._add(np.array([[folded(row) for row in self.lanes]]))
        found = self._total
        self._begin()
        return found

    def _add(self, blocks: NDArray[np.float64]) -> None:
        for block in blocks:
            self._total += BlockSums(tuple(map(_in_units, block)), bool(np.isfinite(block).all()))


def _in_units(number: float) -> int:
    """A float64 as a multiple of 2**-1074."""
    if not math.isfinite(number):
        return 0
    numerator, denominator = float(number).as_integer_ratio()
    return (numerator << UNIT_EXPONENT) // denominator
