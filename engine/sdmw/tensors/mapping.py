"""Reading tensors from mapped files: few mappings a process, no open descriptors, no SIGBUS that can be foreseen."""

import ctypes
import errno
import mmap
import os
import stat
import threading
import weakref
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from sdmw.errors import RunError
from sdmw.storage.shard import size_change
from sdmw.tensors import lost_pages
from sdmw.tensors.read_errors import changed, not_opened, unreadable
from sdmw.tensors.reading import ReadTensor
from sdmw.tensors.tensor import check_range

if TYPE_CHECKING:
    from sdmw.tensors.stored import Stored

_MOST_MAPPINGS = 64  # kept when nobody uses them: some inputs of a few shards each
_MADV_POPULATE_READ = 22  # from linux/mman.h; since 5.14
_MREMAP_MAYMOVE = 1
_FAILED = ctypes.c_void_p(-1).value
_PAGE = mmap.PAGESIZE
_WINDOW = 1 << 15  # bytes; what is smaller is mapped together with its neighbours, twice as many bytes at once
_MOST_WINDOWS = 16  # that a thread keeps
WINDOWS = _MOST_WINDOWS * 2 * _WINDOW  # bytes of them

# Through ctypes and not through the mmap module: its madvise holds the GIL while pages are read (about 1 s a GiB for
# every other thread), and its mappings keep a descriptor each.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class MappedFile:
    """A file of which tiles are mapped, each by itself. Its own mapping is never read: it stands for the file.

    A page fault maps more than the page that was touched: up to 64 KiB around it (the kernel's fault-around), or the
    whole large folio that it lies in, up to 2 MiB; but never anything beyond the mapping. In one mapping of the whole
    file all that stayed resident at the edges of tiles after their release, and grew with the file: 813 MB where 265
    were planned. A mapping that ends where its tile ends holds the pages of the tile and no others, on every kernel
    and file system, whatever other threads do.

    It costs about 15 µs a tile. Rejected, measured on ext4, XFS and btrfs:

    - Releasing outwards to 2 MiB: as fast and nothing stays, but while it is in use a tile of 128 KiB holds 2 to 4 MiB
      in each input and thread, which every plan would have to count.
    - MADV_RANDOM: faults map as much as before, and cold reads lose read-ahead (0.04 instead of 1.5 GB/s).
    - Advice on the tile's range alone, which splits the mapping: slower, and neighbours share the page at their edge.

    Attributes:
        size: of the file when it was mapped, in bytes.
        identity: device, inode and size then: another one under the same path is another mapping.
        address: of its own mapping.

    Raises:
        OSError: the file cannot be opened or mapped, or is not a regular file (EINVAL) or empty (EINVAL).
    """

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "no longer a regular file")
            self.size = status.st_size
            self.address = _mapped(_libc.mmap(None, self.size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0))
        finally:
            os.close(fd)
        self.identity = _identity(status)
        self._tiles: weakref.WeakValueDictionary[tuple[int, int], MappedBytes] = weakref.WeakValueDictionary()
        # Here and below not at the end of the interpreter: a thread may still be reading, and the kernel unmaps anyway.
        weakref.finalize(self, _libc.munmap, self.address, self.size).atexit = False

    def tile(self, start: int, stop: int) -> "MappedBytes":
        """The bytes from start up to stop, mapped but not read yet; those that are still in use if they are.

        Raises:
            OSError: they cannot be mapped.
        """
        found = self._tiles.get((start, stop))
        if found is None:
            found = self._tiles[start, stop] = MappedBytes(self, start, stop)
        return found

    def window(self, start: int, stop: int) -> tuple["MappedBytes", int]:
        """A window that holds the bytes from start up to stop, at most `_WINDOW`, and where it begins.

        The thread that made it keeps it for a while: the next small tensor mostly lies in it too.

        Raises:
            OSError: it cannot be mapped.
        """
        first = start // _WINDOW * _WINDOW
        place = first, min(first + 2 * _WINDOW, self.size)
        found = self._tiles.get(place)
        if found is None:
            found = self.tile(*place)
            kept_windows().keep(found)
        return found, first

    def release(self, start: int, stop: int) -> None:
        """Lets go of the pages of a tile, if it is in use: who still reads it brings them back."""
        if tile := self._tiles.get((start, stop)):
            tile.release()


