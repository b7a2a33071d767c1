"""Reads an unwritten merge as `safetensors.safe_open` reads a file: names, whole tensors, and slices, in NumPy."""

import operator
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import Problem, UsageError, quoted
from sdmw.running.journal import check_unchanged
from sdmw.sizes import counted
from sdmw.tensors.dtype import DType
from sdmw.tensors.tensor import Tensor
from sdmw.tensors.tile_memory import tile_memory

Index = SupportsIndex | slice | EllipsisType


@dataclass(frozen=True, slots=True)
class MergeReader:
    """The tensors of a decided merge: each is computed when it is read, as it would be written.

    Nothing is open, so it pickles. bfloat16 is `ml_dtypes.bfloat16`, as in safetensors.

    Attributes:
        merge: the checkpoint that would be written; its shards are the files that it is computed from.
    """

    merge: Checkpoint

    def __repr__(self) -> str:
        return f"MergeReader({counted(len(self.merge.tensors), 'tensor')})"

    def keys(self) -> list[str]:
        """The tensors' names, in the order of the output."""
        return list(self.merge.tensors)

    def get_tensor(self, name: str) -> NDArray[Any]:
        """All of a tensor.

        Raises:
            UsageError: there is no tensor of this name.
            RunError: inputs changed since the merge was decided, are not finite, or cannot be read.
        """
        return self.get_slice(name)[...]

    def get_slice(self, name: str) -> "TensorSlice":
        """A tensor of which parts can be read; UsageError where no tensor has this name."""
        if name not in self.merge.tensors:
            raise UsageError([Problem("name", "the name of a tensor of the merge", quoted(name))])
        return TensorSlice(self.merge, self.merge.tensors[name])


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """One tensor, read by `[...]` with integers, slices and an ellipsis.

    Only the rows (of the first axis) between the first and the last that are asked for are computed.

    Attributes:
        merge: that it belongs to.
        tensor: the tensor.
    """

    merge: Checkpoint
    tensor: Tensor

    def get_shape(self) -> list[int]:
        """Elements along each axis."""
        return list(self.tensor.shape)

    def get_dtype(self) -> str:
        """Its safetensors name."""
        return self.tensor.dtype.name

    def __getitem__(self, index: Index | tuple[Index, ...]) -> NDArray[Any]:
        """A part of the tensor, as NumPy's basic indexing gives it.

        Raises:
            IndexError: the index is beyond the tensor.
            TypeError: it is a boolean, None, a list or anything else that is no integer, slice or ellipsis.
            RunError: inputs changed since the merge was decided, are not finite, or cannot be read.
        """
        shape = self.tensor.shape
        asked = tuple(map(_checked, index if isinstance(index, tuple) else (index,)))
        first, *rest = asked or (...,)
        if not shape or isinstance(first, EllipsisType):
            return self._rows(0, shape[0] if shape else 1)[asked]
        if isinstance(first, int):
            row = range(shape[0])[first]  # IndexError as NumPy has it
            return self._rows(row, row + 1)[(0, *rest)]
        rows = range(*first.indices(shape[0]))
        low, high = (min(rows[0], rows[-1]), max(rows[0], rows[-1]) + 1) if rows else (0, 0)
        start, stop = ((rows[0] - low, high - low) if rows.step > 0 else (rows[0] - low, None)) if rows else (0, 0)
        return self._rows(low, high)[(slice(start, stop, rows.step), *rest)]

    def _rows(self, low: int, high: int) -> NDArray[Any]:
        shape = self.tensor.shape
        row = self.tensor.elements // shape[0] if shape and shape[0] else 1
        with tile_memory():
            tile = self.tensor.open().tile(low * row, high * row if shape else 1)
            values = np.array(tile).view(_numpy_dtype(self.tensor.dtype))
        check_unchanged([self.merge])  # what was decided holds for no other files
        return values.reshape((high - low, *shape[1:]) if shape else ())


def _checked(index: Index) -> int | slice | EllipsisType:
    if isinstance(index, slice | EllipsisType):
        return index
    try:
        if not isinstance(index, bool | np.bool_):
            return operator.index(index)
    except TypeError:
        pass
    raise TypeError(f"{type(index).__name__} cannot index a tensor: use integers, slices and one ellipsis")


def _numpy_dtype(dtype: DType) -> np.dtype[Any]:
    if dtype is DType.BF16:
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
    return np.dtype({DType.F32: "<f4", DType.F16: "<f2", DType.BOOL: "?"}.get(dtype, dtype.storage.str))
