"""Element types, by their names in safetensors."""

from enum import Enum

import numpy as np


class DType(Enum):
    """An element type by its safetensors name; the value is the size in bits.

    Source: the safetensors format (https://github.com/huggingface/safetensors, `dtype.rs`/`tensor.rs`).

    Attributes:
        bits: an element's.
        itemsize: bytes an element; for dtypes of whole bytes only.
        merges: merge arithmetic takes it: the floats that float32 holds exactly.
    """

    _value_: tuple[str, int]
    bits: int
    itemsize: int
    merges: bool

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

    def __init__(self, name: str, bits: int) -> None:
        # Plain attributes: a plan of 100,000 tensors asks for them a million times.
        self.bits, self.itemsize = bits, bits // 8
        self.merges = name in ("F32", "F16", "BF16")

    @property
    def copies(self) -> bool:
        """Whether it is copied where all inputs agree: integers, booleans, float64."""
        return self in _COPIED

    @property
    def whole(self) -> bool:
        """Whether its elements are integers or truth values, of which a recipe may take the base's."""
        return self.copies and self is not DType.F64

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
