"""The work directory beside a target, held by one run at a time."""

import errno
import fcntl
import os
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path

from sdmw.errors import OutputError, Problem
from sdmw.linux import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2

_TRIES, _PAUSE = 50, 0.01  # of what another run, or the file system, is about to make possible; seconds between
_HELD = (errno.EAGAIN, errno.EACCES)  # what flock says where another has the lock; SMB says the second
_BUSY = (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.ENOENT)
_LOCKS = (
    "Write to a local disk, and move the result. Or enable locks (flock) there: NFS needs its lock service, "
    "Lustre the mount option flock"
)
_LONGEST_NOTE = 100  # characters of `pid`
_LEFT = "left-"  # a name's beginning that means nothing


def parted(target: str) -> tuple[str, str]:
    """The real path of the directory that holds a target, and the target's name in it; slashes at its end aside."""
    parent, name = os.path.split(target.rstrip("/"))
    return ("" if "\0" in parent else os.path.realpath(parent)), name


def standing(path: str) -> str:
    """The path if something is there, else the nearest one above it where something is."""
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def run_of(out: str) -> str:
    """The name of the run that holds the work directory of an `out/`; empty where none does.

    From any machine that sees the directory: a task of a run whose driver was killed learns that another has begun.
    """
    return _noted(os.path.join(os.path.dirname(out), "pid"))[1]


def _noted(path: str) -> tuple[str, str]:
    """Process number and name of a run, as `take` has written them."""
    try:
        with open(path) as file:
            pid, _, run = file.read(_LONGEST_NOTE).partition(" ")
    except (OSError, ValueError):
        return "", ""
    return pid, run


def work_path(parent: str, name: str) -> str:
    """The work directory of a target."""
    return os.path.join(parent, f".{name}.sdmw")