class MappedBytes:
    """Some bytes of a file, read-only, for `np.asarray`; unmapped when neither they nor an array of them is left.

    Attributes:
        nbytes: how many.

    Raises:
        OSError: they cannot be mapped.
    """

    def __init__(self, file: MappedFile, start: int, stop: int) -> None:
        self.nbytes = stop - start
        self._file = file  # kept as long as its tiles are in use: that is where a release finds them
        first = start // _PAGE * _PAGE
        self._read = stop - first
        # A page more than is read: the kernel would make one mapping of two that lie side by side and go on in the
        # file; these overlap instead.
        self._size = self._read + _PAGE
        # An old size of 0 leaves the old mapping and makes a second one; a new one would need a descriptor.
        self._address = _mapped(_libc.mremap(file.address + first, 0, self._size, _MREMAP_MAYMOVE))
        self.__array_interface__ = {
            "version": 3,
            "shape": (self.nbytes,),
            "typestr": "|u1",
            "data": (self._address + start - first, True),  # cannot be made writeable
        }
        weakref.finalize(self, _unmap, self._address, self._size).atexit = False
        self._protected = lost_pages.protect(self._address, self._size)
        self._populating = threading.Lock()
        self._error: int | None = None

    def populate(self) -> int:
        """Reads them into memory, so that touching them raises no SIGBUS; once, however many ask for them.

        Returns:
            0, or the error: EFAULT where the file ends before they do or the disk cannot read. Another thing may still
            truncate the file afterwards.
        """
        if self._error is None:
            with self._populating:
                if self._error is None:
                    self._error = self._populated()
        return self._error

    def _populated(self) -> int:
        # By touching them where no SIGBUS can come of it. MADV_POPULATE_READ marks every page as used, and a large
        # folio once for each of its pages: the kernel then keeps what was read and drops what it reads ahead. In
        # 350 MiB it read 1.17 times what it was asked for, and in 200 MiB 1.29 times; touching, once.
        # Of a window more is touched than is asked for, so pages that are lost there must not count.
        large = self.nbytes > 2 * _WINDOW
        if large and self._protected and (there := lost_pages.touch(self._address, self._read)) is not None:
            return 0 if there else errno.EFAULT
        number = _advise(self._address, self._read, _MADV_POPULATE_READ)
        return 0 if number == errno.EINVAL else number  # a kernel before 5.14: pages come when they are touched

    def release(self) -> None:
        """Lets go of all their pages: who still uses them reads them again."""
        _advise(self._address, self._size, mmap.MADV_DONTNEED)


def _mapped(address: int) -> int:
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return address


def _advise(address: int, size: int, advice: int) -> int:
    return 0 if _libc.madvise(address, size, advice) == 0 else ctypes.get_errno()


def _unmap(address: int, size: int) -> None:
    lost_pages.forget(address)
    _advise(address, size, mmap.MADV_SEQUENTIAL)
    _libc.munmap(address, size)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_size


