"""The work directory beside a target, held by one run at a time."""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sdmw.errors import OutputError, Problem
from sdmw.linux import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2

if TYPE_CHECKING:
    from filelock import BaseFileLock


def parted(target: str) -> tuple[str, str]:
    """The real path of the directory that holds a target, and the target's name in it; slashes at its end aside."""
    parent, name = os.path.split(target.rstrip("/"))
    return ("" if "\0" in parent else os.path.realpath(parent)), name


def work_path(parent: str, name: str) -> str:
    """The work directory of a target."""
    return os.path.join(parent, f".{name}.sdmw")


class WorkDirectory:
    """`.NAME.sdmw/` with `lock`, `pid` of the run that holds it, `journal`, and `out/`, which becomes the target.

    Methods raise OSError where the file system refuses.

    Attributes:
        target: real path of the target.
        parent: real path of the directory that holds it.
        path: of the work directory.
        out: of `out/`.
        journal: of the journal.
    """

    def __init__(self, target: str) -> None:
        self.parent, name = parted(target)
        self.target = os.path.join(self.parent, name)
        self.path = work_path(self.parent, name)
        self.out = os.path.join(self.path, "out")
        self.journal = os.path.join(self.path, "journal")
        self._lock_path = os.path.join(self.path, "lock")
        self._pid_path = os.path.join(self.path, "pid")
        self._aside = os.path.join(self.path, "replaced")
        self._lock: BaseFileLock | None = None

    def take(self) -> None:
        """Makes the directory where there is none, and locks it.

        Raises:
            OutputError: another run holds it, or its name is taken by something else.
        """
        from filelock import FileLock, Timeout

        while self._lock is None:
            try:
                os.mkdir(self.path, 0o700)
            except FileExistsError:
                if os.path.islink(self.path) or not os.path.isdir(self.path):
                    raise OutputError([Problem(self.path, "a work directory", "something else", "Remove it")]) from None
            lock = FileLock(self._lock_path, mode=0o600, blocking=False, thread_local=False)
            try:
                lock.acquire()
            except Timeout:
                raise OutputError([Problem(self.target, "", f"another run ({self._pid()}) is writing it")]) from None
            except FileNotFoundError:
                continue  # that run has just removed the directory
            except OSError:
                with suppress(OSError):
                    Path(self.path).rmdir()
                raise
            # A run that ended between our open and our lock has removed the file: what we hold then keeps nobody out.
            if self._is_current(lock):
                self._lock = lock
            else:
                lock.release()
        with open(self._pid_path, "w") as file:
            file.write(str(os.getpid()))

    def _is_current(self, lock: "BaseFileLock") -> bool:
        fd = lock._context.lock_file_fd  # filelock has no public way to tell which file it locked
        try:
            return fd is not None and os.path.samestat(os.fstat(fd), os.lstat(self._lock_path))
        except FileNotFoundError:
            return False

    def _pid(self) -> str:
        try:
            with open(self._pid_path) as file:
                pid = file.read(20)
        except (OSError, ValueError):
            pid = ""
        return f"pid {pid}" if pid.isdecimal() else "pid unknown"

    @property
    def held(self) -> bool:
        """Whether this run holds it."""
        return self._lock is not None

    def restore(self) -> None:
        """Puts back a target that a killed run had moved aside."""
        if os.path.isdir(self._aside) and not os.path.lexists(self.target):
            os.rename(self._aside, self.target)

    def clear(self) -> None:
        """Removes what a killed run left."""
        with os.scandir(self.path) as listing:
            entries = list(listing)
        for entry in entries:
            if entry.path in (self._lock_path, self._pid_path):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)

    def rename(self, overwrite: bool) -> None:
        """Makes `out/` the target.

        Args:
            overwrite: whether a directory of that name may be replaced; it then lies in the work directory.

        Raises:
            OSError: FileExistsError if something else is there; the target is as it was.
        """
        replacing = overwrite and os.path.isdir(self.target) and not os.path.islink(self.target)
        if renameat2(self.out, self.target, RENAME_EXCHANGE if replacing else RENAME_NOREPLACE):
            return
        # Neither flag is known to every file system (NFS, some FUSE). Without them there is a moment with no target,
        # or with one that a program without our lock has just made.
        if replacing:
            os.rename(self.target, self._aside)
        elif os.path.lexists(self.target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        try:
            os.rename(self.out, self.target)
        except OSError:
            if replacing:
                os.rename(self._aside, self.target)
            raise

    def remove(self) -> None:
        """Removes the directory and lets go of the lock; nothing where this run does not hold it."""
        if self._lock is None:
            return
        try:
            self.restore()
            self.clear()
            for path in (self._pid_path, self._lock_path):
                if os.path.lexists(path):
                    os.unlink(path)
            # Another run may have made a new lock in it since.
            with suppress(OSError):
                Path(self.path).rmdir()
        finally:
            self.release()

    def release(self) -> None:
        """Lets go of the lock and leaves the directory."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
