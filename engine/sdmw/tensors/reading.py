"""Reading tensors by pread into buffers, where a mapping cannot be trusted: its pages may go at any time."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdmw import linux
from sdmw.addresses import is_remote
from sdmw.errors import RunError
from sdmw.storage.shard import size_change
from sdmw.tensors.read_errors import changed, not_opened, unreadable
from sdmw.tensors.tensor import check_range

if TYPE_CHECKING:
    from sdmw.tensors.stored import Stored


@dataclass(frozen=True, slots=True)
class ReadTensor:
    """A `Source` whose tiles are copies. Keeps nothing open; pickles.

    Attributes:
        info: the tensor; its dtype is of whole bytes.
    """

    info: "Stored"

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop in row-major order: 1-D, read-only, of `info.dtype.storage`.

        Raises:
            InputChangedError: the file is gone, or shorter than when the header was read.
            RunError: the file or the disk cannot be read.
        """
        info = self.info
        check_range(info, start, stop)
        values = np.empty(stop - start, info.dtype.storage)
        if values.size:
            with _opened(info) as fd:
                _fill(info, fd, memoryview(values.data).cast("B"), info.offset + start * info.dtype.itemsize)
        values.flags.writeable = False
        return values.view()  # the owner of the memory could be made writeable again

    def release(self, start: int, stop: int) -> None:
        """Nothing is mapped: a tile is a copy."""

    def lost(self) -> RunError | None:
        """Nothing can be lost of a copy."""
        return None


def read_runs(
    info: "Stored",
    firsts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    places: NDArray[np.int64],
    out: NDArray[np.generic],
) -> None:
    """Read runs of a tensor's elements into their places of an array; the file is opened once.

    Args:
        info: the tensor; its dtype is of whole bytes.
        firsts: (runs) the first element of each.
        sizes: (runs) how many elements it has.
        places: (runs) where in `out` they go.
        out: contiguous, of `info.dtype.storage`.

    Raises:
        InputChangedError: the file is gone, or shorter than when the header was read.
        RunError: the file or the disk cannot be read.
    """
    from sdmw.kernels.rows import read_runs as gather

    itemsize = info.dtype.itemsize
    if is_remote(info.file):
        _read_remote_runs(info, firsts, sizes, places, out)
        return
    offsets, bytes_of, to = info.offset + firsts * itemsize, sizes * itemsize, places * itemsize
    with _opened(info) as fd:
        done = gather(fd, offsets, bytes_of, to, out.ctypes.data)
        # What the kernel could not read is tried once more, to learn the error.
        for run in range(done, firsts.size):
            part = memoryview(out.data).cast("B")[to[run] : to[run] + bytes_of[run]]
            _fill(info, fd, part, int(offsets[run]))


def _read_remote_runs(
    info: "Stored",
    firsts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    places: NDArray[np.int64],
    out: NDArray[np.generic],
) -> None:
    from sdmw.tensors.remote import StoredRemotely, fill

    assert isinstance(info, StoredRemotely)
    itemsize, buffer = info.dtype.itemsize, memoryview(out.data).cast("B")
    for first, size, place in zip(firsts.tolist(), sizes.tolist(), places.tolist(), strict=True):
        if size:
            part = buffer[place * itemsize : (place + size) * itemsize]
            fill(info, info.offset + first * itemsize, part)


@contextmanager
def _opened(info: "Stored") -> Iterator[int]:
    try:
        # Not to wait for ever should the path name a FIFO now.
        fd = os.open(info.file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise not_opened(info, error) from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise not_opened(info, OSError(errno.EINVAL, "no longer a regular file"))
        yield fd
    finally:
        os.close(fd)


def _fill(info: "Stored", fd: int, buffer: memoryview, offset: int) -> None:
    try:
        while buffer:
            size = _read_into(buffer, fd, offset)
            if not size:
                end = info.offset + info.nbytes
                raise changed(info, size_change(end, os.fstat(fd).st_size))
            buffer, offset = buffer[size:], offset + size
    except OSError as error:
        raise unreadable(info, offset, error.errno or errno.EIO) from None


def _read_into(buffer: memoryview, fd: int, offset: int) -> int:
    """How many bytes a read gave."""
    try:
        return os.preadv(fd, [buffer], offset)
    except OSError as error:
        if not linux.is_refusal(error):
            raise
    # Python calls preadv2, which a sandbox may not know.
    data = os.pread(fd, len(buffer), offset)
    buffer[: len(data)] = data
    return len(data)
