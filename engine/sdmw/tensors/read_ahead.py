"""Blocks of objects in stores, fetched before they are asked for: a store is far, and answers many at once."""

import os
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

from sdmw.storage.remote import fetch_view

BLOCK = 2 << 20  # bytes of one request
AHEAD = 4  # blocks that are fetched behind the one that was asked for
HELD = (AHEAD + 3) * BLOCK  # bytes for each thread and tensor that is read: blocks ahead, and those of its tile
KEPT = HELD + BLOCK  # of memory: a block is put together from what arrives
FETCHING = 16  # requests at once

Key = tuple[str, str, int]  # address, version, number of the block


class Blocks:
    """Blocks that were fetched or are on their way, the last used ones last, within a number of bytes.

    Two tiles may share a block, and so may two tensors.
    """

    def __init__(self) -> None:
        self._made_anew()

    def _made_anew(self) -> None:
        self._lock = threading.Lock()
        self._fetched: OrderedDict[Key, Future[memoryview]] = OrderedDict()
        self._threads: ThreadPoolExecutor | None = None
        self.capacity = HELD

    def read(self, address: str, version: str, offset: int, end: int, out: memoryview) -> None:
        """Fill a buffer from an offset of an object on.

        Args:
            address: of the object.
            version: that it must have.
            offset: of the first byte.
            end: where what is worth fetching ahead ends.
            out: the buffer.

        Raises:
            OSError: as `fetch_view`.
        """
        first, last = offset // BLOCK, (offset + out.nbytes - 1) // BLOCK
        ahead = min(last + AHEAD, (end - 1) // BLOCK)
        for number in range(first, last + 1):
            future = self._wanted(address, version, number, range(number + 1, min(number + AHEAD, ahead) + 1))
            block = self._result((address, version, number), future)
            start, stop = max(offset, number * BLOCK), min(offset + out.nbytes, (number + 1) * BLOCK)
            part = block[start - number * BLOCK : stop - number * BLOCK]
            if len(part) != stop - start:
                raise OSError(0, "the object is shorter than its header says")
            out[start - offset : stop - offset] = part
            if stop == (number + 1) * BLOCK:
                self._is_read((address, version, number))

    def forget(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._fetched.clear()

    def _wanted(self, address: str, version: str, number: int, ahead: range) -> Future[memoryview]:
        with self._lock:
            wanted = self._asked((address, version, number))
            for each in ahead:
                self._asked((address, version, each))
            while len(self._fetched) * BLOCK > self.capacity:
                self._fetched.popitem(last=False)
            return wanted

    def _asked(self, key: Key) -> Future[memoryview]:
        """The block, asked for where it is not; with the lock."""
        if key in self._fetched:
            self._fetched.move_to_end(key)
        else:
            self._threads = self._threads or ThreadPoolExecutor(FETCHING, thread_name_prefix="sdmw-fetch")
            self._fetched[key] = self._threads.submit(_block, *key)
        return self._fetched[key]

    def _is_read(self, key: Key) -> None:
        """A block that was read to its end is the first to go: tiles come in order."""
        with self._lock:
            if key in self._fetched:
                self._fetched.move_to_end(key, last=False)

    def _result(self, key: Key, future: Future[memoryview]) -> memoryview:
        try:
            return future.result()
        except BaseException:
            with self._lock:
                self._fetched.pop(key, None)  # who asks again shall not get the same error
            raise

    def after_fork(self) -> None:
        """The threads are the parent's."""
        self._made_anew()


def _block(address: str, version: str, number: int) -> memoryview:
    return fetch_view(address, number * BLOCK, (number + 1) * BLOCK, version)[0]


blocks = Blocks()
os.register_at_fork(after_in_child=blocks.after_fork)
