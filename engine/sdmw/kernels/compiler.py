"""Kernels made into machine code by Numba: in place, or as object files that later processes link without it."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.ccallback import CFunc
from numba.core.typing import signature
from numba.extending import intrinsic, overload, typeof_impl

from sdmw.kernels import (
    calls,
    compiled_compress,  # noqa: F401  what Numba makes of compressing
    compiled_lanes,  # noqa: F401  of lanes
    compiled_panels,  # noqa: F401  and of panels
)
from sdmw.kernels.entry import Entry
from sdmw.kernels.jit import (
    Callback,
    External,
    Kernel,
    bits64_of,
    bits_of,
    float64_of,
    float_of,
    widened,
    words16,
    words32,
    words64,
)

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_UNWRAPPED = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # Python does not call it

_SYMBOL = [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]


@cache
def called(kernel: Kernel) -> Callable[..., Any]:
    """A kernel that this process compiles when it is called, for each set of types."""
    return numba.njit(**_OPTIONS)(kernel.py_func)  # type: ignore[no-any-return]


@cache
def _called_by_kernels(kernel: Kernel) -> Any:
    return numba.njit(**_OPTIONS, **_UNWRAPPED, forceinline=kernel.inlined)(kernel.py_func)


def compiled(group: str) -> Iterator[tuple[Entry, bytes]]:
    """Each kernel of a group, and its object file."""
    for one, arguments in calls.CALLS[group]():
        yield _object_of_callback(one) if isinstance(one, Callback) else _object_of(one, arguments)


def _object_of(kernel: Kernel, arguments: tuple[Any, ...]) -> tuple[Entry, bytes]:
    takes = tuple(map(numba.typeof, arguments))
    dispatcher = _called_by_kernels(kernel)
    dispatcher.compile(takes)
    made = dispatcher.overloads[takes]
    content, gives = made.library._get_compiled_object(), made.signature.return_type
    return _entry(kernel.py_func, made.fndesc.llvm_func_name, tuple(map(_named, takes)), _named(gives), content)


@cache
def called_by_c(callback: Callback) -> Any:
    """A callback, compiled."""
    takes = tuple(getattr(types, name) for name in callback.takes)
    made = CFunc(callback.py_func, (takes, types.void), locals={}, options=_OPTIONS)
    made.compile()
    return made


def _object_of_callback(callback: Callback) -> tuple[Entry, bytes]:
    made = called_by_c(callback)
    return _entry(callback.py_func, made.native_name, None, "none", made._library._get_compiled_object())


def _entry(
    function: Callable[..., Any], symbol: str, takes: tuple[str, ...] | None, gives: str, content: bytes
) -> tuple[Entry, bytes]:
    module = function.__module__.rpartition(".")[2]
    return Entry(module, function.__name__, symbol, takes, gives, _undefined(content)), content


def _undefined(content: bytes) -> tuple[str, ...]:
    """Symbols that an object file does not define. Format: ELF-64, symbol table, System V ABI."""
    sections = {each.name(): each.data() for each in llvm.ObjectFileRef.from_data(content).sections()}
    symbols = np.frombuffer(sections[b".symtab"], _SYMBOL)
    starts = symbols["name"][(symbols["section"] == 0) & (symbols["name"] > 0)]
    return tuple(sections[b".strtab"][start:].partition(b"\0")[0].decode() for start in starts)


def _named(kind: Any) -> str:
    """A type in words that `linking` knows: a dtype's name, with a `:` for each axis of an array."""
    if isinstance(kind, types.Array):
        assert kind.layout == "C", kind
        return f"{kind.dtype}{':' * kind.ndim}"
    return str(kind)


@typeof_impl.register(Kernel)  # type: ignore[untyped-decorator]
def _type_of_kernel(kernel: Kernel, _context: Any) -> Any:
    return types.Dispatcher(_called_by_kernels(kernel))


@typeof_impl.register(External)  # type: ignore[untyped-decorator]
def _type_of_external(function: External, _context: Any) -> Any:
    takes = (getattr(types, name) for name in function.takes)
    return types.ExternalFunction(function.name, signature(getattr(types, function.gives), *takes))


def _pattern_as(gives: Any, takes: Any, kind: Any) -> Any:
    """The same bits as another type, of LLVM's kind."""

    @intrinsic  # type: ignore[untyped-decorator]
    def seen(typing_context: Any, value: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], kind)

        return gives(takes), generate

    return seen


_bits_of = _pattern_as(types.uint32, types.float32, ir.IntType(32))
_float_of = _pattern_as(types.float32, types.uint32, ir.FloatType())
_bits64_of = _pattern_as(types.uint64, types.float64, ir.IntType(64))
_float64_of = _pattern_as(types.float64, types.uint64, ir.DoubleType())


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(typing_context: Any, address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


@overload(bits_of, strict=False)  # type: ignore[untyped-decorator]
def _compiled_bits_of(value: Any) -> Any:
    return lambda value: _bits_of(value)


@overload(float_of, strict=False)  # type: ignore[untyped-decorator]
def _compiled_float_of(bits: Any) -> Any:
    return lambda bits: _float_of(bits)


@overload(bits64_of, strict=False)  # type: ignore[untyped-decorator]
def _compiled_bits64_of(value: Any) -> Any:
    return lambda value: _bits64_of(value)


@overload(float64_of, strict=False)  # type: ignore[untyped-decorator]
def _compiled_float64_of(bits: Any) -> Any:
    return lambda bits: _float64_of(bits)


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
