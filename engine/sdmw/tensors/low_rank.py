"""Tensors that are made while they are read: a low-rank delta, and values with such a delta added.

Source: LoRA, arXiv:2106.09685, section 4.1; rsLoRA, arXiv:2312.03732.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sdmw.codec import tagged
from sdmw.errors import RunError
from sdmw.tensors.dtype import DType
from sdmw.tensors.matrices import Matrix, Product, Transposed, widened
from sdmw.tensors.stored import Stored
from sdmw.tensors.tensor import Cost, Gives, Source, Tensor, check_range, read_only

WORKING = (
    12 << 20
)  # bytes that computing one tile takes beside it: blocks of both matrices while they are made and used


@tagged
@dataclass(frozen=True, slots=True)
class LowRank(Tensor):
    """A delta in float32 that is the product of two small matrices.

    Attributes:
        module: whose weight it changes, as the adapter calls it.
        a: (rank, in).
        b: (out, rank).
        scaling: of the product b @ a.
        transposed: the weight lies as (in, out): embeddings, GPT-2's Conv1D.
        embedding: the module looks rows up, and peft calls its matrices otherwise.
    """

    module: str
    a: Matrix
    b: Matrix
    scaling: float
    transposed: bool
    embedding: bool

    @classmethod
    def of(cls, module: str, a: Matrix, b: Matrix, scaling: float, *, transposed: bool, embedding: bool) -> "LowRank":
        """The delta of a module's weight."""
        shape = (a.shape[1], b.shape[0]) if transposed else (b.shape[0], a.shape[1])
        return cls(f"{module}.weight", DType.F32, shape, module, a, b, scaling, transposed, embedding)

    @property
    def product(self) -> Product:
        """What its elements are."""
        if self.transposed:
            return Product(Transposed(self.a), Transposed(self.b), self.scaling)
        return Product(self.b, self.a, self.scaling)

    def on(self, values: Tensor) -> "Sum":
        """The values of a tensor of its shape with the delta added."""
        return Sum(self.name, DType.F32, self.shape, values, self)

    def flipped(self) -> "LowRank":
        """The transpose, where a base keeps the weight the other way round."""
        return replace(self, shape=self.shape[::-1], transposed=not self.transposed)

    @property
    def gives(self) -> Gives:
        """Tiles are added to a base."""
        return "delta"

    @property
    def cost(self) -> Cost:
        """The matrices are small beside the tensor: nothing is counted as read."""
        return _cost(self.product)

    def open(self) -> Source:
        """Computes each tile."""
        return ProductSource(self, self.product.kept())

    def leaves(self) -> Iterator[Stored]:
        """What the matrices are read from."""
        return self.product.leaves()


@tagged
@dataclass(frozen=True, slots=True)
class Sum(Tensor):
    """Values in float32: those of a tensor, with a delta added by one float32 addition.

    Attributes:
        values: what the delta belongs to, of a dtype that merges.
        delta: of the same shape.
    """

    values: Tensor
    delta: LowRank

    @property
    def stored_as(self) -> DType:
        """Of the values."""
        return self.values.stored_as

    @property
    def cost(self) -> Cost:
        """The tile of the values, that of the delta, and the sum."""
        below, delta = self.values.cost, self.delta.cost
        held, working = below.held + delta.held + self.dtype.itemsize, below.working + delta.working
        return Cost(below.read, held, working, below.kept + delta.kept)

    def open(self) -> Source:
        """Adds tile by tile."""
        return SumSource(self, self.values.open(), self.delta.open())

    def leaves(self) -> Iterator[Stored]:
        """Those of both."""
        yield from self.values.leaves()
        yield from self.delta.leaves()


