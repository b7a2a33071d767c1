"""A named array on disk: its dtype, where it lies, and how its tiles are handed out."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sdmw.errors import RunError


class DType(Enum):
    """An element type by its safetensors name; the value is the size in bits.

    Source: the safetensors format (https://github.com/huggingface/safetensors, `dtype.rs`/`tensor.rs`).
    """

    _value_: tuple[str, int]

    F32 = ("F32", 32)
    F16 = ("F16", 16)
    BF16 = ("BF16", 16)
    F64 = ("F64", 64)
    BOOL = ("BOOL", 8)
    U8 = ("U8", 8)
    I8 = ("I8", 8)
    U16 = ("U16", 16)
    I16 = ("I16", 16)
    U32 = ("U32", 32)
    I32 = ("I32", 32)
    U64 = ("U64", 64)
    I64 = ("I64", 64)
    C64 = ("C64", 64)
    F8_E4M3 = ("F8_E4M3", 8)
    F8_E5M2 = ("F8_E5M2", 8)
    F8_E8M0 = ("F8_E8M0", 8)
    F8_E4M3FNUZ = ("F8_E4M3FNUZ", 8)
    F8_E5M2FNUZ = ("F8_E5M2FNUZ", 8)
    F6_E2M3 = ("F6_E2M3", 6)
    F6_E3M2 = ("F6_E3M2", 6)
    F4 = ("F4", 4)

    @property
    def bits(self) -> int:
        """Bits an element."""
        return self.value[1]

    @property
    def itemsize(self) -> int:
        """Bytes an element; for dtypes of whole bytes only."""
        return self.bits // 8

    @property
    def merges(self) -> bool:
        """Whether merge arithmetic takes it: the floats that float32 holds exactly."""
        return self in (DType.F32, DType.F16, DType.BF16)

    @property
    def copies(self) -> bool:
        """Whether it is copied where all inputs agree: integers, booleans, float64."""
        return self in _COPIED

    @property
    def storage(self) -> np.dtype[np.generic]:
        """The NumPy dtype in which a tile is handed out: bit patterns (uint16) for BF16 and F16."""
        return np.dtype(_STORAGE[self])


_STORAGE = {
    DType.F32: "<u4", DType.F16: "<u2", DType.BF16: "<u2", DType.F64: "<f8", DType.BOOL: "u1", DType.U8: "u1",
    DType.I8: "i1", DType.U16: "<u2", DType.I16: "<i2", DType.U32: "<u4", DType.I32: "<i4", DType.U64: "<u8",
    DType.I64: "<i8",
}  # fmt: skip
_COPIED = frozenset(_STORAGE) - {DType.F32, DType.F16, DType.BF16}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One named array of a file, as its header tells it.

    Attributes:
        name: the tensor's name.
        dtype: of its elements.
        shape: elements along each axis; () is a scalar.
        file: path of the shard.
        offset: of its first byte, from the beginning of the file.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    file: str
    offset: int

    @property
    def elements(self) -> int:
        """How many elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes its data take."""
        return self.elements * self.dtype.bits // 8

    @property
    def kept_dtype(self) -> DType:
        """In which the tensor is stored, whatever its tiles are."""
        return self.dtype

    @property
    def is_delta(self) -> bool:
        """Whether tiles are what is added to a base (float32), and not values."""
        return False

    @property
    def read_itemsize(self) -> int:
        """Bytes read from the disk for an element."""
        return self.dtype.itemsize

    @property
    def held_itemsize(self) -> int:
        """Bytes of memory that an element of a tile takes."""
        return self.dtype.itemsize

    @property
    def working_bytes(self) -> int:
        """Bytes that a tile takes while it is made, whatever its size."""
        return 0


class TensorSource(Protocol):
    """Hands out tiles of one tensor. Every input format gives one; tests/contracts holds all of them to this.

    An info of a class of its own, with all that its source needs, makes it more than bytes at an offset.
    """

    @property
    def info(self) -> TensorInfo:
        """The tensor."""

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop in row-major order: 1-D, read-only, of `info.dtype.storage`, perhaps unaligned."""

    def release(self, start: int, stop: int) -> None:
        """Let go of the memory behind a tile that is done with."""

    def lost(self) -> RunError | None:
        """What to say when memory behind tiles was lost (`lost_pages`) and may have been this one's; None if not."""
