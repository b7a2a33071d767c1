"""How far the softmax of a model's values is from that of the base's, over a row: as a whole, or part by part.

The divergence is the sum of p * ln(p / q), p of the model and q of the base: softmax in float64, and 1e-8 more. Sums
are of blocks of GRAIN elements of the row, added exactly. Powers and logarithms are ours, not the C library's: the same
bits on any machine, which may differ from those of others in the last place. Source: METHODS.md, section 3.
"""

from typing import Any

import numpy as np

from sdmw.kernels.blocks import GRAIN, LANES
from sdmw.kernels.codes import DELTA
from sdmw.kernels.dots import add_values, exact_total, folded
from sdmw.kernels.elementary import log_of_ratio, power_of_e
from sdmw.kernels.jit import kernel
from sdmw.kernels.lanes import raise_by_groups
from sdmw.kernels.tiles import BLOCK, decode

_ADDED = 1e-8  # to each share


@kernel
def values_of(addresses: Any, codes: Any, start: int, size: int, base: Any, model: Any, p: Any, q: Any) -> None:
    """The values of `size` elements from `start`, float64: the model's in `p`, the base's in `q`."""
    decode(addresses[0], codes[0], start, size, base)
    decode(addresses[1], codes[1], start, size, model)
    for i in range(size if codes[1] == DELTA else 0):
        model[i] = base[i] + model[i]
    for i in range(size):
        p[i] = np.float64(model[i])
    for i in range(size):
        q[i] = np.float64(base[i])


@kernel
def largest(values: Any, size: int, top: float, lanes: Any) -> float:
    """The largest of `size` values and one more; NaN is none. `lanes` are 16 zeros, before and after."""
    lanes[:] = top
    groups = size // LANES
    raise_by_groups(values, 0, groups, lanes)
    for i in range(groups * LANES, size):
        top = values[i] if values[i] > top else top
    for lane in range(LANES):
        top = lanes[lane] if lanes[lane] > top else top
    lanes[:] = 0.0
    return top


@kernel
def to_powers(values: Any, size: int, top: float) -> None:
    """The powers of e by each value less the largest, in their place."""
    for i in range(size):
        values[i] = power_of_e(values[i] - top)


@kernel
def to_terms(p: Any, q: Any, size: int, total_p: float, total_q: float) -> None:
    """The terms of the divergence, in the place of the model's powers."""
    one_p, one_q = 1.0 / total_p, 1.0 / total_q
    for i in range(size):
        share, base = p[i] * one_p + _ADDED, q[i] * one_q + _ADDED
        p[i] = share * log_of_ratio(share, base)


@kernel
def exact_sum(values: Any, size: int, lanes: Any, sums: Any, partials: Any) -> float:
    """The exact sum of what blocks of GRAIN float64 add up to; `sums` has room for each block's."""
    number = 0
    for start in range(0, size, GRAIN):
        add_values(values[start:], 0, min(GRAIN, size - start), lanes)
        sums[number] = folded(lanes)
        number += 1
    return exact_total(sums, number, partials)


@kernel
def divergence(
    addresses: Any, codes: Any, start: int, row: int, base: Any, model: Any, shares: Any, lanes: Any, sums: Any,
    partials: Any,
) -> float:  # fmt: skip
    """Of the row that begins at an element of the tile; NaN where a value is NaN or infinite.

    `shares` is (2,r) float64 scratch.
    """
    p, q = shares[0], shares[1]
    top_p, top_q = -np.inf, -np.inf
    for at in range(0, row, BLOCK):
        size = min(BLOCK, row - at)
        values_of(addresses, codes, start + at, size, base, model, p[at:], q[at:])
        top_p, top_q = largest(p[at:], size, top_p, lanes), largest(q[at:], size, top_q, lanes)
    to_powers(p, row, top_p)
    to_powers(q, row, top_q)
    total_p = exact_sum(p, row, lanes, sums, partials)
    total_q = exact_sum(q, row, lanes, sums, partials)
    to_terms(p, q, row, total_p, total_q)
    return exact_sum(p, row, lanes, sums, partials)


@kernel
def find_largest(addresses: Any, codes: Any, count: int, tops: Any) -> None:
    """(2),(2),(),(2): the largest value of the model, and of the base, float64, if larger than what is known."""
    base, model, values = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty((2, BLOCK), np.float64)
    lanes = np.zeros(LANES, np.float64)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        values_of(addresses, codes, start, size, base, model, values[0], values[1])
        for which in range(2):
            tops[which] = largest(values[which], size, tops[which], lanes)


@kernel
def sum_by_block(
    addresses: Any, codes: Any, count: int, first: int, tops: Any, totals: Any, lanes: Any, sums: Any
) -> int:  # fmt: skip
    """(2),(2),(),(),(2),(0),(2,16),(b,2): the sums of the model's powers, and of the base's, by blocks of one row.

    Or, where `totals` has both sums of the whole row, the sum of the divergence's terms: (2),(1,16),(b,1). All are
    float64. `lanes` are of the block that `first` lies in: the tile's first element, counted from the row's. Returns
    how many blocks the tile ends; their sums are in `sums`.
    """
    base, model, values = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty((2, BLOCK), np.float64)
    p, q = values[0], values[1]
    ended, start = 0, 0
    while start < count:
        place = (first + start) % GRAIN
        size = min(BLOCK - place % BLOCK, count - start)
        values_of(addresses, codes, start, size, base, model, p, q)
        to_powers(p, size, tops[0])
        to_powers(q, size, tops[1])
        if totals.size:
            to_terms(p, q, size, totals[0], totals[1])
        for number in range(lanes.shape[0]):
            add_values(values[number], place, size, lanes[number])
        start += size
        if (first + start) % GRAIN == 0:
            for number in range(lanes.shape[0]):
                sums[ended, number] = folded(lanes[number])
            ended += 1
    return ended
