"""One look at the data of a layer: what a method asks for, and what a worker does with each tile."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tile:
    """The same run of elements of every input, as kernels take it; the base is the first.

    Attributes:
        addresses: int64, of the first element in each input; the memory must outlive the call.
        codes: int64, the dtype of each input (`sdmw.kernels.tiles`).
        count: elements.
    """

    addresses: NDArray[np.int64]
    codes: NDArray[np.int64]
    count: int

    def cut(self, start: int, stop: int) -> "Tile":
        """The elements from start to stop."""
        return Tile(self.addresses + start * _ITEMSIZES[self.codes], self.codes, stop - start)


_ITEMSIZES = np.array([4, 2, 2, 4])  # bytes, by code


class Statistic(Protocol):
    """What one look tells of one model."""

    @property
    def nonfinite(self) -> int:
        """How many NaN or infinite deltas were met, as far as this look counts them."""

    def __add__(self, other: Self, /) -> Self: ...


class Counter(Protocol):
    """Takes tiles one by one; lives in one worker."""

    def add(self, tile: Tile) -> None:
        """Count a tile."""

    def result(self) -> tuple[Any, ...]:
        """A `Statistic` for each model of what was added since the last one; counting begins anew."""


class Look(Protocol):
    """Frozen and picklable."""

    kind: ClassVar[str]

    def counter(self, models: int) -> Counter:
        """A new counter, at zero."""

    def nothing(self, models: int) -> tuple[Any, ...]:
        """What no tile at all gives, for each model."""
