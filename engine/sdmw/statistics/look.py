"""One look at the data of a layer: what a method asks for, and what a worker does with each tile."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

S = TypeVar("S")  # what a look returns for one piece
S_co = TypeVar("S_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Tile:
    """The same run of elements of every input, as kernels take it; the base, where there is one, comes first.

    Attributes:
        addresses: int64, of the first element in each input; the memory must outlive the call.
        codes: int64, the dtype of each input (`sdmw.kernels.tiles`).
        count: elements.
        tensor: name of the tensor that it is a tile of.
        first: its first element's number in that tensor.
        row: elements along the tensor's last axis.
        columns: places behind the first axis; elements that are so many apart are in one column.
        begin, end: of a tile of whole rows, what is to be merged: elements, counted from its first; −1 is its end.
    """

    addresses: NDArray[np.int64]
    codes: NDArray[np.int64]
    count: int
    tensor: str = ""
    first: int = 0
    row: int = 1
    columns: int = 1
    begin: int = 0
    end: int = -1

    @property
    def merged(self) -> tuple[int, int]:
        """Which elements are to be merged, counted from its first: the first one, and the one behind the last."""
        return self.begin, self.count if self.end < 0 else self.end

    def cut(self, start: int, stop: int) -> "Tile":
        """The elements from start to stop."""
        addresses = self.addresses + start * _ITEMSIZES[self.codes]
        return Tile(addresses, self.codes, stop - start, self.tensor, self.first + start, self.row, self.columns)


_ITEMSIZES = np.array([4, 2, 2, 4])  # bytes, by code


@dataclass(frozen=True, slots=True)
class LookMemory:
    """Bytes of memory that a look takes for each model.

    Attributes:
        counter: in a worker, while it counts.
        result: of one piece's result, on its way to the driver.
        kept: of one component of a layer, until the layer is decided.
    """

    counter: int
    result: int
    kept: int


class Counter(Protocol[S_co]):
    """Takes tiles one by one; lives in one worker."""

    def add(self, tile: Tile) -> None:
        """Count a tile."""

    def result(self) -> S_co:
        """What was added since the last result; counting begins again."""


class Look(ABC, Generic[S]):
    """What is to be measured. A subclass is a frozen, picklable dataclass; what it returns is additive.

    Attributes:
        memory: what it takes at most; of one that needs whole rows, `Method.row_bytes` comes to it.
        grain: its pieces of a tensor begin at multiples of so many elements.
        in_order: its tiles of a piece come in order, so that one worker takes all of them.
        whole_rows: its tiles hold whole rows of the last axis, of tensors for which `Method.row_bytes` is a number.
    """

    memory: ClassVar[LookMemory]
    grain: ClassVar[int] = 1
    in_order: ClassVar[bool] = False
    whole_rows: ClassVar[bool] = False

    def ranges(self) -> tuple[tuple[int, int], ...] | None:
        """First elements, and those behind the last, of what it reads of a layer's one tensor; None for all."""
        return None

    @abstractmethod
    def counter(self, models: int) -> Counter[S]:
        """A new counter, at zero, for the tiles of the models that it `reads`."""

    @abstractmethod
    def nothing(self, models: int) -> S:
        """What no tile at all gives."""

    @abstractmethod
    def add(self, one: S, other: S) -> S:
        """The statistic of both parts of the data."""

    def reads(self, models: int) -> tuple[int, ...]:
        """Numbers of the models whose tiles it needs; the base's it always has."""
        return tuple(range(models))

    def nonfinite(self, statistic: S) -> int:
        """How many NaN or infinite deltas were met, as far as this look counts them."""
        return 0


def check_models(tile: Tile, models: int) -> None:
    """ValueError where a tile is not one of the base and so many models: a kernel would write beyond its arrays."""
    if tile.addresses.size != models + 1:
        raise ValueError(f"a tile of {tile.addresses.size - 1} models for a counter of {models}")


class Additive(Protocol):
    """A statistic of one model."""

    def __add__(self, other: Self, /) -> Self: ...


A = TypeVar("A", bound=Additive)


def add_by_model(one: Sequence[A], other: Sequence[A]) -> tuple[A, ...]:
    """Statistics of the same models, added model by model."""
    return tuple(mine + more for mine, more in zip(one, other, strict=True))


@dataclass(frozen=True, slots=True)
class Measured:
    """The statistics of one layer so far: by look, then by component.

    Attributes:
        looks: by the look's class.
    """

    looks: Mapping[type[Look[Any]], Mapping[str, Any]] = field(default_factory=dict)

    def of(self, look: type[Look[S]]) -> Mapping[str, S] | None:
        """What a look found in each component of the layer; None where it was not taken."""
        return cast("Mapping[str, S] | None", self.looks.get(look))

    def with_look(self, look: type[Look[S]], found: Mapping[str, S]) -> "Measured":
        """The same and one more look."""
        return Measured({**self.looks, look: found})
