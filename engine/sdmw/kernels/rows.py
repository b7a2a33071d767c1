"""Rows of a file gathered into memory: one system call a run, without the GIL."""

from typing import Any

import numpy as np

from sdmw.kernels.jit import External, kernel

_pread = External("pread", "int64", "int32", "int64", "int64", "int64")


@kernel
def read_runs(fd: int, offsets: Any, sizes: Any, places: Any, address: int) -> int:
    """(n),(n),(n) int64: bytes of an open file, from offsets and of these sizes, to places behind an address.

    Returns how many runs were read as a whole before one was not: n if all were.
    """
    for run in range(len(offsets)):
        done = np.int64(0)
        while done < sizes[run]:
            got = _pread(np.int32(fd), address + places[run] + done, sizes[run] - done, offsets[run] + done)
            if got <= 0:
                return run
            done += got
    return len(offsets)
