"""Machine code of every kernel: compiled once, in a child process, then loaded by all others.

Compiling takes seconds, and memory that a process does not get back: the bound of a plan has no room for it. What a
child process has compiled is loaded from the cache of kernels in a moment. A kernel that is not called in `_call_all`
works too: it is compiled by the process that calls it.
"""

import ctypes
import fcntl
import hashlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Literal

from sdmw.kernels import folder

State = Literal["missing", "kept", "loaded", "here"]

_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from sdmw.kernels import ready; sys.exit(ready.fill())"
_MADV_DONTNEED = 4  # from asm-generic/mman-common.h

_reached: State | None = None  # `loaded` and `here` are for the rest of the process's life


def state() -> State:
    """Where this process's machine code comes from.

    Returns:
        `missing`: a child process has to compile it first. `kept`: it is in the cache, and not loaded yet. `loaded`:
        nothing is left to do. `here`: it is compiled by this process, kernel by kernel, when each is called first.
    """
    if _reached:
        return _reached
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0" or folder.folder() is None:
        return "here"
    return "kept" if _is_complete() else "missing"


_AS_IT_IS: AbstractContextManager[object] = nullcontext()


def prepare(announce: Callable[[bool], None], undisturbed: AbstractContextManager[object] = _AS_IT_IS) -> bool:
    """Load every kernel from the cache; where it is not complete, a child process compiles them all first.

    An exception meanwhile, such as that of a signal's handler, ends the child. One that was killed leaves nothing that
    is taken for complete, and of two at a time the second waits for the first.

    Args:
        announce: called before anything is compiled, with whether it is kept for later.
        undisturbed: entered while kernels are loaded: an exception of a signal's handler in one of the compiler's own
            callbacks would be lost, with a traceback.

    Returns:
        False where this process compiles its kernels itself, each when it is called first.
    """
    global _reached
    if _reached is None:
        found = state()
        if found != "kept":
            announce(found == "missing")
        if found == "missing" and not _compiled_elsewhere():
            found = "here"
        if found != "here":
            with undisturbed:
                _load()
        _reached = "here" if found == "here" or folder.warned() else "loaded"
    return _reached == "loaded"


def _compiled_elsewhere() -> bool:
    # The child finds modules where this process does. What it would say is not shown: this process meets it too.
    command = [sys.executable, "-c", _CHILD, *sys.path]
    quiet = subprocess.DEVNULL
    for _ in range(2):  # the first may have met a damaged cache, and mended it
        try:
            done = subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, check=False)
        except (OSError, ValueError):  # no such program, or no more processes
            return False
        if done.returncode == 0 and _is_complete():
            return True
    return False


def _load() -> None:
    # Three times, for a lower peak, which the number of kernels does not raise: importing the compiler maps other pages
    # of it than loading does, and the first thing that is loaded maps most of those.
    _call_all(_release_compiler)
    _release_compiler()


def fill() -> int:
    """Compile every kernel into the cache and note that it is complete; the child's work, and its exit code."""
    with suppress(OSError):  # where memory is short this process goes first, and the merge goes on without it
        Path("/proc/self/oom_score_adj").write_text("1000")
    place = folder.folder()
    if place is None:
        return 1
    with _alone(Path(place, "lock")):
        if not _is_complete():
            _call_all(lambda: None)
            if folder.warned():
                return 1
            names = sorted(str(path.relative_to(place)) for path in Path(place).rglob("*.nb[ci]"))
            marker = _marker()
            written = marker.with_name(f"{marker.name}.{os.getpid()}")
            written.write_text("\n".join(names))
            written.replace(marker)
    return 0


