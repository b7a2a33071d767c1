"""Where machine code is kept between processes. A cache is a help: without one kernels are compiled again."""

import errno
import hashlib
import os
import stat
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache


class CacheWarning(RuntimeWarning):
    """Machine code cannot be kept, or what was kept cannot be used; kernels are compiled, and nothing else changes."""


def keep(compiled: Any, function: Callable[..., Any]) -> None:
    """Give what Numba made of a function a cache on disk, where there is a safe place for one.

    Args:
        compiled: a dispatcher, or a C callback before it is compiled.
        function: the Python function in it.
    """
    place = folder()
    if place is None:
        return
    # Set for this call only: other Numba code in the process keeps its own place.
    before, config.CACHE_DIR = config.CACHE_DIR, place
    try:
        compiled._cache = _Kept(function)
    except (OSError, RuntimeError) as error:
        _warn(f"{place}: {error}")
    finally:
        config.CACHE_DIR = before


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
                return str(_private_folder(*path, _hash_of_sources()))
        except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home directory
            reasons.append(str(error))
    _warn("; ".join(reasons))
    return None


# Each: a folder that exists or may be made, then the names below it, which must belong to this user alone.
_Place = tuple[Path, str, str]


def _chosen_cache() -> _Place | None:
    return (Path(config.CACHE_DIR).absolute(), "sdmw", "kernels") if config.CACHE_DIR else None  # NUMBA_CACHE_DIR


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


def _hash_of_sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


class _KeptResults(CompileResultCacheImpl):  # type: ignore[misc]
    # Only the folder that was chosen here, Numba's first: its others (beside the source, say) are not checked.
    _locator_classes = CompileResultCacheImpl._locator_classes[:1]


class _Kept(FunctionCache):  # type: ignore[misc]
    """Numba's cache, but a failure is a warning: the kernel is compiled, or is not kept."""

    _impl_class = _KeptResults

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # unpickling a damaged file raises anything
            _warn(f"{self.cache_path}: {error!r}")
            with suppress(Exception):
                self.flush()  # a fresh index: what is compiled now replaces what is damaged
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _warn(f"{self.cache_path}: {error!r}")


_warned: set[str] = set()


def _warn(reason: str) -> None:
    """Warn once in a process: with one kernel that cannot be kept come all others."""
    if not _warned:
        _warned.add(reason)
        said = (
            f"the cache of compiled kernels cannot be used, so they are compiled again, which takes seconds: {reason}"
        )
        warnings.warn(said, CacheWarning, stacklevel=2)
