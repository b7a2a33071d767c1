"""Machine code from object files, linked by LLVM into this process and called through ctypes; Numba is not needed.

What Numba compiles is a C function `status f(*result, **exception, ...)` of its arguments; an array takes several: who
owns it and who made it, both NULL here, elements, bytes of one, address, lengths of axes, strides. Only processes with
the same Numba link an object (`ready.py`), so that what it wants of Numba's runtime is there.
"""

import ctypes
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from sdmw.kernels.entry import Entry
from sdmw.kernels.jit import Callback, Kernel

_RUNTIME = "numba.core.runtime._nrt_python"
_ON_ERRORS = ("numba_gil_ensure", "numba_gil_release")  # called where a callback raises, which ours have no way to do
_FINE = (0, -2)  # statuses: a result, none
_NUMBERS = {
    "int64": ctypes.c_int64, "uint64": ctypes.c_uint64, "uint32": ctypes.c_uint32, "float32": ctypes.c_float,
    "float64": ctypes.c_double, "bool": ctypes.c_uint8,
}  # fmt: skip


class UnlinkableError(Exception):
    """Object files need what this process does not have."""


def link(objects: Iterable[tuple[Entry, bytes]]) -> None:
    """Give kernels and callbacks their machine code, for the rest of the process's life.

    Raises:
        UnlinkableError: something is not there that they need. LLVM would put zero in its place and say nothing.
    """
    engine, found = _engine(), list(objects)
    lacking = {name for entry, _ in found for name in entry.needs if not llvm.address_of_symbol(name)}
    if lacking:
        raise UnlinkableError(f"no {', '.join(sorted(lacking))}")
    for _, content in found:
        engine.add_object_file(llvm.ObjectFileRef.from_data(content))
    engine.finalize_object()
    for entry, _ in found:
        one = getattr(importlib.import_module(f"sdmw.kernels.{entry.module}"), entry.name)
        address = engine.get_function_address(entry.symbol)
        if isinstance(one, Callback):
            one.linked = address
        else:
            assert isinstance(one, Kernel)
            assert entry.takes is not None
            one.linked = _function(entry.name, address, entry.takes, entry.gives)


@cache
def _engine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault")
    for name, address in _runtime().c_helpers.items():
        llvm.add_symbol(f"NRT_{name}", address)
    for name in _ON_ERRORS:
        if not llvm.address_of_symbol(name):
            llvm.add_symbol(name, ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def _runtime() -> Any:
    """The part of Numba that machine code calls for memory, without the rest of Numba, which takes long to import."""
    if _RUNTIME not in sys.modules:
        numba = importlib.util.find_spec("numba")
        assert numba is not None
        assert numba.submodule_search_locations
        place = Path(numba.submodule_search_locations[0], "core", "runtime")
        name = _RUNTIME.rpartition(".")[2]
        path = next(path for suffix in EXTENSION_SUFFIXES if (path := place / f"{name}{suffix}").exists())
        loader = ExtensionFileLoader(_RUNTIME, str(path))
        spec = importlib.util.spec_from_file_location(_RUNTIME, path, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        sys.modules[_RUNTIME] = module  # where Numba finds it, if it is imported after all
    return sys.modules[_RUNTIME]


def _function(name: str, address: int, takes: tuple[str, ...], gives: str) -> Callable[..., Any]:
    """Machine code as a Python function, without the GIL; it takes the types that it was compiled for alone."""
    arrays = {place: (np.dtype(kind.rstrip(":")), kind.count(":")) for place, kind in enumerate(takes) if ":" in kind}
    kinds: list[Any] = [ctypes.c_void_p, ctypes.c_void_p]
    for place, kind in enumerate(takes):
        kinds += [ctypes.c_int64] * (5 + 2 * arrays[place][1]) if place in arrays else [_NUMBERS[kind]]
    wanted = [arrays.get(place) for place in range(len(takes))]
    code = ctypes.CFUNCTYPE(ctypes.c_int32, *kinds)(address)
    result_kind: Any = _NUMBERS.get(gives, ctypes.c_void_p)

    def run(*arguments: Any) -> Any:
        if len(arguments) != len(takes):
            raise TypeError(f"{name} takes {len(takes)} arguments, not {len(arguments)}")
        words: list[Any] = []
        for place, given in enumerate(arguments):
            if (array := wanted[place]) is None:
                words.append(given)
                continue
            if (given.dtype, given.ndim) != array or not given.flags.c_contiguous:
                raise TypeError(f"{name} takes {takes[place]} as argument {place}, not {given.dtype}{given.shape}")
            words += (0, 0, given.size, given.itemsize, _address(given), *given.shape, *given.strides)
        result, exception = result_kind(), ctypes.c_void_p()
        if code(ctypes.addressof(result), ctypes.addressof(exception), *words) not in _FINE:
            raise MemoryError(f"{name} found no memory")  # nothing else is raised in a kernel
        return bool(result.value) if gives == "bool" else result.value

    return run


def _address(array: Any) -> int:
    """Of an array's first byte; its own `ctypes.data` takes more than twice as long, and small tensors have many."""
    if array.size and array.flags.writeable:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    return int(array.ctypes.data)
