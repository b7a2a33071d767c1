"""Files written without filling memory: the disk starts at once on what is written, and memory lets go behind."""

import errno
import os
import threading

from sdmw.checkpoints import linux
from sdmw.checkpoints.linux import SYNC_WAIT_AFTER, SYNC_WAIT_BEFORE, SYNC_WRITE

_PAGE = 4096
_STEP = 4 * 2**20  # bytes whose writing is started together: smaller steps would write a page several times
_BEHIND = 64 * 2**20  # bytes on their way to the disk before a writer waits for the oldest of them
_MOST_RANGES = 256  # kept in mind, where tensors are tiny


class StreamedFile:
    """An existing file that threads write at offsets, its dirty and cached pages kept few.

    Left alone, the kernel lets a checkpoint fill the page cache and makes the last fsync wait for all of it. Here the
    disk starts on every 4 MiB at once, and what lies more than 64 MiB behind is waited for and let go. Behind means
    written earlier, whatever the offset: a merge may run from the end to the beginning.

    Every method raises OSError; after one the file's content is unknown.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._fresh: list[tuple[int, int]] = []
        self._started: list[tuple[int, int]] = []
        self.writers = 0  # threads inside `write`, counted by whoever shares the file out

    def write(self, offset: int, data: memoryview) -> None:
        """Writes all of the bytes at an offset from the beginning of the file."""
        position, left = offset, data
        while left:
            written = os.pwrite(self._fd, left, position)
            if written == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            position, left = position + written, left[written:]
        start, finish = self._wrote(offset, position)
        for first, stop in start:
            linux.sync_file_range(self._fd, first, stop - first, SYNC_WRITE)
        for first, stop in finish:
            linux.sync_file_range(self._fd, first, stop - first, SYNC_WAIT_BEFORE | SYNC_WRITE | SYNC_WAIT_AFTER)
            os.posix_fadvise(self._fd, first, stop - first, os.POSIX_FADV_DONTNEED)

    def _wrote(self, start: int, stop: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Notes a range; returns the ranges to start writing now, and those to wait for and let go."""
        with self._lock:
            self._fresh.append((start, stop))
            if _total(self._fresh) < _STEP and len(self._fresh) < _MOST_RANGES:
                return [], []
            begun, self._fresh = _joined(self._fresh), []
            self._started += begun
            done = []
            while _total(self._started) > _BEHIND or len(self._started) > _MOST_RANGES:
                done.append(self._started.pop(0))
            return begun, done

    def read(self, offset: int, nbytes: int) -> bytes:
        """What stands at an offset; shorter where the file ends."""
        parts = []
        while nbytes and (part := os.pread(self._fd, nbytes, offset)):
            parts.append(part)
            offset, nbytes = offset + len(part), nbytes - len(part)
        return b"".join(parts)

    def sync(self) -> None:
        """Makes durable what has been written."""
        os.fdatasync(self._fd)

    def close(self, sync: bool) -> None:
        """Closes the file; with `sync` all that was written is durable first, and its pages are let go of."""
        try:
            if sync:
                os.fsync(self._fd)
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(self._fd)


def _total(ranges: list[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in ranges)


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Whole pages of the ranges, touching ones as one: the kernel lets go of whole pages only."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted((start - start % _PAGE, stop + -stop % _PAGE) for start, stop in ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
