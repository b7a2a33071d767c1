"""Small matrices that deltas are made of, read or computed block by block."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sdmw.codec import tagged
from sdmw.kernels.blocks import LANES
from sdmw.tensors.borrowed import borrowed
from sdmw.tensors.dtype import DType
from sdmw.tensors.staging import Staging
from sdmw.tensors.stored import Stored

Span = tuple[int, int]  # from, up to
Block = NDArray[np.floating[Any]]  # C-contiguous; float32 where all elements are float32 numbers, else float64
computed = Staging()  # tiles that are computed: fresh memory would cost as much as computing them
LARGEST_BLOCK = 1 << 18  # elements of one block while a product is computed: 1 or 2 MiB


class Matrix(Protocol):
    """A matrix of which any block can be had; frozen and picklable, nothing is open."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""

    def block(self, rows: Span, columns: Span) -> Block:
        """Some rows of some columns, in memory of their own."""

    def leaves(self) -> Iterator[Stored]:
        """The tensors that it is read from."""

    @property
    def working_bytes(self) -> int:
        """Bytes that a block takes while it is made, beside blocks of products."""


def widened(tile: NDArray[np.generic], dtype: DType) -> NDArray[np.float32]:
    """A tile of float32, float16 or bfloat16 as a source hands it out, in float32 and in memory of its own."""
    if dtype is DType.BF16:
        return (tile.astype(np.uint32) << 16).view(np.float32)
    if dtype is DType.F16:
        return tile.copy().view(np.float16).astype(np.float32)
    return tile.copy().view(np.float32)


