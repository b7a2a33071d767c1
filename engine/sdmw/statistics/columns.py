"""Norms and the dot product of two vectors in each column of a tensor: all elements of one place behind the first axis.

In float64, each column added up in the order of its rows: so the tensor is one piece, whatever its tiles are.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sdmw.statistics.look import Look, LookMemory, Tile

SUMS = 3  # of a column: the squares of the first vector, the products, the squares of the second
# Bytes of a column in a worker: its sums, twice where a result is made of them, and its shares.
COLUMN_BYTES = 3 * 8 * SUMS


@dataclass(frozen=True, slots=True)
class ColumnsLook(Look[NDArray[np.float64]]):
    """Asks for the sums, (3, columns).

    Attributes:
        elements: of the tensor.
        deltas: the vectors are deltas of the two models from the base; else their values, and there is no base.
    """

    elements: int
    deltas: bool

    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 15, result=1 << 10, kept=1 << 10)  # and `column_bytes`
    in_order: ClassVar[bool] = True

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The whole tensor at once."""
        return ((0, self.elements),)

    def counter(self, models: int) -> "ColumnsCounter":
        """A new counter."""
        return ColumnsCounter(deltas=self.deltas)

    def nothing(self, models: int) -> NDArray[np.float64]:
        """No column."""
        return np.zeros((SUMS, 0))

    def add(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        """The one that there is."""
        return one if one.size else other


class ColumnsCounter:
    """Adds tiles in order."""

    def __init__(self, *, deltas: bool) -> None:
        from sdmw.kernels import vectors

        self._add, self._deltas = vectors.add_column_products, deltas
        self._sums = np.zeros((SUMS, 0))

    def add(self, tile: Tile) -> None:
        """Count a tile; ValueError where it is not one of two models, and of the base where deltas are asked for."""
        if tile.addresses.size != 2 + self._deltas:
            raise ValueError(f"a tile of {tile.addresses.size} inputs for a counter of {2 + self._deltas}")
        if not self._sums.size:
            self._sums = np.zeros((SUMS, tile.columns))
        self._add(tile.addresses, tile.codes, tile.count, tile.first, tile.columns, self._deltas, self._sums)

    def result(self) -> NDArray[np.float64]:
        """The sums so far; counting begins again."""
        found, self._sums = self._sums, np.zeros((SUMS, 0))
        return found
