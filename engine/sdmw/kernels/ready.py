"""Machine code of kernels: compiled once, in a child process, then loaded by all others; a run needs some groups.

Compiling takes seconds, and memory that a process does not get back: the bound of a plan has no room for it. What a
child process has compiled is loaded from the cache of kernels in a moment. A kernel that is not called in
`calls.py` works too: it is compiled by the process that calls it.
"""

import ctypes
import fcntl
import hashlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Literal

from sdmw.kernels import calls, folder

State = Literal["missing", "kept", "loaded", "here"]

_CHILD = (
    "import sys; groups = sys.argv[1].split(); sys.path[:] = sys.argv[2:]; "
    "from sdmw.kernels import ready; sys.exit(ready.fill(groups))"
)
_MADV_DONTNEED = 4  # from asm-generic/mman-common.h

_loaded: set[str] = set()  # groups, for the rest of the process's life
_here = False  # likewise: this process compiles


def state(groups: Collection[str] = ()) -> State:
    """Where this process's machine code comes from.

    Args:
        groups: of kernels (`sdmw.kernels.calls`), beside those that every run needs.

    Returns:
        `missing`: a child process has to compile it first. `kept`: it is in the cache, and not loaded yet. `loaded`:
        nothing is left to do. `here`: it is compiled by this process, kernel by kernel, when each is called first.
    """
    if _here:
        return "here"
    lacking = _lacking(groups)
    if not lacking:
        return "loaded"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0" or folder.folder() is None:
        return "here"
    return "kept" if all(map(_is_complete, lacking)) else "missing"


def _lacking(groups: Collection[str]) -> list[str]:
    """What is not loaded yet, each once."""
    return [name for name in dict.fromkeys((calls.ALWAYS, *groups)) if name not in _loaded]


_AS_IT_IS: AbstractContextManager[object] = nullcontext()


def prepare(
    announce: Callable[[bool], None],
    undisturbed: AbstractContextManager[object] = _AS_IT_IS,
    groups: Collection[str] = (),
) -> bool:
    """Load kernels from the cache; where it lacks some of them, a child process compiles those first.

    An exception meanwhile, such as that of a signal's handler, ends the child. One that was killed leaves nothing that
    is taken for complete, and of two at a time the second waits for the first.

    Args:
        announce: called before anything is compiled, with whether it is kept for later.
        undisturbed: entered while kernels are loaded: an exception of a signal's handler in one of the compiler's own
            callbacks would be lost, with a traceback.
        groups: of kernels, beside those that every run needs.

    Returns:
        False where this process compiles its kernels itself, each when it is called first.
    """
    global _here
    found, lacking = state(groups), _lacking(groups)
    if found in ("missing", "here") and not _here:
        announce(found == "missing")
    if found == "missing" and not _compiled_elsewhere(lacking):
        found = "here"
    if found in ("kept", "missing"):
        with undisturbed:
            _load(lacking)
        _loaded.update(lacking)
    _here = found == "here" or folder.warned()
    return not _here


def _compiled_elsewhere(groups: Collection[str]) -> bool:
    # The child finds modules where this process does. What it would say is not shown: this process meets it too.
    command = [sys.executable, "-c", _CHILD, " ".join(groups), *sys.path]
    quiet = subprocess.DEVNULL
    for _ in range(2):  # the first may have met a damaged cache, and mended it
        try:
            done = subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, check=False)
        except (OSError, ValueError):  # no such program, or no more processes
            return False
        if done.returncode == 0 and all(map(_is_complete, groups)):
            return True
    return False


def _load(groups: Collection[str]) -> None:
    # Three times, for a lower peak, which the number of kernels does not raise: importing the compiler maps other pages
    # of it than loading does, and the first thing that is loaded maps most of those.
    calls.call(groups, _release_compiler)
    _release_compiler()


def fill(groups: Collection[str]) -> int:
    """Compile groups of kernels into the cache and note that it has them; the child's work, and its exit code."""
    with suppress(OSError):  # where memory is short this process goes first, and the merge goes on without it
        Path("/proc/self/oom_score_adj").write_text("1000")
    place = folder.folder()
    if place is None:
        return 1
    with _alone(Path(place, "lock")):
        for group in (each for each in groups if not _is_complete(each)):
            calls.call([group], lambda: None)
            if folder.warned():
                return 1
            paths = (path for each in calls.modules(group) for path in Path(place).rglob(f"{each}.*.nb[ci]"))
            names = sorted(str(path.relative_to(place)) for path in paths)
            marker = _marker(group)
            written = marker.with_name(f"{marker.name}.{os.getpid()}")
            written.write_text("\n".join(names))
            written.replace(marker)
    return 0


def _is_complete(group: str) -> bool:
    """Whether the cache has every kernel of a group for this processor, these sources and these libraries."""
    try:
        marker = _marker(group)
        return all(os.path.getsize(marker.parent / name) for name in marker.read_text().splitlines())
    except OSError:
        return False


def _marker(group: str) -> Path:
    """A file that lists what a complete cache has of a group. Its name has what Numba asks for before it loads any."""
    place = folder.folder()
    assert place is not None
    sources = [(path.name, path.stat().st_mtime_ns) for path in sorted(Path(__file__).parent.glob("*.py"))]
    parts = (
        sys.implementation.cache_tag, *map(importlib.metadata.version, ("numba", "llvmlite", "numpy")),
        str(Path(__file__).parent), sources, _processor(),
        sorted(each for each in os.environ.items() if each[0].startswith("NUMBA_")),
    )  # fmt: skip
    return Path(place, f"complete-{group}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}")


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
