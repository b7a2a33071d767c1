"""Reading tensors from mapped files: few mappings a process, no open descriptors, no SIGBUS that can be foreseen."""

import ctypes
import errno
import mmap
import os
import stat
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdmw.errors import RunError
from sdmw.storage.shard import size_change
from sdmw.tensors import lost_pages
from sdmw.tensors.read_errors import changed, not_opened, unreadable

if TYPE_CHECKING:
    from sdmw.tensors.stored import Stored

_MOST_MAPPINGS = 64  # kept when nobody uses them: some inputs of a few shards each
_MADV_POPULATE_READ = 22  # from linux/mman.h; since 5.14
_PAGE = mmap.PAGESIZE
_STEP = 2**16  # bytes read at once when looking for the place of a read error

# Through ctypes and not through the mmap module: its madvise holds the GIL while pages are read (about 1 s a GiB for
# every other thread), and its mappings keep a descriptor each.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class MappedFile:
    """A read-only shared mapping of a whole file; unmapped when neither it nor an array made from its view is left.

    Attributes:
        view: the file's bytes, read-only.
        size: of the file when it was mapped, in bytes.
        identity: device, inode and size then: another one under the same path is another mapping.

    Raises:
        OSError: the file cannot be opened or mapped, or is not a regular file (EINVAL) or empty (EINVAL).
    """

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file any more")
            self.size = status.st_size
            address = _libc.mmap(None, self.size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
            if address == ctypes.c_void_p(-1).value:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(fd)
        self.identity = _identity(status)
        self._address: int = address
        # Every array made from the view keeps the buffer alive, and the buffer the mapping.
        buffer = (ctypes.c_ubyte * self.size).from_address(address)
        # Not when the interpreter ends: a thread may still be reading then, and the kernel unmaps anyway.
        weakref.finalize(buffer, _unmap, address, self.size).atexit = False
        lost_pages.protect(address, self.size)
        self.view = memoryview(buffer).toreadonly()

    def populate(self, start: int, stop: int) -> int:
        """Reads the pages of bytes start to stop into memory, so that touching them raises no SIGBUS.

        Returns:
            0, or the error: EFAULT where the file ends before `stop` or the disk cannot read. Another thing may still
            truncate the file afterwards.
        """
        number = self._advise(start, stop, _MADV_POPULATE_READ)
        return 0 if number == errno.EINVAL else number  # a kernel before 5.14: pages come when they are touched

    def release(self, start: int, stop: int) -> None:
        """Lets go of the pages of bytes start to stop, those at the edges too: who still uses them reads them again."""
        self._advise(start, stop, mmap.MADV_DONTNEED)

    def _advise(self, start: int, stop: int, advice: int) -> int:
        first = start // _PAGE * _PAGE
        if _libc.madvise(self._address + first, stop - first, advice) == 0:
            return 0
        return ctypes.get_errno()


def _unmap(address: int, size: int) -> None:
    lost_pages.forget(address)
    _libc.munmap(address, size)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_size


@dataclass(slots=True)
class Mappings:
    """The mapped files of a process, the least recently used dropped first; safe for threads.

    Dropped means forgotten: tiles that are still in use keep their mapping, and its pages, until they go.

    Attributes:
        most: how many are kept.
    """

    most: int
    _kept: OrderedDict[str, MappedFile] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, path: str) -> MappedFile:
        """The mapping of the file that the path names now; OSError where it cannot be mapped."""
        # A look costs 2 µs a tile. Without it a file that was replaced since an earlier merge in this process would
        # still give its old content.
        identity = _identity(os.stat(path))
        with self._lock:
            mapped = self._kept.get(path)
            if mapped is None or mapped.identity != identity:
                mapped = self._kept[path] = MappedFile(path)
            self._kept.move_to_end(path)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
        return mapped

    def kept(self, path: str) -> MappedFile | None:
        """The mapping of a file if there is one."""
        with self._lock:
            return self._kept.get(path)

    def drop(self, path: str) -> None:
        """Forgets the mapping of a file: pages that were lost stay zeros in it."""
        with self._lock:
            self._kept.pop(path, None)

    def clear(self) -> None:
        """Forgets all of them: a file that is mapped keeps its place on the disk after it was deleted."""
        with self._lock:
            self._kept.clear()

    def after_fork(self) -> None:
        """Makes the mappings usable in a forked child, where the thread that held the lock may be gone."""
        self._lock = threading.Lock()


_mappings = Mappings(_MOST_MAPPINGS)
os.register_at_fork(after_in_child=_mappings.after_fork)


def unmap() -> None:
    """Lets go of every mapping: whoever still reads maps its files again."""
    _mappings.clear()


@dataclass(frozen=True, slots=True)
class MappedTensor:
    """A `Source` whose tiles are views into the mapped file. Opens nothing before the first tile; pickles.

    Attributes:
        info: the tensor; its dtype is of whole bytes.
    """

    info: "Stored"

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop in row-major order: 1-D, read-only, of `info.dtype.storage`, perhaps unaligned.

        Raises:
            InputChangedError: the file is gone, or shorter than when the header was read.
            RunError: the file or the disk cannot be read.
        """
        info = self.info
        if not 0 <= start <= stop <= info.elements:
            raise IndexError(f"elements {start} to {stop} of {info.elements}")
        if start == stop:
            nothing = np.empty(0, info.dtype.storage)
            nothing.flags.writeable = False
            return nothing
        first, last = self._bytes(start, stop)
        before = _mappings.kept(info.file)
        try:
            mapped = _mappings.of(info.file)
        except OSError as error:
            raise not_opened(self.info, error) from None
        if (end := info.offset + info.nbytes) > mapped.size:
            raise changed(self.info, size_change(max(end, before.size if before else 0), mapped.size))
        if number := mapped.populate(first, last):
            raise self._not_read(mapped, first, last, number)
        return np.frombuffer(mapped.view, info.dtype.storage, count=stop - start, offset=first)

    def release(self, start: int, stop: int) -> None:
        """Lets go of the memory behind a tile: mapped pages count as resident until then."""
        mapped = _mappings.kept(self.info.file)
        first, last = self._bytes(start, stop)
        if mapped is not None and first < last <= mapped.size:
            mapped.release(first, last)

    def lost(self) -> RunError:
        """What to say when pages of some mapping were lost, perhaps of this; the mapping is not used again."""
        info = self.info
        _mappings.drop(info.file)
        try:
            size = os.stat(info.file).st_size
        except OSError as error:
            return not_opened(info, error)
        if size < info.offset + info.nbytes:
            return changed(info, size_change(info.offset + info.nbytes, size))
        return unreadable(info, info.offset, errno.EIO)

    def _bytes(self, start: int, stop: int) -> tuple[int, int]:
        itemsize = self.info.dtype.itemsize
        return self.info.offset + start * itemsize, self.info.offset + stop * itemsize

    def _not_read(self, mapped: MappedFile, first: int, last: int, number: int) -> RunError:
        """The error for pages that could not be read: EFAULT may mean a truncated file as well as a bad disk."""
        try:
            with open(self.info.file, "rb", buffering=0) as file:
                now = os.fstat(file.fileno())
                if _identity(now) != mapped.identity:
                    same_size = now.st_size == mapped.size
                    return changed(self.info, "was replaced" if same_size else size_change(mapped.size, now.st_size))
                offset = first
                try:
                    while offset < last:
                        os.pread(file.fileno(), min(_STEP, last - offset), offset)
                        offset += _STEP
                except OSError as error:
                    first, number = offset, error.errno or number
        except OSError as error:
            return not_opened(self.info, error)
        return unreadable(self.info, first, number)
