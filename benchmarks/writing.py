"""Ways of writing a checkpoint durably, in turn: O_DIRECT, the page cache with sync_file_range behind, the page cache.

python benchmarks/writing.py [--folder FOLDER] [--megabytes N] [--rounds N]

Each writes into reserved blocks, from the end to the beginning as a merge does, on two threads, and ends with fsync.
O_DIRECT is tried from huge pages, of which a disk takes much in one request, and from small ones.
Prints a table, writes results/writing.json.
"""

import argparse
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import processes
from numpy.typing import NDArray

from sdmw.linux import fallocate
from sdmw.writing.streamed import StreamedFile

TILE, HUGE = 4 << 20, 2 << 20  # bytes
Write = Callable[[int, memoryview], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="on the disk to be measured")
    parser.add_argument("--megabytes", type=int, default=2200)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    print(processes.machine())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = compare(folder, arguments.megabytes * 10**6, arguments.rounds)
    print(f"{'way':20} {'threads':>7} {'min s':>7} {'median s':>8} {'GB/s':>6} {'CPU s':>6}")
    for row in rows:
        print(
            f"{row['way']:20} {row['threads']:7} {min(row['seconds']):7.2f} {statistics.median(row['seconds']):8.2f} "
            f"{arguments.megabytes / 1000 / statistics.median(row['seconds']):6.2f} "
            f"{statistics.median(row['cpu_s']):6.2f}"
        )
    processes.write_json("writing", {"machine": processes.machine(), "rows": rows})


def compare(folder: str, size: int, rounds: int) -> list[dict[str, object]]:
    """Each way in turn, round by round; the first round warms the disk and is not kept."""
    cases = [("direct", 2), ("direct, small pages", 2), ("streamed", 2), ("plain", 2)]
    rows = [{"way": way, "threads": threads, "seconds": [], "cpu_s": []} for way, threads in cases]
    small, huge = pages(TILE), pages(TILE, huge=True)
    for number in range(rounds + 1):
        for (way, threads), row in zip(cases, rows, strict=True):
            began, cpu = time.perf_counter(), time.process_time()
            content = memoryview(huge if way == "direct" else small)
            with ThreadPoolExecutor(threads) as pool:
                write_all(way, os.path.join(folder, "written"), size, content, pool.map)
            if number:
                row["seconds"].append(time.perf_counter() - began)  # type: ignore[attr-defined]
                row["cpu_s"].append(time.process_time() - cpu)  # type: ignore[attr-defined]
            os.remove(os.path.join(folder, "written"))
    return rows


def write_all(
    way: str, path: str, size: int, content: memoryview, run: Callable[[Callable[[int], None], Iterable[int]], object]
) -> None:
    """One file of so many bytes, tile by tile, durable at the end."""
    size = -(-size // 4096) * 4096
    with Opened(way, path, size) as write:
        list(run(lambda start: write(start, content[: size - start]), range(size // TILE * TILE, -1, -TILE)))  # type: ignore[call-overload]


class Opened:
    """A reserved file of so many bytes, entered as a function that writes at an offset; synced when left."""

    def __init__(self, way: str, path: str, size: int) -> None:
        self._way, self._path = way, path
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | (os.O_DIRECT if way.startswith("direct") else 0), 0o600)
        fallocate(fd, 0, size)
        self._fd = fd

    def __enter__(self) -> Write:
        if self._way == "streamed":
            self._streamed = StreamedFile(self._path)
            return self._streamed.write
        return self._write

    def _write(self, offset: int, data: memoryview) -> None:
        while data:
            written = os.pwrite(self._fd, data, offset)
            offset, data = offset + written, data[written:]

    def __exit__(self, *_: object) -> None:
        if self._way == "streamed":
            self._streamed.close(sync=True)
        os.fsync(self._fd)
        os.close(self._fd)


def pages(size: int, *, huge: bool = False) -> NDArray[np.uint8]:
    """Random bytes aligned as O_DIRECT wants; in huge pages, of which a disk takes much in one request."""
    mapped = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge:
        mapped.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(mapped, np.uint8)
    found = whole[-whole.ctypes.data % HUGE :][:size]
    found[:] = np.frombuffer(os.urandom(size), np.uint8)
    return found


if __name__ == "__main__":
    main()
