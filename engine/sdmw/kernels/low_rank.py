"""The product of two small matrices, each element summed in float64 in the order of the rank."""

from typing import Any

import numpy as np

from sdmw.kernels.blocks import LANES
from sdmw.kernels.jit import kernel, part
from sdmw.kernels.panels import ROWS, multiply_doubles, multiply_floats

PACKED = 4096  # numbers in the panels that rows are multiplied with one after the other: they stay in the first cache


def by_panels(multiply: Any) -> Any:
    """The product of two matrices by `multiply`, which makes a few rows of one panel.

    What is returned takes the two, the scaling, a result, the place of it where the product begins, and how far apart
    rows are there.
    """

    @part
    def product_of(left: Any, right: Any, scaling: float, out: Any, start: int, step: int) -> None:
        rows, rank = left.shape
        columns = right.shape[1]
        wide = widened_rows(left)
        panels = np.zeros((max(1, PACKED // (max(1, rank) * LANES)), rank, LANES), np.float64)
        edge = np.empty(ROWS * LANES, np.float32)
        for begin in range(0, columns, panels.shape[0] * LANES):
            end = min(begin + panels.shape[0] * LANES, columns)
            pack(right, begin, end, panels)
            for row in range(0, rows, ROWS):
                for column in range(begin, end, LANES):
                    panel, at = (column - begin) // LANES, start + row * step + column
                    if row + ROWS <= rows and column + LANES <= end:
                        multiply(wide, row, panels, panel, scaling, out, at, step)
                    else:
                        multiply(wide, row, panels, panel, scaling, edge, 0, LANES)
                        copy_edge(edge, min(ROWS, rows - row), min(LANES, end - column), out, at, step)

    return product_of


@kernel
def widened_rows(left: Any) -> Any:
    """(m,r): the same numbers in float64; rows of zeros follow, up to a multiple of ROWS."""
    rows, rank = left.shape
    wide = np.zeros(((rows + ROWS - 1) // ROWS * ROWS, rank), np.float64)
    for row in range(rows):
        number, into = left[row], wide[row]
        for k in range(rank):
            into[k] = number[k]
    return wide


@kernel
def pack(right: Any, begin: int, end: int, panels: Any) -> None:
    """(r,n),(),(),(p,r,LANES): columns from begin up to end as panels; the last one's other columns are any numbers."""
    for k in range(right.shape[0]):
        for column in range(begin, end, LANES):
            size = min(LANES, end - column)
            run, into = right[k][column : column + size], panels[(column - begin) // LANES][k]
            for lane in range(size):
                into[lane] = run[lane]


@kernel
def copy_edge(edge: Any, rows: int, columns: int, out: Any, at: int, step: int) -> None:
    """(ROWS*LANES),(),(),(o),(),(): the first rows and columns of what was multiplied, rows `step` apart in `out`."""
    for row in range(rows):
        for column in range(columns):
            out[at + row * step + column] = edge[row * LANES + column]


_of_floats, _of_doubles = by_panels(multiply_floats), by_panels(multiply_doubles)


@kernel
def product_of_floats(left: Any, right: Any, scaling: float, out: Any, start: int, step: int) -> None:
    """(m,r),(r,n),(),(o),(),(): scaling * left @ right, put in `out` from place `start` on, rows `step` places apart.

    All are C-contiguous and float32. Every element is the sum over r in order, from +0, in float64; scaling * sum is
    rounded once to float32. So it does not depend on what else is computed with it. NaN and infinity pass on; where
    several NaN meet, which of them does is not said.
    """
    _of_floats(left, right, scaling, out, start, step)


@kernel
def product_of_doubles(left: Any, right: Any, scaling: float, out: Any, start: int, step: int) -> None:
    """As `product_of_floats`, of float64: each product and each sum is one float64 operation."""
    _of_doubles(left, right, scaling, out, start, step)
