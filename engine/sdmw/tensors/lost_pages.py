"""Mapped pages that are lost while they are read become zeros and are counted, instead of ending the process.

A file that is truncated, or a disk that fails, takes pages away from under a reader; looking first (`touch`) does not
help against what happens in between. Readers ask `lost` before they trust what they computed.
"""

import ctypes
import mmap
import platform
import signal
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_MAP_FIXED_NOREPLACE = 0x100000  # from linux/mman.h; since 4.17, before it is a mere wish
_SA_SIGINFO, _SA_ONSTACK = 4, 0x08000000
_SIGACTION = struct.Struct("=q128siiq")  # glibc's struct sigaction: handler, mask, flags, filling, restorer
_FIRST = 2  # of the table: how many ranges, pages lost, then start and stop of each

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]

_lock = threading.RLock()  # finalizers of mappings may come while it is held
_table: memoryview | None = None  # of int64; at a third of the time of an array's elements
_places: dict[int, int] = {}  # where each range stands in the table, by its first address
_free: list[int] = []  # places in the table that are used no more
_guards: list[bytes] = []  # the handler that each run found


@cache
def can_guard() -> bool:
    """Whether the handler can be put in place on this system; where not, files are read and not mapped."""
    if platform.machine() not in ("x86_64", "aarch64") or platform.libc_ver()[0] != "glibc":
        return False  # other structures than the handler knows
    return _made_table() is not None and _action_is_allowed()


@contextmanager
def guarded() -> Iterator[None]:
    """While it is entered, the handler is in place; another one, such as faulthandler's, is put back afterwards."""
    if not can_guard():
        yield
        return
    action = _handling()
    with _lock:
        _guards.append(_set_action(action))
    try:
        yield
    finally:
        with _lock:
            # Of runs that overlap the first to begin found the other handler, and the last to end puts it back.
            _set_action(_guards[0] if len(_guards) == 1 else action)
            _guards.pop()


def guard_for_good() -> None:
    """As `guarded`, for the rest of the process's life: in workers that another process drives."""
    with _lock:
        if not _guards and can_guard():
            _guards.append(_set_action(_handling()))


def _handling() -> bytes:
    from sdmw.kernels import bus_error

    return _SIGACTION.pack(bus_error.handler.address, b"", _SA_SIGINFO | _SA_ONSTACK, 0, 0)


def protect(address: int, size: int) -> bool:
    """Lost pages in this range shall be zeros while `guarded` is entered; False where the table is full."""
    with _lock:
        table = _made_table() if can_guard() else None
        if table is None:
            return False
        place = _free.pop() if _free else _FIRST + 2 * table[0]
        if place + 1 >= len(table):
            return False
        _places[address] = place
        # In this order: the handler, which has no lock, must not see a range that begins at 0.
        table[place] = address
        table[place + 1] = address + size
        table[0] = max(table[0], (place - _FIRST) // 2 + 1)
        return True


def forget(address: int) -> None:
    """The range that begins here is no longer mapped; harmless where it was never protected."""
    with _lock:
        place = _places.pop(address, None)
        if place is not None and _table is not None:
            _table[place + 1] = 0
            _free.append(place)


def touch(address: int, size: int) -> bool | None:
    """Read a range that is protected into memory, without the GIL.

    Returns:
        Whether all of its pages are there; None, and nothing is read, where `guarded` is not entered.
    """
    if not _guards:
        return None
    from sdmw.kernels import pages

    before = lost()
    pages.touch(address, size)
    return lost() == before  # pages that another thread lost count too: what is read instead is as good


def lost() -> int:
    """How many times pages were lost in this process."""
    return 0 if _table is None else _table[1]


def _made_table() -> memoryview | None:
    """The handler's table; None where its place is taken."""
    global _table
    with _lock:
        if _table is None:
            from sdmw.kernels.bus_error import TABLE, TABLE_BYTES

            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED_NOREPLACE
            found = _libc.mmap(TABLE, TABLE_BYTES, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
            if found == TABLE:
                _table = memoryview((ctypes.c_ubyte * TABLE_BYTES).from_address(TABLE)).cast("B").cast("q")
        return _table


def _action_is_allowed() -> bool:
    """Whether a handler may be set, which a sandbox may refuse: the one in place is set again."""
    found = ctypes.create_string_buffer(_SIGACTION.size)
    return not (_libc.sigaction(int(signal.SIGBUS), None, found) or _libc.sigaction(int(signal.SIGBUS), found, None))


def _set_action(action: bytes) -> bytes:
    before = ctypes.create_string_buffer(_SIGACTION.size)
    if _libc.sigaction(int(signal.SIGBUS), action, before):
        raise OSError(ctypes.get_errno(), "sigaction")
    return before.raw
