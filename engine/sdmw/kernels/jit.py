"""How a kernel is compiled, and what Numba has no word for."""

import ctypes
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.core import config, sigutils, types
from numba.core.ccallback import CFunc
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from sdmw.kernels.cache import keep

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile on first call: no object mode, no GIL, cached on disk, no fast-math, so each operation rounds once."""
    compiled = numba.njit(nogil=True, error_model="numpy")(function)
    if not config.DISABLE_JIT:
        keep(compiled, function)
    return compiled  # type: ignore[no-any-return]


def part(function: F) -> F:
    """Compile as `kernel` does, into whatever kernel calls it; not cached by itself.

    Numba names what it caches of a function made in another one by the functions that it uses, and by other names in
    every process.
    """
    return numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)  # type: ignore[no-any-return]


def callback(signature: Any, function: Callable[..., Any]) -> Any:
    """Compile a C callback now, or load it from the cache of kernels; its `address` is that of the machine code."""
    compiled = CFunc(function, sigutils.normalize_signature(signature), locals={}, options={})
    keep(compiled, function)
    compiled.compile()
    return compiled


@intrinsic  # type: ignore[untyped-decorator]
def _bits_of(typing_context: Any, value: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _float_of(typing_context: Any, bits: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(typing_context: Any, address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


def bits_of(value: np.float32) -> np.uint32:
    """The pattern of a float32, as a uint32."""
    return np.float32(value).view(np.uint32)


def float_of(bits: np.uint32) -> np.float32:
    """The float32 of a pattern."""
    return np.uint32(bits).view(np.float32)


def widened(word: np.uint16 | np.uint32) -> np.float32:
    """The float32 of a word: bfloat16's pattern where it has 16 bits, its own where it has 32."""
    return float_of(np.uint32(word) << np.uint32(16) if isinstance(word, np.uint16) else word)


def words16(address: int, count: int) -> NDArray[np.uint16]:
    """`count` uint16 at an address, which need not be aligned."""
    return np.frombuffer(_bytes_at(address, 2 * count), np.uint16)


def words32(address: int, count: int) -> NDArray[np.uint32]:
    """`count` uint32 at an address, which need not be aligned."""
    return np.frombuffer(_bytes_at(address, 4 * count), np.uint32)


def words64(address: int, count: int) -> NDArray[np.int64]:
    """`count` int64 at an address, which need not be aligned."""
    return np.frombuffer(_bytes_at(address, 8 * count), np.int64)


def _bytes_at(address: int, size: int) -> Any:
    return (ctypes.c_uint8 * size).from_address(int(address))


@overload(bits_of, strict=False)  # type: ignore[untyped-decorator]
def _compiled_bits_of(value: Any) -> Any:
    return lambda value: _bits_of(value)


@overload(float_of, strict=False)  # type: ignore[untyped-decorator]
def _compiled_float_of(bits: Any) -> Any:
    return lambda bits: _float_of(bits)


@overload(widened, strict=False)  # type: ignore[untyped-decorator]
def _compiled_widened(word: Any) -> Any:
    if word == types.uint16:
        return lambda word: _float_of(np.uint32(word) << np.uint32(16))
    return lambda word: _float_of(word)


@overload(words16, strict=False)  # type: ignore[untyped-decorator]
def _compiled_words16(address: Any, count: Any) -> Any:
    return lambda address, count: numba.carray(_pointer(address), (count,), np.uint16)


@overload(words32, strict=False)  # type: ignore[untyped-decorator]
def _compiled_words32(address: Any, count: Any) -> Any:
    return lambda address, count: numba.carray(_pointer(address), (count,), np.uint32)


@overload(words64, strict=False)  # type: ignore[untyped-decorator]
def _compiled_words64(address: Any, count: Any) -> Any:
    return lambda address, count: numba.carray(_pointer(address), (count,), np.int64)
