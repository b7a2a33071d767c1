"""What a tensor is: a frozen value that opens itself, and the source of tiles that it opens."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sdmw import codec
from sdmw.errors import RunError, quoted
from sdmw.tensors.dtype import DType

if TYPE_CHECKING:
    from sdmw.tensors.stored import Stored

Gives = Literal["values", "delta"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What reading a tensor takes.

    Attributes:
        read: bytes read from storage for one element.
        held: bytes of memory that one element of a tile takes.
        working: bytes of memory that making a tile takes beside it, whatever the tile's size.
        kept: bytes of memory that its source keeps from tile to tile as long as it is used.
    """

    read: int
    held: int
    working: int = 0
    kept: int = 0


class Source(Protocol):
    """Hands out tiles of one tensor. tests/contracts holds every implementation to this."""

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop in row-major order: 1-D, read-only, of `dtype.storage`, perhaps unaligned."""

    def release(self, start: int, stop: int) -> None:
        """Let the memory behind a tile go; the tile must not be used any more."""

    def lost(self) -> RunError | None:
        """The error to raise when memory behind tiles was lost (`lost_pages`) and may have been this tensor's."""


@dataclass(frozen=True, slots=True)
class Tensor(ABC):
    """A named array, wherever its elements come from. Frozen, picklable, and with nothing open.

    A subclass is the one place that knows how its tiles are made; nobody asks for a file name to find out.

    Attributes:
        name: the tensor's name.
        dtype: element type of its tiles.
        shape: elements along each axis; () is a scalar.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all elements take in `dtype`."""
        return self.elements * self.dtype.bits // 8

    @property
    def stored_as(self) -> DType:
        """The dtype that an output keeps, whatever that of the tiles is."""
        return self.dtype

    @property
    def gives(self) -> Gives:
        """Whether tiles are values, or a delta to be added to a base (float32)."""
        return "values"

    @property
    @abstractmethod
    def cost(self) -> Cost:
        """Bytes read and held for an element."""

    @abstractmethod
    def open(self) -> Source:
        """The source of its tiles; cheap, nothing is opened before the first tile."""

    @abstractmethod
    def leaves(self) -> "Iterator[Stored]":
        """The stored tensors that it is made of: for messages and for checks that inputs did not change."""

    def fingerprint(self) -> bytes:
        """16 bytes that differ where anything differs that its tiles depend on, other than the files' content."""
        return codec.digest(self)

    @property
    def origin(self) -> str:
        """The files that it is made of, for a message."""
        return " and ".join(dict.fromkeys(leaf.file for leaf in self.leaves()))

    @property
    def where(self) -> str:
        """Files and name, as a message begins."""
        return f"{self.origin}: tensor {quoted(self.name)}"


def check_range(tensor: Tensor, start: int, stop: int) -> None:
    """IndexError where elements start to stop are not a range of the tensor."""
    if not 0 <= start <= stop <= tensor.elements:
        raise IndexError(f"elements {start} to {stop} of {tensor.elements}")


def read_only(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Values that lie one after the other as a tile: 1-D, and nobody can make it writeable again."""
    if not values.size:
        nothing = np.empty(0, values.dtype)
        nothing.flags.writeable = False
        return nothing
    return np.frombuffer(memoryview(values.data).cast("B").toreadonly(), values.dtype)
