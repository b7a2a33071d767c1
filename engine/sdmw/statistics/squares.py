"""Exact sums of the squares of deltas that reach a threshold. Source: METHOD.md, "W_i", norm 2."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sdmw.statistics.look import Look, LookMemory, Tile, check_models

UNIT_EXPONENT = 298  # sums of squares of float32 are integers times 2**-298
_INFINITE = 255  # the exponent of infinity and NaN


def total_of(sums: NDArray[np.int64]) -> int:
    """The sum of squares, from those of mantissas by exponent (`kernels.squares`); NaN and infinity are not in it."""
    return sum(
        ((upper << 24) + lower) << 2 * (max(exponent, 1) - 1)
        for exponent, (upper, lower) in enumerate(sums[:_INFINITE].tolist())
        if upper or lower
    )


@dataclass(frozen=True, slots=True)
class KeptSquaresLook(Look[tuple[int, ...]]):
    """Asks for each model's sum of the squares of its kept deltas, as multiples of 2**-298; NaN and infinity in none.

    Attributes:
        patterns: of float32; a magnitude that reaches its model's is kept.
    """

    patterns: tuple[int, ...]

    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 15, result=1 << 10, kept=1 << 10)

    def counter(self, models: int) -> "KeptSquaresCounter":
        """A new counter, at zero."""
        return KeptSquaresCounter(self)

    def nothing(self, models: int) -> tuple[int, ...]:
        """No square."""
        return (0,) * models

    def add(self, one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
        """Model by model."""
        return tuple(mine + more for mine, more in zip(one, other, strict=True))


class KeptSquaresCounter:
    """Adds squares by exponent, as integers."""

    def __init__(self, look: KeptSquaresLook) -> None:
        from sdmw.kernels.chance import EXPONENTS
        from sdmw.kernels.squares import sum_squares_from

        self._add, self._thresholds = sum_squares_from, np.array(look.patterns, np.uint32).view(np.float32)
        self._sums = np.zeros((len(look.patterns), EXPONENTS, 2), np.int64)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        check_models(tile, len(self._sums))
        self._add(tile.addresses, tile.codes, tile.count, self._thresholds, self._sums)

    def result(self) -> tuple[int, ...]:
        """The sums so far; counting begins again."""
        found = tuple(map(total_of, self._sums))
        self._sums[:] = 0
        return found