@tagged
@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A tensor of two axes, float32, float16 or bfloat16, widened exactly."""

    tensor: Stored

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        rows, columns = self.tensor.shape
        return rows, columns

    def block(self, rows: Span, columns: Span) -> Block:
        """Some rows of some columns; InputChangedError or RunError where the file does not give them."""
        width = self.tensor.shape[1]
        found = np.empty((rows[1] - rows[0], columns[1] - columns[0]), np.float32)
        if columns == (0, width):
            self._fill(found.reshape(-1), rows[0] * width, rows[1] * width)
        else:
            for place, row in enumerate(range(*rows)):
                self._fill(found[place], row * width + columns[0], row * width + columns[1])
        return found

    def leaves(self) -> Iterator[Stored]:
        """The tensor itself."""
        yield self.tensor

    @property
    def working_bytes(self) -> int:
        """Nothing."""
        return 0

    def _fill(self, out: NDArray[np.float32], start: int, stop: int) -> None:
        with borrowed(self.tensor, start, stop) as tile:
            out[:] = widened(tile, self.tensor.dtype)


@tagged
@dataclass(frozen=True, slots=True)
class Transposed:
    """The transpose of a matrix."""

    matrix: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        rows, columns = self.matrix.shape
        return columns, rows

    def block(self, rows: Span, columns: Span) -> Block:
        """Some rows of some columns."""
        return np.ascontiguousarray(self.matrix.block(columns, rows).T)

    def leaves(self) -> Iterator[Stored]:
        """Those of the matrix."""
        return self.matrix.leaves()

    @property
    def working_bytes(self) -> int:
        """That of the matrix."""
        return self.matrix.working_bytes


@tagged
@dataclass(frozen=True, slots=True)
class Stacked:
    """Matrices of as many columns, one below the other."""

    matrices: tuple[Matrix, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return sum(matrix.shape[0] for matrix in self.matrices), self.matrices[0].shape[1]

    def block(self, rows: Span, columns: Span) -> Block:
        """Some rows of some columns."""
        parts: list[Block] = []
        top = 0
        for matrix in self.matrices:
            height = matrix.shape[0]
            first, last = max(rows[0] - top, 0), min(rows[1] - top, height)
            if first < last:
                parts.append(matrix.block((first, last), columns))
            top += height
        return np.concatenate(parts) if parts else np.empty((0, columns[1] - columns[0]), np.float32)

    def leaves(self) -> Iterator[Stored]:
        """Those of all of them."""
        for matrix in self.matrices:
            yield from matrix.leaves()

    @property
    def working_bytes(self) -> int:
        """One after the other."""
        return max(matrix.working_bytes for matrix in self.matrices)


@tagged
@dataclass(frozen=True, slots=True)
class Product:
    """scaling * left @ right; every element is summed in float64 in the order of the rank and rounded to float32."""

    left: Matrix
    right: Matrix
    scaling: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def rank(self) -> int:
        """Columns of the left one."""
        return self.left.shape[1]

    def block(self, rows: Span, columns: Span) -> NDArray[np.float32]:
        """Some rows of some columns."""
        return self._put(np.empty((rows[1] - rows[0], columns[1] - columns[0]), np.float32), rows, columns)

    def tile(self, rows: Span, columns: Span) -> NDArray[np.float32]:
        """The same in memory of tiles."""
        height, width = rows[1] - rows[0], columns[1] - columns[0]
        out = computed.array(0, 4 * height * width).view(np.float32).reshape(height, width)
        return self._put(out, rows, columns)

    def kept(self) -> "Product":
        """The same, for tile after tile: what is small is read or computed once."""
        return Product(Kept(self.left), Kept(self.right), self.scaling)

    @property
    def kept_bytes(self) -> int:
        """Bytes of that, at most."""
        return kept_bytes(self.left) + kept_bytes(self.right)

    def leaves(self) -> Iterator[Stored]:
        """Those of both."""
        yield from self.left.leaves()
        yield from self.right.leaves()

    @property
    def working_bytes(self) -> int:
        """Those of both, and a panel of the right one."""
        return self.left.working_bytes + self.right.working_bytes + 8 * LANES * self.rank

    def _put(self, out: NDArray[np.float32], rows: Span, columns: Span) -> NDArray[np.float32]:
        """Computed so that no more than 2 MiB of either matrix are in memory at once."""
        step, width = max(1, LARGEST_BLOCK // max(1, self.rank)), columns[1] - columns[0]
        for first in range(*columns, step):
            right = self.right.block((0, self.rank), (first, min(first + step, columns[1])))
            for top in range(*rows, step):
                left = self.left.block((top, min(top + step, rows[1])), (0, self.rank))
                start = (top - rows[0]) * width + first - columns[0]
                _multiply(left, right, self.scaling, out.reshape(-1), start, width)
        return out


def _multiply(left: Block, right: Block, scaling: float, out: NDArray[np.float32], start: int, step: int) -> None:
    from sdmw.kernels import low_rank

    if left.dtype == right.dtype == np.float32:
        low_rank.product_of_floats(left, right, scaling, out, start, step)
    else:
        left, right = (np.ascontiguousarray(each, np.float64) for each in (left, right))
        low_rank.product_of_doubles(left, right, scaling, out, start, step)


@dataclass(slots=True)
class Kept:
    """A matrix that is read or computed once, where it is at most a block: tile after tile needs the same.

    Attributes:
        matrix: which it is.
    """

    matrix: Matrix
    _whole: Block | None = field(default=None, init=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return self.matrix.shape

    def block(self, rows: Span, columns: Span) -> Block:
        """Some rows of some columns, perhaps of what is kept: not to be changed."""
        if not kept_bytes(self.matrix):
            return self.matrix.block(rows, columns)
        if self._whole is None:
            height, width = self.shape
            self._whole = self.matrix.block((0, height), (0, width))
        return np.ascontiguousarray(self._whole[slice(*rows), slice(*columns)])

    def leaves(self) -> Iterator[Stored]:
        """Those of the matrix."""
        return self.matrix.leaves()

    @property
    def working_bytes(self) -> int:
        """That of the matrix."""
        return self.matrix.working_bytes


def kept_bytes(matrix: Matrix) -> int:
    """Bytes that are kept of a matrix between tiles."""
    rows, columns = matrix.shape
    return 8 * rows * columns if rows * columns <= LARGEST_BLOCK else 0