@dataclass(slots=True)
class Mappings:
    """The mapped files of a process, the least recently used dropped first; safe for threads.

    Dropped means that they go with their last tile in use.

    Attributes:
        most: how many are kept that nobody uses.
    """

    most: int
    _kept: OrderedDict[str, MappedFile] = field(default_factory=OrderedDict)
    _all: weakref.WeakValueDictionary[str, MappedFile] = field(default_factory=weakref.WeakValueDictionary)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, path: str) -> tuple[MappedFile, MappedFile | None]:
        """The mapping of the file that the path names now, and that of before; OSError where it cannot be mapped."""
        # A look costs 2 µs a tile. Without it a file that was replaced since an earlier merge in this process would
        # still give its old content.
        identity = _identity(os.stat(path))
        with self._lock:
            before = mapped = self._kept.get(path) or self._all.get(path)
            if mapped is None or mapped.identity != identity:
                mapped = self._all[path] = MappedFile(path)
            self._kept[path] = mapped
            self._kept.move_to_end(path)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
        return mapped, before

    def found(self, path: str) -> MappedFile | None:
        """The mapping of a file if there is one."""
        with self._lock:
            return self._all.get(path)

    def drop(self, path: str) -> None:
        """Forgets the mapping of a file: pages that were lost stay zeros in its tiles."""
        with self._lock:
            self._all.pop(path, None)
            self._kept.pop(path, None)

    def clear(self) -> None:
        """Forgets all of them: a file that is mapped keeps its place on the disk after it was deleted."""
        with self._lock:
            self._all.clear()
            self._kept.clear()

    def after_fork(self) -> None:
        """Forgets all in a forked child, where the threads that held their locks may be gone."""
        self._lock = threading.Lock()
        self._all, self._kept = weakref.WeakValueDictionary(), OrderedDict()


_mappings = Mappings(_MOST_MAPPINGS)
_local = threading.local()
_windows: weakref.WeakValueDictionary[int, "Windows"] = weakref.WeakValueDictionary()  # by thread


class Windows:
    """The windows that a thread keeps, the latest last."""

    def __init__(self) -> None:
        self._kept: deque[MappedBytes] = deque(maxlen=_MOST_WINDOWS)

    def keep(self, window: MappedBytes) -> None:
        """One more, in the place of the oldest."""
        self._kept.append(window)

    def clear(self) -> None:
        """Lets all of them go; from any thread."""
        self._kept.clear()


def kept_windows() -> Windows:
    """Of this thread."""
    if not hasattr(_local, "windows"):
        _local.windows = Windows()
        _windows[threading.get_ident()] = _local.windows
    return cast(Windows, _local.windows)


def _drop_windows() -> None:
    for reference in _windows.valuerefs():  # a list that is made at once: other threads may begin meanwhile
        if each := reference():
            each.clear()


os.register_at_fork(after_in_child=_mappings.after_fork)
os.register_at_fork(after_in_child=_drop_windows)


def unmap() -> None:
    """Unmaps everything; a source that still reads maps its file again."""
    _mappings.clear()
    _drop_windows()


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
        check_range(info, start, stop)
        if start == stop:
            nothing = np.empty(0, info.dtype.storage)
            nothing.flags.writeable = False
            return nothing
        first, last = self._bytes(start, stop)
        try:
            mapped, before = _mappings.of(info.file)
        except OSError:  # gone, or only not to be mapped: a plain read tells
            return ReadTensor(info).tile(start, stop)
        if (end := info.offset + info.nbytes) > mapped.size:
            raise changed(self.info, size_change(max(end, before.size if before else 0), mapped.size))
        try:
            tile, begin = mapped.window(first, last) if last - first <= _WINDOW else (mapped.tile(first, last), first)
            populated = tile.populate() == 0
        except OSError:
            populated = False
        if not populated:
            # Refused, or out of memory, or the data are lost: a plain read gives them, or says what is wrong where.
            return ReadTensor(info).tile(start, stop)
        return np.asarray(tile)[first - begin : last - begin].view(info.dtype.storage)

    def release(self, start: int, stop: int) -> None:
        """Lets go of the memory behind a tile: mapped pages count as resident until then; those of a window stay."""
        if (stop - start) * self.info.dtype.itemsize <= _WINDOW:
            return
        first, last = self._bytes(start, stop)
        if mapped := _mappings.found(self.info.file):
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
