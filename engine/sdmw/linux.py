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

# From linux/magic.h and the file systems' own sources: their pages come from elsewhere and may fail at any time.
_REMOTE = {
    0x6969: "NFS", 0x517B: "SMB", 0xFF534D42: "CIFS", 0xFE534D42: "SMB2", 0x65735546: "FUSE", 0x01021997: "9P",
    0x00C36400: "Ceph", 0x5346414F: "AFS", 0x0BD00BD0: "Lustre", 0x47504653: "GPFS",
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)
_UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP)
_AT_FDCWD = -100


def fallocate(fd: int, offset: int, length: int) -> bool:
    """Reserves blocks and extends the file; the bytes read as zeros.

    `os.posix_fallocate` will not do: where the file system cannot reserve it writes every block.

    Returns:
        False where the file system cannot reserve.

    Raises:
        OSError: ENOSPC, EDQUOT, EFBIG and whatever else the kernel says.
    """
    return _call("fallocate", fd, 0, ctypes.c_int64(offset), ctypes.c_int64(length))


def sync_file_range(fd: int, offset: int, length: int, flags: int) -> bool:
    """Starts writing dirty pages of a range to disk, or waits for that; nothing is durable before an fsync.

    Returns:
        False where the file system cannot.

    Raises:
        OSError: pages could not be written.
    """
    return _call("sync_file_range", fd, ctypes.c_int64(offset), ctypes.c_int64(length), flags)


def renameat2(old: str, new: str, flags: int) -> bool:
    """Renames with RENAME_NOREPLACE or RENAME_EXCHANGE.

    Returns:
        False where the kernel or the file system knows no such flag; nothing was renamed.

    Raises:
        OSError: FileExistsError if `new` exists and must not, and whatever else the kernel says.
    """
    arguments = (_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags)
    return _call("renameat2", *arguments, unsupported=(*_UNSUPPORTED, errno.EINVAL))


def _call(name: str, *arguments: object, unsupported: tuple[int, ...] = _UNSUPPORTED) -> bool:
    function = getattr(_libc, name, None)  # musl and old glibc lack some
    if function is None:
        return False
    while function(*arguments) != 0:
        number = ctypes.get_errno()
        if number in unsupported:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number), name)
    return True


@lru_cache(maxsize=4096)
def maps_safely(path: str) -> bool:
    """Whether a file lies where a mapping of it can be trusted: not behind a network or a program of somebody's.

    There a page that cannot be had kills the process by SIGBUS, where a read returns an error.
    """
    buffer = ctypes.create_string_buffer(512)  # larger than any struct statfs; its first field is the type, a long
    return bool(_libc.statfs(os.fsencode(path), buffer)) or (
        ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF not in _REMOTE
    )


def fsync_path(path: str) -> None:
    """Makes a file's data, or a folder's entries, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def free(folder: str) -> int:
    """Bytes that the file system of a folder has left for this user."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def allocated(folder: str) -> int:
    """Bytes on disk of the files below a folder; none where there is no such folder."""
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another run may be at work in it
                total += os.lstat(os.path.join(above, name)).st_blocks * 512
    return total


def write_failed(path: str, error: OSError, missing: int) -> OutputError:
    """A failed write in words that tell a full disk, a quota and a limit of file sizes apart.

    Args:
        path: what was written.
        error: what the kernel said.
        missing: bytes that found no room.
    """
    if error.errno == errno.ENOSPC:
        problem = Problem(path, "", f"the disk is full, {shown(missing)} are missing", "Free them, or write elsewhere")
    elif error.errno == errno.EDQUOT:
        found = f"the disk quota is used up, {shown(missing)} are missing"
        problem = Problem(path, "", found, "Free them or raise the quota (see `quota -s`), or write elsewhere")
    elif error.errno == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        said = "the file system" if limit == resource.RLIM_INFINITY else f"`ulimit -f` ({shown(limit)})"
        found = f"the file is larger than {said} allows, {shown(missing)} are missing"
        problem = Problem(path, "", found, "Choose a smaller max_shard_size, or raise the limit")
    else:
        problem = Problem(path, "", f"cannot be written: {os.strerror(error.errno or errno.EIO)}")
    return OutputError([problem])
