"""The floor: reads every word of the inputs as often as a method must, writes as many bytes as it does; no arithmetic.

python benchmarks/floor.py '{"inputs": [...], "passes": 2, "bytes": B, "out": FILE, "way": "streamed",
                             "threads": 2, "cold": false}'

Same threads, same tiles, in order in both passes; inputs are mapped, each word is read (a sum that the compiler cannot
leave out), pages are let go of behind. The output is reserved, written in the last pass by threads of its own, as ours
is, and synced; past the page cache or through it, in one of the ways of `writing.py`. Prints the seconds of the work,
without the start of the interpreter.
"""

import ctypes
import json
import mmap
import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from processes import drop_cache

from writing import Opened, pages

TILE = 4 << 20  # bytes
WRITERS, IN_FLIGHT = 2, 3  # as in writing/shard_writer.py, of two threads
LIBC = ctypes.CDLL(None, use_errno=True)
DONTNEED = 4


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def sum_words(words: Any) -> int:
    """Reads every word; vectorised to as many bytes a cycle as the caches give."""
    total = np.uint64(0)
    for word in words:
        total += word
    return total


@dataclass(frozen=True)
class Mapped:
    """One input, mapped."""

    words: NDArray[np.uint64]
    address: int

    @classmethod
    def of(cls, path: str) -> "Mapped":
        """Maps a whole file."""
        with open(path, "rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        words = np.frombuffer(mapping, np.uint64, len(mapping) // 8)
        return cls(words, words.ctypes.data)

    def read(self, start: int, stop: int) -> int:
        """Reads bytes from start to stop, by faults, and lets go of their pages."""
        size = min(stop, self.words.nbytes) - start
        total = sum_words(self.words[start // 8 : stop // 8])
        if size > 0:
            LIBC.madvise(ctypes.c_void_p(self.address + start), ctypes.c_size_t(size), DONTNEED)
        return int(total)


def main() -> None:
    asked = json.loads(sys.argv[1])
    sum_words(np.zeros(8, np.uint64))
    began = time.perf_counter()
    files = [shard for folder in asked["inputs"] for shard in shards(folder)]
    largest = max(os.path.getsize(file) for file in files)
    mapped = [Mapped.of(file) for file in files]
    tiles = [(start, min(start + TILE, largest)) for start in range(0, largest, TILE)]
    with ThreadPoolExecutor(asked["threads"]) as threads:
        for number in range(asked["passes"] - 1):
            list(threads.map(lambda tile: [each.read(*tile) for each in mapped], tiles))
            if asked["cold"]:
                drop_cache(*files)
            del number
        write_last(mapped, tiles, asked, threads)
    print(time.perf_counter() - began)


def write_last(mapped: list[Mapped], tiles: list[tuple[int, int]], asked: dict[str, Any], threads: Any) -> None:
    """The last pass: each tile is read in every input, and its share of the output written."""
    size = -(-asked["bytes"] // 4096) * 4096
    content, room = pages(TILE, huge=True), threading.Semaphore(IN_FLIGHT)
    with Opened(asked["way"], asked["out"], size) as write, ThreadPoolExecutor(WRITERS) as writers:

        def write_part(start: int, stop: int) -> None:
            try:
                write(start, memoryview(content)[: stop - start])
            finally:
                room.release()

        def read_and_write(number: int) -> list[Future[None]]:
            for each in mapped:
                each.read(*tiles[number])
            start, stop = size * number // len(tiles) // 4096 * 4096, size * (number + 1) // len(tiles) // 4096 * 4096
            parts = [(first, min(first + TILE, stop)) for first in range(start, stop, TILE)]
            return [writers.submit(write_part, *part) for part in parts if room.acquire()]

        for futures in threads.map(read_and_write, range(len(tiles))):
            for future in futures:
                future.result()


def shards(folder: str) -> list[str]:
    """The safetensors files of a checkpoint."""
    return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".safetensors"))


if __name__ == "__main__":
    main()
