"""Element types, by their names in safetensors."""

from enum import Enum

import numpy as np

_STORAGE = {
    "F32": "<u4", "F16": "<u2", "BF16": "<u2", "F64": "<f8", "BOOL": "u1", "U8": "u1", "I8": "i1", "U16": "<u2",
    "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
}  # fmt: skip


class DType(Enum):
    """An element type by its safetensors name; the value is the size in bits.

    Source: the safetensors format (https://github.com/huggingface/safetensors, `dtype.rs`/`tensor.rs`).

    Attributes:
        bits: an element's.
        itemsize: bytes an element; for dtypes of whole bytes only.
        merges: merge arithmetic takes it: the floats that float32 holds exactly.
        copies: it is copied where all inputs agree: integers, booleans, float64.
        storage: the NumPy dtype in which a tile is handed out: bit patterns (uint16) for BF16 and F16; of dtypes that
            merge or are copied.
    """

    _value_: tuple[str, int]
    bits: int
    itemsize: int
    merges: bool
    copies: bool
    storage: np.dtype[np.generic]

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
        self.copies = name in _STORAGE and not self.merges
        if name in _STORAGE:
            self.storage = np.dtype(_STORAGE[name])

    __hash__ = object.__hash__  # as equality is; that of Enum is a function in Python

    @property
    def whole(self) -> bool:
        """Whether its elements are integers or truth values, of which a recipe may take the base's."""
        return self.copies and self is not DType.F64
