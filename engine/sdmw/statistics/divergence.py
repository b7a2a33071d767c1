"""How far the softmax of a model's values is from that of the base's, where they are one row: step by step."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sdmw.kernels.blocks import GRAIN
from sdmw.statistics.blocks import BlockSums, OpenBlocks
from sdmw.statistics.look import Look, LookMemory, Tile, check_models

Pair = tuple[float, float]  # of the model, and of the base


@dataclass(frozen=True, slots=True)
class LargestLook(Look[Pair]):
    """Asks for the largest value of each; NaN is none."""

    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 15, result=1 << 10, kept=1 << 10)

    def counter(self, models: int) -> "LargestCounter":
        """A new counter."""
        return LargestCounter(models)

    def nothing(self, models: int) -> Pair:
        """Below all values."""
        return -math.inf, -math.inf

    def add(self, one: Pair, other: Pair) -> Pair:
        """The larger of both parts."""
        return max(one[0], other[0]), max(one[1], other[1])


class LargestCounter:
    """Compares tile by tile."""

    def __init__(self, models: int) -> None:
        from sdmw.kernels import divergence

        self._find, self._models, self._tops = divergence.find_largest, models, np.full(2, -np.inf)

    def add(self, tile: Tile) -> None:
        """Look through a tile."""
        check_models(tile, self._models)
        self._find(tile.addresses, tile.codes, tile.count, self._tops)

    def result(self) -> Pair:
        """The largest so far; comparing begins again."""
        model, base = self._tops.tolist()
        self._tops[:] = -np.inf
        return model, base


@dataclass(frozen=True, slots=True)
class PowersLook(Look[BlockSums]):
    """Asks for the sums of powers of e, of the model and of the base.

    Attributes:
        tops: what is taken from each exponent: the largest values.
    """

    tops: Pair

    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 16, result=1 << 11, kept=1 << 11)
    grain: ClassVar[int] = GRAIN
    in_order: ClassVar[bool] = True

    def counter(self, models: int) -> "BlocksCounter":
        """A new counter, at zero."""
        return BlocksCounter(models, self.tops)

    def nothing(self, models: int) -> BlockSums:
        """No power."""
        return BlockSums((0, 0))

    def add(self, one: BlockSums, other: BlockSums) -> BlockSums:
        """Sum by sum."""
        return one + other


@dataclass(frozen=True, slots=True)
class DivergenceLook(Look[BlockSums]):
    """Asks for the sum of the divergence's terms.

    Attributes:
        tops: the largest values, of the model and of the base.
        totals: the sums of the powers.
    """

    tops: Pair
    totals: Pair

    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 16, result=1 << 11, kept=1 << 11)
    grain: ClassVar[int] = GRAIN
    in_order: ClassVar[bool] = True

    def counter(self, models: int) -> "BlocksCounter":
        """A new counter, at zero."""
        return BlocksCounter(models, self.tops, self.totals)

    def nothing(self, models: int) -> BlockSums:
        """No term."""
        return BlockSums((0,))

    def add(self, one: BlockSums, other: BlockSums) -> BlockSums:
        """Of both parts."""
        return one + other


class BlocksCounter:
    """Adds powers, or the divergence's terms, block by block."""

    def __init__(self, models: int, tops: Pair, totals: Pair | tuple[()] = ()) -> None:
        from sdmw.kernels import divergence

        self._sum, self._models = divergence.sum_by_block, models
        self._tops, self._totals = np.array(tops), np.array(totals, np.float64)
        self._blocks = OpenBlocks(1 if totals else 2)

    def add(self, tile: Tile) -> None:
        """Count a tile. Tiles come in order, the first of them at a block's beginning."""
        check_models(tile, self._models)
        lanes, sums = self._blocks.lanes, self._blocks.room(tile)
        ended = self._sum(tile.addresses, tile.codes, tile.count, tile.first, self._tops, self._totals, lanes, sums)
        self._blocks.take(tile, sums[:ended])

    def result(self) -> BlockSums:
        """The sums so far; adding begins again."""
        return self._blocks.result()