@tagged
@dataclass(frozen=True, slots=True)
class Factor(Tensor):
    """One matrix of a delta whose matrices are computed, in float32, as an adapter stores it.

    Attributes:
        delta: whose it is.
        side: which of them.
    """

    delta: LowRank
    side: Literal["A", "B"]

    @property
    def matrix(self) -> Product:
        """What its elements are."""
        found = self.delta.a if self.side == "A" else self.delta.b
        assert isinstance(found, Product)
        return found

    @property
    def cost(self) -> Cost:
        """What it is computed from is not counted as read."""
        return _cost(self.matrix)

    def open(self) -> Source:
        """Computes each tile."""
        return ProductSource(self, self.matrix.kept())

    def leaves(self) -> Iterator[Stored]:
        """What the matrix is computed from."""
        return self.matrix.leaves()


PREFIX = "base_model.model."  # of every name in a PEFT adapter


def matrix_names(module: str, *, embedding: bool) -> tuple[str, str]:
    """What peft calls A and B of a module."""
    kind = "lora_embedding_{}" if embedding else "lora_{}.weight"
    return f"{PREFIX}{module}.{kind.format('A')}", f"{PREFIX}{module}.{kind.format('B')}"


def factors(delta: LowRank) -> Iterator[Factor]:
    """A and B of a delta whose matrices are computed and whose scaling is 1, under the names that peft gives them."""
    name_a, name_b = matrix_names(delta.module, embedding=delta.embedding)
    yield Factor(name_a, DType.F32, delta.a.shape, delta, "A")
    yield Factor(name_b, DType.F32, delta.b.shape, delta, "B")


@dataclass(frozen=True, slots=True)
class ProductSource:
    """A `Source` that computes a product of matrices. Opens nothing before the first tile; pickles.

    Attributes:
        tensor: a delta, or a factor of one.
        product: what its elements are.
    """

    tensor: Tensor
    product: Product

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop in row-major order: 1-D, read-only, patterns of float32 (uint32).

        Raises:
            InputChangedError: a file is gone, or shorter than when its header was read.
            RunError: it cannot be read.
        """
        check_range(self.tensor, start, stop)
        width = self.tensor.shape[1]
        rows = (start // width, -(-stop // width)) if start < stop else (0, 0)
        first = rows[0] * width
        if rows[1] - rows[0] == 1:  # part of a long row
            found = self.product.tile(rows, (start - first, stop - first)).reshape(-1)
        else:
            found = self.product.tile(rows, (0, width)).reshape(-1)[start - first : stop - first]
        return read_only(found.view(np.uint32))

    def release(self, start: int, stop: int) -> None:
        """A tile is computed: there is nothing to let go, and the matrices were let go at once."""

    def lost(self) -> RunError | None:
        """What to say when pages were lost."""
        return next(_lost_of(self.product), None)


@dataclass(frozen=True, slots=True)
class SumSource:
    """A `Source` of values with a delta added. Opens nothing before the first tile; pickles.

    Attributes:
        tensor: the sum.
        values, delta: what is added.
    """

    tensor: Sum
    values: Source
    delta: Source

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop in row-major order: 1-D, read-only, patterns of float32 (uint32).

        Raises:
            InputChangedError: a file is gone, or shorter than when its header was read.
            RunError: it cannot be read.
        """
        check_range(self.tensor, start, stop)
        total = widened(self.values.tile(start, stop), self.tensor.values.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            total += self.delta.tile(start, stop).view(np.float32)
        return read_only(total.view(np.uint32))

    def release(self, start: int, stop: int) -> None:
        """Lets the values behind a tile go."""
        self.values.release(start, stop)

    def lost(self) -> RunError | None:
        """What to say when pages were lost."""
        return self.values.lost() or self.delta.lost()


def _cost(product: Product) -> Cost:
    kept = product.kept_bytes
    return Cost(read=0, held=DType.F32.itemsize, working=WORKING + product.working_bytes, kept=kept)


def _lost_of(product: Product) -> Iterator[RunError]:
    for leaf in product.leaves():
        if error := leaf.open().lost():
            yield error
