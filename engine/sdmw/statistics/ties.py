"""Where equal magnitudes lie: how many in each block of a tensor, and the element of the last one that is taken."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sdmw.kernels.blocks import GRAIN
from sdmw.statistics.look import Look, LookMemory, Tile

MOST_BLOCKS = 8192  # of a tensor
ALL_MODELS = -1


@dataclass(frozen=True, slots=True)
class Tied:
    """Equal magnitudes of one model, or equal variances of all.

    Attributes:
        model: its number; of `ALL_MODELS` it is the variance over all of them.
        pattern: of float32.
    """

    model: int
    pattern: int


def block_of(elements: int) -> int:
    """Elements in a block of a tensor: the least multiple of the grain of which there are few enough."""
    return -(-elements // (MOST_BLOCKS * GRAIN)) * GRAIN


@dataclass(frozen=True, slots=True)
class TiesLook(Look[NDArray[np.int64]]):
    """Asks how many equal magnitudes there are in each block.

    Attributes:
        tied: what is counted; at most two for each model.
        elements: of the tensor.
    """

    tied: tuple[Tied, ...]
    elements: int

    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 18, result=1 << 18, kept=1 << 18)

    @property
    def blocks(self) -> int:
        """How many blocks the tensor has."""
        return -(-self.elements // block_of(self.elements))

    def counter(self, models: int) -> "TiesCounter":
        """A new counter, at zero."""
        return TiesCounter(self)

    def nothing(self, models: int) -> NDArray[np.int64]:
        """No such magnitude."""
        return np.zeros((len(self.tied), self.blocks), np.int64)

    def add(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
        """Block by block."""
        return one + other


class TiesCounter:
    """Counts tiles."""

    def __init__(self, look: TiesLook) -> None:
        from sdmw.kernels import cuts

        self._count, self._look = cuts.count_equal, look
        self._models = np.array([each.model for each in look.tied], np.int64)
        self._patterns = np.array([each.pattern for each in look.tied], np.uint32)
        self._counts = look.nothing(0)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        block = block_of(self._look.elements)
        self._count(
            tile.addresses, tile.codes, tile.count, tile.first, self._models, self._patterns, block, self._counts
        )

    def result(self) -> NDArray[np.int64]:
        """The counts so far; counting begins again."""
        found, self._counts = self._counts, self._look.nothing(0)
        return found


@dataclass(frozen=True, slots=True)
class Taken:
    """So many of the equal magnitudes that a block holds.

    Attributes:
        tied: the magnitudes.
        start, stop: elements of the block.
        count: how many of them are taken; at least one, and fewer than there are.
    """

    tied: Tied
    start: int
    stop: int
    count: int


@dataclass(frozen=True, slots=True)
class LastTakenLook(Look[tuple[int, ...]]):
    """Asks for the element of the last magnitude that is taken in each block; reads these blocks alone.

    Attributes:
        taken: of each block.
    """

    taken: tuple[Taken, ...]

    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 15, result=1 << 10, kept=1 << 10)
    in_order: ClassVar[bool] = True

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The blocks, each once."""
        return tuple(dict.fromkeys((each.start, each.stop) for each in self.taken))

    def counter(self, models: int) -> "LastTakenCounter":
        """A new counter."""
        return LastTakenCounter(self)

    def nothing(self, models: int) -> tuple[int, ...]:
        """No element: −1."""
        return (-1,) * len(self.taken)

    def add(self, one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
        """What either found."""
        return tuple(map(max, one, other))


class LastTakenCounter:
    """Counts down, tile by tile in order, within one block."""

    def __init__(self, look: LastTakenLook) -> None:
        from sdmw.kernels import cuts

        self._find, self._look = cuts.find_equal, look
        self._begin()

    def _begin(self) -> None:
        self._found = np.array([(-1, each.count) for each in self._look.taken], np.int64).reshape(-1, 2)

    def add(self, tile: Tile) -> None:
        """Look through a tile."""
        for number, each in enumerate(self._look.taken):
            if self._found[number, 1] and each.start <= tile.first < each.stop:
                self._find(
                    tile.addresses, tile.codes, tile.count, tile.first, each.tied.model, np.uint32(each.tied.pattern),
                    self._found[number],
                )  # fmt: skip

    def result(self) -> tuple[int, ...]:
        """What was found."""
        found = tuple(map(int, self._found[:, 0]))
        self._begin()
        return found
