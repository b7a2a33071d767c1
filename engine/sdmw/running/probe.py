"""Measures what disks and processor give, in a second or two: the only part of a plan that reads or writes data."""

import mmap
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import numpy as np

from sdmw.addresses import is_remote
from sdmw.errors import Problem, RunError, UsageError, quoted
from sdmw.kernels import ready
from sdmw.kernels.codes import BF16
from sdmw.linux import forget_pages
from sdmw.planning.estimate import Bandwidth
from sdmw.storage.shard import Shard
from sdmw.writing.streamed import StreamedFile
from sdmw.writing.work_directory import standing

MOST = 256 << 20  # bytes that are read, and that are written
STEP = 4 << 20  # bytes at once
LONGEST = 2.0  # s of reading, and of writing
KERNEL_NS = 0.60  # of an element of one bfloat16 delta that is added to a base, on the machine of `planning/costs.py`
ELEMENTS = 1 << 16  # in a processor's second-level cache
CALIBRATING = 0.05  # s


def measured(shards: Sequence[Shard], target: str | None, threads: int) -> Bandwidth:
    """What inputs can be read with, the output be written with, and how long arithmetic takes here.

    Args:
        shards: of all inputs; files of this machine.
        target: the directory to appear. Without it writing counts as reading does.
        threads: that read.

    Raises:
        UsageError: an input or the output lies in a store.
        RunError: a file cannot be read, or none can be made where the output goes.
    """
    for path in (*(shard.path for shard in shards), *([target] if target else [])):
        if is_remote(path):
            mend = "State it, as in --bandwidth 200MB"
            raise UsageError([Problem("bandwidth", "files of this machine, to measure it", quoted(path), mend)])
    read = _reading(shards, threads)
    folder = standing(os.path.dirname(os.path.abspath(target))) if target else None
    write = _writing(folder) if folder else read
    shared = folder is None or os.stat(folder).st_dev in {os.stat(shard.path).st_dev for shard in shards}
    return Bandwidth(read, write, shared=shared, measured=True, slowness=slowness())


def _reading(shards: Sequence[Shard], threads: int) -> int:
    """Bytes a second of files from their disk: pages that the cache has of them are let go first, where it can be."""
    places = _places(shards)
    began = time.perf_counter()
    with ThreadPoolExecutor(max(1, min(threads, len(places)))) as pool:
        read = sum(pool.map(partial(_read, began), places))
    return max(1, int(read / (time.perf_counter() - began)))


def _places(shards: Sequence[Shard]) -> list[tuple[str, int, int]]:
    """Path, offset and bytes of what is read: as much of each file, in runs as a merge reads them."""
    share = max(STEP, MOST // max(1, len(shards)) // STEP * STEP)
    largest = sorted(shards, key=lambda shard: -shard.size)[: MOST // share]
    return [(shard.path, first, min(STEP * 4, shard.size - first, share - first))
            for shard in largest for first in range(0, min(share, shard.size), STEP * 4)]  # fmt: skip


def _read(began: float, place: tuple[str, int, int]) -> int:
    """How many bytes of a place were read."""
    path, first, size = place
    if time.perf_counter() - began > LONGEST:
        return 0
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with suppress(OSError):
                forget_pages(descriptor, first, size)
            return sum(len(os.pread(descriptor, min(STEP, size - done), first + done)) for done in range(0, size, STEP))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RunError([Problem(path, "", f"cannot be read: {error.strerror}")]) from error


def _writing(folder: str) -> int:
    """Bytes a second of a new file, as a merge writes: with what the disk takes to have it."""
    block = mmap.mmap(-1, STEP)  # whole pages, so that it goes past the page cache as tiles do
    block.write(os.urandom(STEP))
    try:
        file = _nameless(folder)
        began, done = time.perf_counter(), 0
        try:
            while done < MOST and time.perf_counter() - began < LONGEST:
                file.write(done, memoryview(block))
                done += STEP
        finally:
            file.close(sync=True)
        return max(1, int(done / (time.perf_counter() - began)))
    except OSError as error:
        raise RunError([Problem(folder, "", f"cannot be written to: {error.strerror}")]) from error


def _nameless(folder: str) -> StreamedFile:
    """A new file that is gone when it is closed, or when this process ends, however that is."""
    descriptor, path = tempfile.mkstemp(dir=folder, prefix=".sdmw-probe-")
    try:
        with suppress(OSError):  # some file systems reserve nothing
            os.posix_fallocate(descriptor, 0, MOST)
        return StreamedFile(path)
    finally:
        os.unlink(path)
        os.close(descriptor)


def slowness() -> float:
    """How many times as long as on the table's machine a kernel takes here: its best time within 50 ms."""
    ready.prepare(lambda _: None)
    from sdmw.kernels import tiles

    arrays = [np.full(ELEMENTS, 0x3C00 + number, np.uint16) for number in range(3)]
    addresses = np.array([array.ctypes.data for array in arrays[:2]], np.int64)
    codes, nothing, one = np.full(2, BF16, np.int64), np.full(1, 0, np.float32), np.float32(1)
    weights, ends, best = np.ones(1, np.float32), time.perf_counter() + CALIBRATING, float("inf")
    while (began := time.perf_counter()) < ends:
        tiles.merge_deltas(
            addresses, codes, ELEMENTS, nothing, weights, one, one, True, arrays[2].ctypes.data, BF16
        )  # fmt: skip
        best = min(best, time.perf_counter() - began)
    return best / (ELEMENTS * KERNEL_NS * 1e-9)
