"""A handler of SIGBUS, as machine code: zeros for the lost pages of ranges in a table, death as ever elsewhere.

The kernel raises SIGBUS where a mapped page cannot be read: its file was truncated, or the disk failed. A handler
written in Python would need the GIL, which the interrupted thread may hold or not.
"""

from typing import Any

import numpy as np

from sdmw.kernels.jit import External, callback, words64

# Where the table lies is part of the machine code, which is cached for all processes: a place that Linux gives to
# nobody by itself, half way between programs and libraries.
TABLE = 0x3F5D_4D00_0000
RANGES = 4095  # that the table has room for
COUNT, LOST, FIRST = 0, 1, 2  # int64 at the table: ranges in use or once used, pages lost, then start and stop of each
TABLE_BYTES = 1 << 16

_ADDRESS = 16  # of the fault, in siginfo_t; x86-64 and aarch64, sigaction(2)
_PAGE = 4096
_SIGBUS = 7
_READ, _FIXED_PRIVATE_ANONYMOUS = 1, 0x10 | 0x02 | 0x20

_mmap = External("mmap", "int64", "int64", "int64", "int32", "int32", "int32", "int64")
_signal = External("signal", "int64", "int32", "int64")


@callback("int32", "int64", "int64")
def handler(signum: Any, info: Any, context: Any) -> None:
    """What sigaction is given, with SA_SIGINFO: the signal, the address of siginfo_t, and that of the context."""
    table = words64(TABLE, FIRST + 2 * RANGES)
    address = words64(info + _ADDRESS, 1)[0]
    for number in range(table[COUNT]):
        start, stop = table[FIRST + 2 * number], table[FIRST + 2 * number + 1]
        if start <= address and address < stop:
            page = address - address % _PAGE
            zeros = _mmap(
                page,
                stop - page,
                np.int32(_READ),
                np.int32(_FIXED_PRIVATE_ANONYMOUS),
                np.int32(-1),
                np.int64(0),
            )
            if zeros == page:
                table[LOST] += 1
                return
    _signal(np.int32(_SIGBUS), np.int64(0))  # not ours: the default, as soon as the instruction is tried again
