"""What SDM-W decides of a layer that is one small tensor: ranked as a whole, without bins."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sdmw.kernels.bins import SMALL
from sdmw.statistics.look import Look, LookMemory, Tile, check_models


@dataclass(frozen=True, slots=True)
class Cut:
    """One model's percentile, and what reaches it.

    Attributes:
        value: P; None where no finite delta is nonzero.
        pattern: of the smallest float32 that is at least P.
        nonzero: finite deltas that are not zero.
        kept: how many of them reach the pattern.
        magnitude: the exact sum of their magnitudes, as a multiple of 2**-149.
        nonfinite: deltas that are NaN or infinite.
    """

    value: float | None
    pattern: int
    nonzero: int
    kept: int
    magnitude: int
    nonfinite: int


@dataclass(frozen=True, slots=True)
class SmallLook(Look[tuple[Cut, ...]]):
    """Asks for the cut of each model.

    Attributes:
        k: the percentile, for each model.
        elements: of the tensor; at most `SMALL`.
    """

    k: tuple[float, ...]
    elements: int

    # Patterns of 4 bytes, sums of 8 for 256 exponents; and the kernel's blocks.
    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 17, result=1 << 10, kept=1 << 10)
    in_order: ClassVar[bool] = True

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The whole tensor at once."""
        return ((0, self.elements),)

    def counter(self, models: int) -> "SmallCounter":
        """A new counter."""
        return SmallCounter(self)

    def nothing(self, models: int) -> tuple[Cut, ...]:
        """No tensor."""
        return ()

    def add(self, one: tuple[Cut, ...], other: tuple[Cut, ...]) -> tuple[Cut, ...]:
        """The one that there is."""
        return one or other

    def nonfinite(self, statistic: tuple[Cut, ...]) -> int:
        """Of all models."""
        return sum(cut.nonfinite for cut in statistic)


class SmallCounter:
    """Keeps the patterns of all tiles, and sorts them in the end."""

    def __init__(self, look: SmallLook) -> None:
        from sdmw.kernels.small import EXPONENTS, decide_all, put_patterns

        models = len(look.k)
        self._put, self._decide, self._k = put_patterns, decide_all, np.array(look.k)
        self._patterns, self._count = np.empty((models, SMALL), np.uint32), 0
        self._cuts, self._numbers = np.empty(models), np.empty((models, 6), np.int64)
        self._sums = np.empty((models, EXPONENTS), np.int64)

    def add(self, tile: Tile) -> None:
        """Keep a tile's patterns; ValueError where there are more elements than a small tensor has."""
        check_models(tile, len(self._k))
        if self._count + tile.count > SMALL:
            raise ValueError(f"{self._count + tile.count} elements of a tensor that has at most {SMALL}")
        self._put(tile.addresses, tile.codes, tile.count, self._count, self._patterns)
        self._count += tile.count

    def result(self) -> tuple[Cut, ...]:
        """The cut of each model; counting begins again."""
        count, self._count = self._count, 0
        if not count:
            return ()
        self._decide(self._patterns, count, self._k, self._cuts, self._numbers, self._sums)
        return tuple(map(_cut, self._cuts.tolist(), self._numbers.tolist(), self._sums))


def _cut(value: float, numbers: list[int], sums: NDArray[np.int64]) -> Cut:
    nonzero, nonfinite, pattern, kept, least, behind = numbers
    magnitude = 0
    for exponent, each in enumerate(sums[least:behind].tolist(), least):
        magnitude += each << (max(exponent, 1) - 1)
    return Cut(value if nonzero else None, pattern, nonzero, kept, magnitude, nonfinite)