def _call_all(release: Callable[[], None]) -> None:
    """Call each kernel as the engine does, with nothing to do; `release` once all are imported, and after the first."""
    import numpy as np

    from sdmw.kernels import (
        bus_error,
        chance,
        consensus,
        cuts,
        dots,
        fusion,
        low_rank,
        ram,
        ranks,
        single,
        tiles,
        vectors,
    )
    from sdmw.kernels.bins import BINS
    from sdmw.kernels.blocks import LANES

    def integers(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        return np.zeros(shape, np.int64)

    none, one = np.zeros(0, np.float32), np.float32(1)
    base = integers(1)
    bins, listed = integers(0, BINS), np.zeros((0, 0), np.uint32)
    release()
    bus_error.handler()
    release()
    tiles.merge_deltas(base, base, 0, none, none, one, one, True, 0, 0)
    tiles.average(base, base, 0, none, one, 0, 0)
    packed = np.zeros((0, tiles.PACKED), np.uint64)
    tiles.count_magnitudes(base, base, 0, packed, bins, bins, integers(0, 2), listed, integers(0))
    tiles.count_low_bits(base, base, 0, integers(0, 2), integers(0, 2, 1))
    tiles.decode(0, 0, 0, 0, none)
    cuts.count_equal(base, base, 0, 0, integers(0), np.zeros(0, np.uint32), 1, integers(0, 1))
    cuts.find_equal(base, base, 0, 0, 0, np.uint32(0), 0)
    patterns = np.zeros((0, 2), np.uint32)
    cuts.merge_kept(base, base, 0, 0, patterns, integers(0, 2), none, none, True, True, one, 0, 0)
    keys = np.zeros(0, np.uint64)
    chance.sum_kept(base, base, 0, 0, keys, keys, integers(0, 2, 1))
    chance.merge_by_chance(base, base, 0, 0, keys, keys, none, none, True, True, one, 0, 0)
    consensus.count_variances(base, base, 0, np.zeros(tiles.PACKED, np.uint64), integers(BINS), integers(BINS))
    consensus.count_low_variances(base, base, 0, 0, integers(1))
    consensus.sum_squares(base, base, 0, 0, True, np.uint32(0), 0, integers(0, 1, 2))
    consensus.merge_agreeing(base, base, 0, 0, True, np.uint32(0), 0, none, 0, 0)
    none64 = np.zeros(0)
    both = integers(2)
    fusion.count_scores(both, both, 0, 1, integers(1), integers(1))
    fusion.count_low_scores(both, both, 0, 1, integers(0), integers(0, 1))
    fusion.merge_telling(both, both, 0, 1, 0, 0, 0.5, 0, 0)
    ranks.sum_kept_by_rank(base, base, 0, 0, 1, keys, none64, none64, integers(0, 2, 1))
    ranks.merge_by_rank(base, base, 0, 0, 1, 0, 0, keys, none64, none64, none, none, True, True, one, 0, 0)
    vectors.merge_stock_rows(base, base, 0, 1, 0, 0, 0, 0)
    vectors.merge_arc_rows(both, both, 0, 1, 0, 0, False, 0.5, 0, 0)
    vectors.add_column_products(both, both, 0, 0, 1, False, np.zeros((3, 0)))
    vectors.shares_of_columns(np.zeros((3, 0)), 0.5, np.zeros((2, 0), np.float32))
    vectors.merge_columns(both, both, 0, 0, False, np.zeros((2, 1), np.float32), 0, 0)
    dots.dots(base, base, 0, 0, True, np.zeros((0, LANES)), np.zeros((0, 0)), integers(1))
    dots.folded(np.zeros(LANES))
    ram.count_shared(base, base, 0, one, integers(0, 2))
    ram.merge_shared(base, base, 0, one, none, 0, 0)
    single.swap_near(base, base, 0, one, 0, 0)
    single.scaled(base, base, 0, one, 0, 0)
    low_rank.product(np.zeros((0, 1)), np.zeros((1, 0)), 1.0, np.zeros((0, 0), np.float32))


def _is_complete() -> bool:
    """Whether the cache has every kernel for this processor, these sources and these libraries."""
    try:
        marker = _marker()
        return all(os.path.getsize(marker.parent / name) for name in marker.read_text().splitlines())
    except OSError:
        return False


def _marker() -> Path:
    """A file that lists what belongs to a complete cache. Its name has what Numba asks for before it loads anything."""
    place = folder.folder()
    assert place is not None
    sources = [(path.name, path.stat().st_mtime_ns) for path in sorted(Path(__file__).parent.glob("*.py"))]
    parts = (
        sys.implementation.cache_tag, *map(importlib.metadata.version, ("numba", "llvmlite", "numpy")),
        str(Path(__file__).parent), sources, _processor(),
        sorted(each for each in os.environ.items() if each[0].startswith("NUMBA_")),
    )  # fmt: skip
    return Path(place, f"complete-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}")


def _processor() -> list[str]:
    """What tells processors apart for whom other code is made; LLVM knows better and takes a while to load."""
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    telling = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU", "Features")
    return [line for line in first if line.startswith(telling)]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Others that come here meanwhile wait; where files cannot be locked nobody does, which only costs time."""
    with open(path, "w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _release_compiler() -> None:
    """Unmap LLVM's code and constants, 70 MB and more; they are the file's own, and are mapped again if needed.

    Only what is not writable and holds nothing of this process's own, such as relocated addresses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, stop in list(_compiler_pages()):
        libc.madvise(start, stop - start, _MADV_DONTNEED)  # a hint


def _compiler_pages() -> Iterator[tuple[int, int]]:
    """Ranges of LLVM's library that equal its file, by smaps, proc(5)."""
    place, own = None, 0
    with suppress(OSError), open("/proc/self/smaps") as file:
        for line in file:
            first, *others = line.split(maxsplit=5)
            if not first.endswith(":"):
                ours = len(others) == 5 and "libllvmlite" in others[4] and others[0] in ("r-xp", "r--p")
                place, own = first if ours else None, 0
            elif place and first in ("Anonymous:", "Swap:"):
                own += int(others[0])
            elif place and first == "VmFlags:" and not own:
                start, stop = place.split("-")
                yield int(start, 16), int(stop, 16)
