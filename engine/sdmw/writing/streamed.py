"""Files written without filling memory: past the page cache where that is possible, else with few dirty pages."""

import errno
import os
import threading

import numpy as np

from sdmw import linux
from sdmw.linux import SYNC_WAIT_AFTER, SYNC_WAIT_BEFORE, SYNC_WRITE
from sdmw.tensors.staging import PAGE

_LEAST_DIRECT = 256 * 2**10  # bytes; below, waiting for the disk costs more than copying
_STEP = 4 * 2**20  # bytes whose writing is started together: smaller steps would write a page several times
_BEHIND = 64 * 2**20  # bytes on their way to the disk before a writer waits for the oldest of them
_MOST_RANGES = 256  # kept in mind, where tensors are tiny


class StreamedFile:
    """An existing file that threads write at offsets, its dirty and cached pages kept few.

    Whole pages of data that lie in memory as they will lie in the file (address and offset equal modulo 4096) go to the
    disk without the page cache. The rest, and all where the file system refuses O_DIRECT, goes through it: the disk
    starts on every 4 MiB at once, and what lies more than 64 MiB behind is waited for and let go. Behind means written
    earlier, whatever the offset: a merge may run from the end to the beginning. No page is written in both ways.

    Every method raises OSError; after one the file's content is unknown.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        # A second descriptor, also for hints: the kernel reports lost data once to each, and what `_fd` gets at a
        # sync must not have been said to a hint before.
        try:
            self._other, self._direct = _opened_direct(path)
        except OSError:
            os.close(self._fd)
            raise
        self._lock = threading.Lock()
        self._fresh: list[tuple[int, int]] = []
        self._started: list[tuple[int, int]] = []
        self.writers = 0  # threads inside `write`, counted by the owner of the file

    def write(self, offset: int, data: memoryview) -> None:
        """Writes all of the bytes at an offset from the beginning of the file."""
        first, stop = offset + -offset % PAGE, (offset + len(data)) // PAGE * PAGE
        aligned = (np.frombuffer(data, np.uint8).ctypes.data - offset) % PAGE == 0
        if not self._direct or not aligned or stop - first < _LEAST_DIRECT:
            self._write_cached(offset, data)
            return
        self._write_cached(offset, data[: first - offset])
        self._write_direct(first, data[first - offset : stop - offset])
        self._write_cached(stop, data[stop - offset :])

    def _write_direct(self, position: int, left: memoryview) -> None:
        while left:
            try:
                written = os.pwrite(self._other, left, position)
            except OSError as error:
                if not linux.is_refusal(error):
                    raise
                written = 0
            if not written or written % PAGE:  # blocks larger than a page, or a place that it cannot write so
                self._write_cached(position, left)
                return
            position, left = position + written, left[written:]

    def _write_cached(self, offset: int, left: memoryview) -> None:
        position = offset
        while left:
            written = os.pwrite(self._fd, left, position)
            if written == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            position, left = position + written, left[written:]
        start, finish = self._wrote(offset, position)
        for first, stop in start:
            linux.sync_file_range(self._other, first, stop - first, SYNC_WRITE)
        for first, stop in finish:
            linux.sync_file_range(self._other, first, stop - first, SYNC_WAIT_BEFORE | SYNC_WRITE | SYNC_WAIT_AFTER)
            linux.forget_pages(self._other, first, stop - first)

    def _wrote(self, start: int, stop: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Notes a range; returns the ranges to start writing now, and those to wait for and let go."""
        if start == stop:
            return [], []
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
        """Closes the file; with `sync` all that was written is durable first, and its pages are released."""
        try:
            if sync:
                os.fsync(self._fd)
                linux.forget_pages(self._fd, 0, 0)
        finally:
            os.close(self._other)
            os.close(self._fd)


def _opened_direct(path: str) -> tuple[int, bool]:
    """A descriptor to write with, and whether it goes past the page cache."""
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT), True
    except OSError:  # EINVAL where the file system knows no O_DIRECT
        return os.open(path, flags), False


def _total(ranges: list[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in ranges)


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Whole pages of the ranges, touching ones as one: the kernel lets go of whole pages only."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted((start - start % PAGE, stop + -stop % PAGE) for start, stop in ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