class WorkDirectory:
    """`.NAME.sdmw/` with `lock`, `pid` and name of the run that holds it, `journal`, and `out/`, the target to be.

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
        self.made: list[str] = []  # directories above it that this run has made, the highest first
        self._lock: int | None = None  # the descriptor that holds it

    def take(self, run: str = "") -> None:
        """Makes the directory where there is none, and those above it; locks it, for the run of this name.

        The lock is the kernel's (flock): it goes with its process, however that ends. Without one there is no run: no
        file of our own would keep runs of several machines apart and be gone after a kill.

        Raises:
            OutputError: another run holds it, it cannot be locked, or its name is taken by something else.
        """
        for _ in range(_TRIES):
            self._lock = self._locked(made=self._make())
            if self._lock is not None:
                _held_here.add(self._lock)
                break
            time.sleep(_PAUSE)
        else:
            found = "its lock file keeps changing"
            raise OutputError([Problem(self.path, "", found, "Write to another file system, and move the result")])
        with open(self._pid_path, "w") as file:
            file.write(f"{os.getpid()} {run}")

    def _make(self) -> bool:
        """Whether the directory was not there."""
        self._make_parents()
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            if os.path.islink(self.path) or not os.path.isdir(self.path):
                raise OutputError([Problem(self.path, "a work directory", "something else", "Remove it")]) from None
            return False
        return True

    def _make_parents(self) -> None:
        above = standing(self.parent)
        for name in Path(self.parent).relative_to(above).parts:
            above = os.path.join(above, name)
            with suppress(FileExistsError):  # another run makes them too
                os.mkdir(above)
                self.made.append(above)

    def _locked(self, *, made: bool) -> int | None:
        """The descriptor of the locked file; None where the run that held it was just removing it.

        Args:
            made: the directory is this run's own: it goes where it is of no use.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self._lock_path, flags, 0o600)
        except FileNotFoundError:
            return None
        except OSError:
            with suppress(OSError):
                Path(self.path).rmdir()
            raise
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno in _HELD:
                raise OutputError([Problem(self.target, "", f"another run ({self._pid()}) is writing it")]) from None
            if made:
                with suppress(OSError):
                    os.unlink(self._lock_path)
                self._remove_when_closed()
            found = f"it cannot be locked: {error.strerror}"
            raise OutputError([Problem(self.path, "", found, _LOCKS)]) from error
        try:
            # A run that ended between our open and our lock has removed the file: what we hold then keeps nobody out.
            current = self._is_current(fd)
        except OSError:
            os.close(fd)
            raise
        if current:
            return fd
        os.close(fd)
        return None

    def _is_current(self, fd: int) -> bool:
        """Whether a file that is locked is the one at the path of the lock."""
        try:
            return os.path.samestat(os.fstat(fd), os.lstat(self._lock_path)) or self._reads_back(fd)
        except FileNotFoundError:
            return False

    def _reads_back(self, fd: int) -> bool:
        """As `_is_current`, for file systems that give a file another inode at each look."""
        mark = uuid.uuid4().hex.encode()
        os.pwrite(fd, mark, 0)
        os.fsync(fd)
        there = os.open(self._lock_path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.pread(there, len(mark), 0) == mark
        finally:
            os.close(there)

    def _pid(self) -> str:
        pid, _ = _noted(self._pid_path)
        return f"pid {pid}" if pid.isdecimal() else "pid unknown"

    @property
    def held(self) -> bool:
        """Whether this run holds it."""
        return self._lock is not None

    def restore(self) -> None:
        """Puts back a target that a killed run had moved aside."""
        if os.path.isdir(self._aside) and not os.path.lexists(self.target):
            os.rename(self._aside, self.target)

    def clear(self) -> OSError | None:
        """Removes what a killed run left; returns what kept something of it, under a name that means nothing."""
        failed = None
        with os.scandir(self.path) as listing:
            entries = [entry for entry in listing if entry.path not in (self._lock_path, self._pid_path)]
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    self._remove_folder(entry.path)
                else:
                    os.unlink(entry.path)
            except OSError as error:
                failed = failed or error
        return failed

    def _remove_folder(self, path: str) -> None:
        # Renamed first: half of a checkpoint must not be put back by `restore`, nor be in the way of the next `out/`.
        if not os.path.basename(path).startswith(_LEFT):
            left = os.path.join(self.path, _LEFT + uuid.uuid4().hex)
            os.rename(path, left)
            path = left
        remove_tree(path)

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

    def remove(self) -> OSError | None:
        """Removes the directory and lets go of the lock; nothing where this run does not hold it.

        Returns:
            What kept something of it there: somebody has a file of it open on NFS or FUSE, say.
        """
        if self._lock is None:
            return None
        try:
            self.restore()
            failed = self.clear()
            for path in (self._pid_path, self._lock_path):
                with suppress(FileNotFoundError):
                    os.unlink(path)
            # Another run may have made a new lock in it since.
            with suppress(OSError):
                Path(self.path).rmdir()
        except OSError as error:
            failed = error
        finally:
            self.release()
        return failed or self._remove_when_closed()

    def _remove_when_closed(self) -> OSError | None:
        """NFS and FUSE keep a file that is open under another name, the lock too: only now the directory is empty."""
        for left in reversed(range(_TRIES)):
            try:
                Path(self.path).rmdir()
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno not in _BUSY or os.path.lexists(self._lock_path):
                    break  # another run is in it
                if not left:
                    return error
                time.sleep(_PAUSE)
        for path in reversed(self.made):
            with suppress(OSError):  # the target is in it, or something of another's
                Path(path).rmdir()
        return None

    def release(self) -> None:
        """Lets go of the lock and leaves the directory."""
        if self._lock is not None:
            fd, self._lock = self._lock, None
            _held_here.discard(fd)
            with suppress(OSError):
                # Said aloud: a process that was started from this one may have the descriptor too.
                fcntl.flock(fd, fcntl.LOCK_UN)
            with suppress(OSError):
                os.close(fd)


_held_here: set[int] = set()  # descriptors of locks


def _after_fork() -> None:
    """A forked child holds no lock: it may outlive the run."""
    while _held_here:
        with suppress(OSError):
            os.close(_held_here.pop())


os.register_at_fork(after_in_child=_after_fork)


def remove_tree(path: str) -> None:
    """Removes a folder; waits for a moment where files in it are still being closed (FUSE closes late)."""
    for left in reversed(range(_TRIES)):
        try:
            _remove_once(path)
        except OSError as error:
            if error.errno not in _BUSY or not left:
                raise
            if not os.path.lexists(path):
                return
            time.sleep(_PAUSE)
        else:
            return


def _remove_once(path: str) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        if error.errno is not None:
            raise
        # It compares inodes, which are others at each look on some file systems.
        for folder, folders, names in os.walk(path, topdown=False):
            for name in (*folders, *names):
                place = Path(folder, name)
                if name in names or place.is_symlink():
                    place.unlink()
                else:
                    place.rmdir()
        Path(path).rmdir()
