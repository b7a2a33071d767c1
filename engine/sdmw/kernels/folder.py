"""Which folder keeps machine code between processes; Numba is not needed to know it."""

import errno
import hashlib
import os
import stat
import tempfile
import warnings
from functools import cache
from pathlib import Path


class CacheWarning(RuntimeWarning):
    """Machine code cannot be kept, or what was kept cannot be used; kernels are compiled, and nothing else changes."""


@cache
def folder() -> str | None:
    """The folder for machine code of exactly these sources; None, with a warning, where there is no safe place.

    Numba compares only the file of a kernel, but inlines functions from other files: after an edit of one file the
    kernels of the others would keep their old code. So each state of the sources has its own folder. Older folders
    stay, because another version or process may use them.
    """
    reasons = []
    for place in (_chosen_cache, _user_cache, _temporary):
        try:
            if path := place():
                return str(_private_folder(*path, hash_of_sources()))
        except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home directory
            reasons.append(str(error))
    warn("; ".join(reasons))
    return None


# Each: a folder that exists or may be made, then the names below it, which must belong to this user alone.
_Place = tuple[Path, str, str]


def _chosen_cache() -> _Place | None:
    chosen = os.environ.get("NUMBA_CACHE_DIR", "")
    return (Path(chosen).absolute(), "sdmw", "kernels") if chosen else None


def _user_cache() -> _Place:
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path is ignored, as the XDG specification says.
    root = Path(chosen) if os.path.isabs(chosen) else Path("~/.cache").expanduser()
    return (root, "sdmw", "kernels")


def _temporary() -> _Place:
    return (Path(tempfile.gettempdir()), f"sdmw-{os.getuid()}", "kernels")


def _private_folder(root: Path, *names: str) -> Path:
    """The folder `names` below `root`, made if it is missing.

    Machine code is loaded from here, so another user must not be able to write to it, or to swap it for another.

    Raises:
        OSError: it cannot be made or written to, or another user can write to a level of it.
    """
    if not root.exists():
        _refuse_open(next(each for each in root.parents if each.exists()), allow_shared=True)
        root.mkdir(0o700, parents=True, exist_ok=True)
    _refuse_open(root, allow_shared=True)
    for name in names:
        root /= name
        root.mkdir(0o700, exist_ok=True)
        _refuse_open(root)
    if not os.access(root, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "cannot be written to", str(root))
    return root


def _refuse_open(path: Path, *, allow_shared: bool = False) -> None:
    """PermissionError where another user can write to a folder.

    Args:
        path: the folder.
        allow_shared: it may be a link, or belong to root, or be shared like /tmp, where nobody renames what others own.
    """
    found = path.stat() if allow_shared else path.lstat()
    owners = {os.getuid(), 0} if allow_shared else {os.getuid()}
    writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not (allow_shared and found.st_mode & stat.S_ISVTX)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners or writable:
        raise PermissionError(errno.EPERM, "must be a folder that only this user can write to", str(path))


@cache
def hash_of_sources() -> str:
    """Of all kernel files."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


_warned: set[str] = set()


def warn(reason: str) -> None:
    """Warn once in a process: with one kernel that cannot be kept come all others."""
    if not _warned:
        _warned.add(reason)
        said = (
            f"the cache of compiled kernels cannot be used, so they are compiled again, which takes seconds: {reason}"
        )
        warnings.warn(said, CacheWarning, stacklevel=2)


def warned() -> bool:
    """Whether something could not be kept, or could not be used, in this process."""
    return bool(_warned)
