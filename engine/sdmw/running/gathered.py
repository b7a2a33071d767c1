"""What is written of small tensors, gathered: those that lie side by side go to the disk as one."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmw.tensors.staging import staging

Write = Callable[[int, int, NDArray[Any]], None]  # shard, offset in bytes, contiguous data that nobody changes any more

MOST = 1 << 18  # bytes; what is larger is written by itself


class Gathered:
    """Takes writes, and hands on those of neighbours together: at the latest when it is flushed."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._parts: list[NDArray[np.uint8]] = []
        self._shard = self._start = self._stop = 0

    def __call__(self, shard: int, offset: int, data: NDArray[Any]) -> None:
        """Take bytes of a shard; they are copied before the next call or the flush returns."""
        if data.nbytes >= MOST:
            self.flush()  # an output that is written from front to back waits for what lies before
            self._write(shard, offset, data)
            return
        if (shard, offset) != (self._shard, self._stop) or self._stop - self._start >= MOST:
            self.flush()
            self._shard, self._start = shard, offset
        self._parts.append(data.view(np.uint8).copy())
        self._stop = offset + data.nbytes

    def flush(self) -> None:
        """Hand on what was taken."""
        if self._parts:
            joined = staging.array(self._start, self._stop - self._start)
            np.concatenate(self._parts, out=joined)
            self._parts = []
            self._write(self._shard, self._start, joined)
