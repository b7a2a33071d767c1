"""The product of two small matrices, each element summed in float64 in the order of the rank."""

from typing import Any

import numpy as np

from sdmw.kernels.jit import kernel

WIDTH = 1024  # columns of a block; measured: fewer pay for the loops


@kernel
def product(left: Any, right: Any, scaling: float, out: Any) -> None:
    """(m,r),(r,n),() -> (m,n): out = scaling * left @ right, rounded once to float32.

    `left` and `right` are float64 and C-contiguous, `out` float32. Every element is the sum over r in order, from +0,
    each product and each sum one float64 operation, so it does not depend on what else is computed with it. NaN and
    infinity pass on.
    """
    rows, rank = left.shape
    columns = right.shape[1]
    sums = np.empty(WIDTH, np.float64)
    for first in range(0, columns, WIDTH):
        last = min(first + WIDTH, columns)
        total = sums[: last - first]
        for row in range(rows):
            total[:] = 0.0
            # By four, one after the other: the sums then travel to the cache a quarter as often.
            for k in range(0, rank - rank % 4, 4):
                # Row by row: a slice of two axes would not be known to be contiguous, and not be vectorised.
                one, two = right[k][first:last], right[k + 1][first:last]
                three, four = right[k + 2][first:last], right[k + 3][first:last]
                a, b, c, d = left[row, k], left[row, k + 1], left[row, k + 2], left[row, k + 3]
                add_four(a, b, c, d, one, two, three, four, total)
            for k in range(rank - rank % 4, rank):
                add_one(left[row, k], right[k][first:last], total)
            round_to(scaling, total, out[row][first:last])


@kernel
def add_four(a: float, b: float, c: float, d: float, one: Any, two: Any, three: Any, four: Any, total: Any) -> None:
    """(),(),(),(),(n),(n),(n),(n),(n): add factor * row to the totals, row after row."""
    for i in range(total.size):
        total[i] = (((total[i] + a * one[i]) + b * two[i]) + c * three[i]) + d * four[i]


@kernel
def add_one(factor: float, row: Any, total: Any) -> None:
    """(),(n),(n): add factor * row to the totals."""
    for i in range(total.size):
        total[i] = total[i] + factor * row[i]


@kernel
def round_to(scaling: float, total: Any, out: Any) -> None:
    """(),(n),(n): scaling * total, each rounded to float32."""
    for i in range(total.size):
        out[i] = np.float32(scaling * total[i])
