"""Machine code of kernels: brought by a wheel, or compiled once, in a child process; a run needs some groups.

Compiling takes seconds, and memory that a process does not get back: the bound of a plan has no room for it. What a
wheel brought (`shipped.py`), or a child process has compiled into the cache of kernels, is loaded in a moment. A kernel
that is not called in `calls.py` works too: it is compiled by the process that calls it.
"""

import ctypes
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Literal

from sdmw.kernels import calls, folder, libraries, objects, processor, shipped
from sdmw.kernels.entry import Entry
from sdmw.kernels.jit import disabled

State = Literal["missing", "kept", "loaded", "here"]

_CHILD = (
    "import sys; groups = sys.argv[1].split(); sys.path[:] = sys.argv[2:]; "
    "from sdmw.kernels import ready; ready.fill(groups)"
)
_MADV_DONTNEED = 4  # from asm-generic/mman-common.h

_loaded: set[str] = set()  # groups, for the rest of the process's life
_here = False  # likewise: this process compiles


def state(groups: Collection[str] = ()) -> State:
    """Where this process's machine code comes from.

    Args:
        groups: of kernels (`sdmw.kernels.calls`), beside those that every run needs.

    Returns:
        `missing`: a child process has to compile it first. `kept`: it is in the wheel or in the cache, and not loaded
        yet. `loaded`: nothing is left to do. `here`: it is compiled by this process, kernel by kernel, when each is
        called first.
    """
    if _here:
        return "here"
    lacking = _lacking(groups)
    if not lacking:
        return "loaded"
    if disabled():
        return "here"
    if all(map(_file_of, lacking)):
        return "kept"
    return "here" if folder.folder() is None else "missing"


def _lacking(groups: Collection[str]) -> list[str]:
    """What is not loaded yet, each once."""
    return [name for name in dict.fromkeys((calls.ALWAYS, *groups)) if name not in _loaded]


_AS_IT_IS: AbstractContextManager[object] = nullcontext()


def prepare(
    announce: Callable[[bool], None],
    undisturbed: AbstractContextManager[object] = _AS_IT_IS,
    groups: Collection[str] = (),
) -> bool:
    """Load kernels from the wheel or the cache; where both lack some of them, a child process compiles those first.

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
    if found in ("kept", "missing") and not _loaded_from_files(lacking, undisturbed):
        found = "here"
    _here = found == "here"
    return not _here


def _loaded_from_files(groups: Collection[str], undisturbed: AbstractContextManager[object]) -> bool:
    from sdmw.kernels import linking  # LLVM, which planning does without

    for _ in range(3):  # a wheel's file may be damaged, and then the cache's
        if (missing := [each for each in groups if not _file_of(each)]) and not _compiled_elsewhere(missing):
            return False
        found = {group: content for group in groups if (content := _read(group)) is not None}
        if len(found) < len(groups):
            continue
        try:
            with undisturbed:
                for group, content in found.items():
                    linking.link(content)
                    _loaded.add(group)
                _release_compiler()
        except linking.UnlinkableError as error:
            folder.warn(str(error))
            return False
        return True
    return False


def _file_of(group: str) -> Path | None:
    """The file with the machine code of a group: the wheel's, else the cache's; None where it has to be compiled."""
    if path := shipped.file_of(group):
        return path
    return _path(group) if folder.folder() is not None and _is_kept(group) else None


def _read(group: str) -> list[tuple[Entry, bytes]] | None:
    """What the file of a group holds; None where it is damaged, and is used no more."""
    path = _file_of(group)
    if path is None:  # another process has found it damaged
        return None
    try:
        return objects.read(path)
    except objects.DamagedError:
        if path.parent == shipped.PLACE:
            shipped.pass_over(path)
        else:
            with suppress(OSError):
                path.unlink()
        return None


def _compiled_elsewhere(groups: Collection[str]) -> bool:
    if folder.folder() is None:
        return False
    # The child finds modules where this process does.
    command = [sys.executable, "-c", _CHILD, " ".join(groups), *sys.path]
    for _ in range(2):  # somebody may have ended the first
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        except (OSError, ValueError) as error:  # no such program, or no more processes
            folder.warn(str(error))
            return False
        if done.returncode == 0 and all(map(_is_kept, groups)):
            return True
    said = done.stderr.strip().splitlines()
    folder.warn(said[-1] if said else f"the process that compiles them ended with status {done.returncode}")
    return False


def fill(groups: Collection[str]) -> None:
    """Compile groups of kernels into the cache; the child's work."""
    from sdmw.kernels import compiler

    with suppress(OSError):  # where memory is short this process goes first, and the merge goes on without it
        Path("/proc/self/oom_score_adj").write_text("1000")
    place = folder.folder()
    assert place is not None
    with _alone(Path(place, "lock")):
        for group in (each for each in groups if not _is_kept(each)):
            objects.write(_path(group), compiler.compiled(group))


def _is_kept(group: str) -> bool:
    """Whether the cache has the kernels of a group for this processor, these sources and these libraries."""
    return _path(group).is_file()


def _path(group: str) -> Path:
    """The file of a group; its name has what its content depends on beside the sources, which name the folder."""
    place = folder.folder()
    assert place is not None
    parts = (
        sys.implementation.cache_tag, *libraries.releases(), list(processor.description()),
        sorted(each for each in os.environ.items() if each[0].startswith("NUMBA_")),
    )  # fmt: skip
    return Path(place, f"{group}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.zip")


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
            if not place and "libllvmlite" not in line:  # thousands of lines
                continue
            first, *others = line.split(maxsplit=5)
            if not first.endswith(":"):
                ours = len(others) == 5 and "libllvmlite" in others[4] and others[0] in ("r-xp", "r--p")
                place, own = first if ours else None, 0
            elif place and first in ("Anonymous:", "Swap:"):
                own += int(others[0])
            elif place and first == "VmFlags:" and not own:
                start, stop = place.split("-")
                yield int(start, 16), int(stop, 16)
