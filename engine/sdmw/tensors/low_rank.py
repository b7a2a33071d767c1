"""Tensors that are made while they are read: a low-rank delta, and values with such a delta added.

Source: LoRA, arXiv:2106.09685, section 4.1; rsLoRA, arXiv:2312.03732.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sdmw.errors import RunError
from sdmw.tensors.matrices import Matrix, Product, Transposed, widened
from sdmw.tensors.opening import open_stored
from sdmw.tensors.tensor import DType, TensorInfo

WORKING = 24 << 20  # bytes that computing one tile takes beside it: blocks of both matrices, and a block of the product


@dataclass(frozen=True, slots=True)
class LowRankDelta(TensorInfo):
    """A delta in float32 that is the product of two small matrices; `offset` means nothing.

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
    def of(
        cls, module: str, file: str, a: Matrix, b: Matrix, scaling: float, *, transposed: bool, embedding: bool
    ) -> "LowRankDelta":
        """The delta of a module's weight."""
        shape = (a.shape[1], b.shape[0]) if transposed else (b.shape[0], a.shape[1])
        own = (module, a, b, scaling, transposed, embedding)
        return cls(f"{module}.weight", DType.F32, shape, file, 0, *own)

    @property
    def product(self) -> Product:
        """What its elements are."""
        if self.transposed:
            return Product(Transposed(self.a), Transposed(self.b), self.scaling)
        return Product(self.b, self.a, self.scaling)

    def on(self, values: TensorInfo) -> "Adapted":
        """The values of a tensor of its shape with the delta added."""
        return Adapted(self.name, DType.F32, self.shape, self.file, 0, values, self)

    def flipped(self) -> "LowRankDelta":
        """The transpose, where a base keeps the weight the other way round."""
        return replace(self, shape=self.shape[::-1], transposed=not self.transposed)

    @property
    def is_delta(self) -> bool:
        """Tiles are added to a base."""
        return True

    @property
    def read_itemsize(self) -> int:
        """The matrices are small beside the tensor."""
        return 0

    @property
    def working_bytes(self) -> int:
        """Blocks of the matrices, and what these take."""
        return WORKING + self.product.working_bytes


@dataclass(frozen=True, slots=True)
class Adapted(TensorInfo):
    """Values in float32: those of a tensor, with a delta added by one float32 addition.

    Attributes:
        values: what the delta belongs to, of a dtype that merges.
        delta: of the same shape.
    """

    values: TensorInfo
    delta: LowRankDelta

    @property
    def kept_dtype(self) -> DType:
        """Of the values."""
        return self.values.kept_dtype

    @property
    def read_itemsize(self) -> int:
        """Of the values."""
        return self.values.read_itemsize

    @property
    def held_itemsize(self) -> int:
        """Of the values' tile, of the delta's, and of the sum."""
        return self.values.held_itemsize + 2 * self.dtype.itemsize

    @property
    def working_bytes(self) -> int:
        """As of the delta."""
        return self.delta.working_bytes


@dataclass(frozen=True, slots=True)
class Computed(TensorInfo):
    """A matrix of a delta whose matrices are computed, in float32.

    Attributes:
        delta: whose it is.
        side: which of them.
    """

    delta: LowRankDelta
    side: Literal["A", "B"]

    @property
    def matrix(self) -> Product:
        """What its elements are."""
        found = self.delta.a if self.side == "A" else self.delta.b
        assert isinstance(found, Product)
        return found

    @property
    def read_itemsize(self) -> int:
        """What it is computed from is not counted."""
        return 0

    @property
    def working_bytes(self) -> int:
        """Blocks of the matrices, and what these take."""
        return WORKING + self.matrix.working_bytes


PREFIX = "base_model.model."  # of every name in a PEFT adapter


def matrix_names(module: str, *, embedding: bool) -> tuple[str, str]:
    """What peft calls A and B of a module."""
    kind = "lora_embedding_{}" if embedding else "lora_{}.weight"
    return f"{PREFIX}{module}.{kind.format('A')}", f"{PREFIX}{module}.{kind.format('B')}"


def matrices(delta: LowRankDelta) -> Iterator[Computed]:
    """A and B of a delta whose matrices are computed and whose scaling is 1, under the names that peft gives them."""
    name_a, name_b = matrix_names(delta.module, embedding=delta.embedding)
    yield Computed(name_a, DType.F32, delta.a.shape, delta.file, 0, delta, "A")
    yield Computed(name_b, DType.F32, delta.b.shape, delta.file, 0, delta, "B")


@dataclass(frozen=True, slots=True)
class LowRankTensor:
    """The source of a product of matrices. Opens nothing before the first tile; pickles.

    Attributes:
        info: a delta, or a computed matrix.
        product: what its elements are.
    """

    info: TensorInfo
    product: Product

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop in row-major order: 1-D, read-only, patterns of float32 (uint32).

        Raises:
            InputChangedError: a file is gone, or shorter than when its header was read.
            RunError: it cannot be read.
        """
        _check_range(self.info, start, stop)
        width = self.info.shape[1]
        rows = (start // width, -(-stop // width)) if start < stop else (0, 0)
        first = rows[0] * width
        if rows[1] - rows[0] == 1:  # part of a long row
            found = self.product.float32(rows, (start - first, stop - first)).reshape(-1)
        else:
            found = self.product.float32(rows, (0, width)).reshape(-1)[start - first : stop - first]
        return _read_only(found)

    def release(self, start: int, stop: int) -> None:
        """Nothing to let go of: a tile is computed, and the matrices are let go of at once."""

    def lost(self) -> RunError | None:
        """What to say when pages were lost."""
        return next(_lost_of(self.product), None)


@dataclass(frozen=True, slots=True)
class AdaptedTensor:
    """The source of an `Adapted` tensor. Opens nothing before the first tile; pickles.

    Attributes:
        info: the tensor.
    """

    info: Adapted

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop in row-major order: 1-D, read-only, patterns of float32 (uint32).

        Raises:
            InputChangedError: a file is gone, or shorter than when its header was read.
            RunError: it cannot be read.
        """
        _check_range(self.info, start, stop)
        total = widened(open_adapted(self.info.values).tile(start, stop), self.info.values.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            total += open_adapted(self.info.delta).tile(start, stop).view(np.float32)
        return _read_only(total)

    def release(self, start: int, stop: int) -> None:
        """Lets go of the values behind a tile."""
        open_adapted(self.info.values).release(start, stop)

    def lost(self) -> RunError | None:
        """What to say when pages were lost."""
        return open_adapted(self.info.values).lost() or next(_lost_of(self.info.delta.product), None)


def open_adapted(info: TensorInfo) -> Any:
    """The source of a tensor of an adapter, or of one that it was put on."""
    if isinstance(info, LowRankDelta):
        return LowRankTensor(info, info.product)
    if isinstance(info, Computed):
        return LowRankTensor(info, info.matrix)
    return AdaptedTensor(info) if isinstance(info, Adapted) else open_stored(info)


def _lost_of(product: Product) -> Iterator[RunError]:
    for factor in product.files():
        if error := open_stored(factor).lost():
            yield error


def _check_range(info: TensorInfo, start: int, stop: int) -> None:
    if not 0 <= start <= stop <= info.elements:
        raise IndexError(f"elements {start} to {stop} of {info.elements}")


def _read_only(values: NDArray[Any]) -> NDArray[np.generic]:
    if not values.size:
        nothing = np.empty(0, np.uint32)
        nothing.flags.writeable = False
        return nothing
    return np.frombuffer(memoryview(values.data).cast("B").toreadonly(), np.uint32)  # cannot be made writeable again
