"""Calls of the Linux kernel that Python lacks, and its errors told in words."""

import ctypes
import errno
import os
import resource
from contextlib import suppress
from functools import lru_cache

from sdmw.errors import OutputError, Problem
from sdmw.sizes import shown

# From linux/fs.h and fcntl.h; the numbers are part of the kernel's interface.
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
SYNC_WAIT_BEFORE = 1
SYNC_WRITE = 2
SYNC_WAIT_AFTER = 4

# What a write can really suffer. A hint that ends by another error was refused, by an old kernel, a profile of seccomp
# or a file system, and nothing is lost: the plain way does the same, or says what is wrong.
_DATA_ERRORS = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
# What fsync says of a folder where folders cannot be synced: older CIFS, some of FUSE. EACCES: it may not be listed.
_NO_SYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EPERM, errno.EACCES})

# From linux/magic.h: file systems whose files lie in memory and count as such.
_IN_MEMORY = {0x01021994: "tmpfs", 0x858458F6: "ramfs", 0x958458F6: "hugetlbfs"}
# From there and the file systems' own sources: their pages come from elsewhere and may fail at any time.
_REMOTE = {
    0x6969: "NFS", 0x517B: "SMB", 0xFF534D42: "CIFS", 0xFE534D42: "SMB2", 0x65735546: "FUSE", 0x01021997: "9P",
    0x00C36400: "Ceph", 0x5346414F: "AFS", 0x0BD00BD0: "Lustre", 0x47504653: "GPFS",
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_USUAL_NAME_MAX = 255
_UNKNOWN = 0  # no file system has this number
_MOST_INTERRUPTIONS = 100  # of one call by signals; then it counts as refused


def is_refusal(error: OSError) -> bool:
    """Whether a hint was only refused: it has no say in what becomes of the data."""
    return error.errno not in _DATA_ERRORS


def fallocate(fd: int, offset: int, length: int) -> bool:
    """Reserves blocks and extends the file; the bytes read as zeros.

    `os.posix_fallocate` will not do: where the file system cannot reserve it writes every block.

    Returns:
        False where that is refused.

    Raises:
        OSError: ENOSPC, EDQUOT, EFBIG, EIO, EROFS.
    """
    return _hint("fallocate", fd, 0, ctypes.c_int64(offset), ctypes.c_int64(length))


def sync_file_range(fd: int, offset: int, length: int, flags: int) -> bool:
    """Starts writing dirty pages of a range to disk, or waits for that; nothing is durable before an fsync.

    An error that is waited for here is reported through this descriptor, and not once more by its fsync: data are to be
    synced through another one.

    Returns:
        False where that is refused.

    Raises:
        OSError: pages could not be written.
    """
    return _hint("sync_file_range", fd, ctypes.c_int64(offset), ctypes.c_int64(length), flags)


def forget_pages(fd: int, offset: int, length: int) -> None:
    """Lets the page cache drop a range that is on the disk, up to the end where `length` is 0; a mere hint."""
    # Python's own repeats it for ever where it is interrupted.
    _libc.posix_fadvise(fd, ctypes.c_int64(offset), ctypes.c_int64(length), os.POSIX_FADV_DONTNEED)


def renameat2(old: str, new: str, flags: int) -> bool:
    """Renames with RENAME_NOREPLACE or RENAME_EXCHANGE.

    Returns:
        False where that is refused, as where the kernel or the file system knows no such flag; nothing was renamed, and
        the plain rename says what is wrong, if anything is.

    Raises:
        OSError: FileExistsError if `new` exists and must not, and data errors.
    """
    arguments = (_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags)
    return _hint("renameat2", *arguments, errors=_DATA_ERRORS | {errno.EEXIST})


def _hint(name: str, *arguments: object, errors: frozenset[int] = _DATA_ERRORS) -> bool:
    """Calls the C library; False where it is refused, OSError for one of `errors`."""
    function = getattr(_libc, name, None)  # musl and old glibc lack some
    if function is None:
        return False
    for _ in range(_MOST_INTERRUPTIONS):
        if function(*arguments) == 0:
            return True
        number = ctypes.get_errno()
        if number in errors:
            raise OSError(number, os.strerror(number), name)
        if number != errno.EINTR:
            break
    return False


def memory_file_system(folder: str) -> str | None:
    """The name of the file system that a folder lies in, where it keeps files in memory."""
    return _IN_MEMORY.get(_magic(folder))


@lru_cache(maxsize=4096)
def maps_safely(path: str) -> bool:
    """Whether a file lies where a mapping of it can be trusted: not behind a network or a program of somebody's.

    There a page that cannot be had kills the process by SIGBUS, where a read returns an error.
    """
    return _magic(path) not in {_UNKNOWN, *_REMOTE}


def _magic(path: str) -> int:
    """The type of the file system of a path, as linux/magic.h numbers them; `_UNKNOWN` where nobody tells."""
    buffer = ctypes.create_string_buffer(512)  # larger than any struct statfs; its first field is the type, a long
    if _libc.statfs(os.fsencode(path), buffer):
        return _UNKNOWN
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


def fsync_path(path: str) -> bool:
    """Makes a file's data, or a folder's entries, durable.

    Returns:
        False for a folder whose file system cannot do that for folders.

    Raises:
        OSError: EIO, for one: what was written may be lost.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC or not os.path.isdir(path):
            raise
        return False
    return True


def free(folder: str) -> int | None:
    """Bytes that the file system of a folder has left for this user; None where it does not tell."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    # Of no blocks at all tell ramfs and many a FUSE: they do not count.
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def longest_name(folder: str) -> int:
    """Bytes that a name in a folder may have."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except OSError:
        return _USUAL_NAME_MAX


def allocated(folder: str) -> int:
    """Bytes on disk of the files below a folder; none where there is no such folder."""
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another run may be at work in it
                total += os.lstat(os.path.join(above, name)).st_blocks * 512
    return total


def write_failed(path: str, error: OSError, missing: int, *, divisible: bool = False) -> OutputError:
    """A failed write in words that tell a full disk, a quota and a limit of file sizes apart.

    Args:
        path: what was written.
        error: what the kernel said.
        missing: bytes that found no room.
        divisible: what is written there can be cut into more files.
    """
    if error.errno == errno.ENOSPC:
        problem = Problem(
            path, "", f"the disk is full, {shown(missing)} more are needed", "Free that space, or write elsewhere"
        )
    elif error.errno == errno.EDQUOT:
        found = f"the disk quota is used up, {shown(missing)} more are needed"
        problem = Problem(path, "", found, "Free that space or raise the quota (see `quota -s`), or write elsewhere")
    elif error.errno == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        said = "the file system" if limit == resource.RLIM_INFINITY else f"`ulimit -f` ({shown(limit)})"
        found = f"the file is larger than {said} allows, {shown(missing)} more are needed"
        mend = "Choose a smaller max_shard_size, or raise the limit" if divisible else "Raise the limit"
        problem = Problem(path, "", found, mend)
    else:
        problem = Problem(path, "", f"cannot be written: {os.strerror(error.errno or errno.EIO)}")
    return OutputError([problem])
