"""What a kernel is, and words for it that Python has and Numba has not; nothing here needs Numba.

A kernel is a Python function that runs as machine code: linked from the cache of kernels (`linking.py`), or, where that
has not been done, compiled by Numba when it is called first (`compiler.py`).
"""

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])


class Kernel:
    """A function that runs as machine code.

    Attributes:
        py_func: the Python function.
        inlined: it is compiled into whatever kernel calls it, and into nothing else.
        linked: its machine code as a function; None before that is there.
    """

    def __init__(self, function: Callable[..., Any], *, inlined: bool = False) -> None:
        functools.update_wrapper(self, function)
        self.py_func = function
        self.inlined = inlined
        self.linked: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Run it; one that has not been linked is compiled first."""
        if self.linked is None:
            self.linked = self.py_func if disabled() else _compiled(self)
        return self.linked(*arguments)

    def __reduce__(self) -> str:
        return self.py_func.__qualname__


class Callback:
    """A function that C calls.

    Attributes:
        py_func: the Python function.
        takes: Numba's names of the types of its arguments; it returns nothing.
        linked: the address of its machine code; None before that is there.
    """

    def __init__(self, function: Callable[..., None], takes: tuple[str, ...]) -> None:
        self.py_func = function
        self.takes = takes
        self.linked: int | None = None

    @property
    def address(self) -> int:
        """Of its machine code, for C."""
        if self.linked is None:
            from sdmw.kernels import compiler

            self.linked = compiler.called_by_c(self).address
        return self.linked


class External:
    """A function of the C library, for kernels alone.

    Attributes:
        name: its symbol.
        gives: Numba's name of the type of its result.
        takes: Numba's names of the types of its arguments.
    """

    def __init__(self, name: str, gives: str, *takes: str) -> None:
        self.name, self.gives, self.takes = name, gives, takes

    def __call__(self, *arguments: Any) -> Any:
        """TypeError: plain Python has other ways."""
        raise TypeError(f"{self.name} is for compiled kernels")


def kernel(function: F) -> F:
    """A kernel: without object mode, the GIL and fast-math, so each operation rounds once."""
    return Kernel(function)  # type: ignore[return-value]


def part(function: F) -> F:
    """A function that is made in another one and compiled into the kernel that calls it."""
    return Kernel(function, inlined=True)  # type: ignore[return-value]


def callback(*takes: str) -> Callable[[Callable[..., None]], Callback]:
    """A function that C calls, with Numba's names of the types of its arguments."""
    return lambda function: Callback(function, takes)


def disabled() -> bool:
    """Whether kernels run as plain Python, by Numba's own setting."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") != "0"


def _compiled(one: Kernel) -> Callable[..., Any]:
    from sdmw.kernels import compiler  # takes a third of a second, which a run that links its kernels saves

    return compiler.called(one)


def bits_of(value: np.float32) -> np.uint32:
    """The pattern of a float32, as a uint32."""
    return np.float32(value).view(np.uint32)


def float_of(bits: np.uint32) -> np.float32:
    """The float32 of a pattern."""
    return np.uint32(bits).view(np.float32)


def bits64_of(value: np.float64) -> np.uint64:
    """The pattern of a float64, as a uint64."""
    return np.float64(value).view(np.uint64)


def float64_of(bits: np.uint64) -> np.float64:
    """The float64 of a pattern."""
    return np.uint64(bits).view(np.float64)


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
