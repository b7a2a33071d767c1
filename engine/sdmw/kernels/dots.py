"""Dot products of tensors by fixed blocks, so that tiles and threads change no bit. Source: DESIGN.md, promise 2."""

from typing import Any

import numpy as np

from sdmw.kernels.blocks import GRAIN, LANES
from sdmw.kernels.codes import DELTA
from sdmw.kernels.jit import kernel
from sdmw.kernels.lanes import add_groups, add_products_of_groups
from sdmw.kernels.tiles import decode

PARTIALS = 64  # numbers without common bits that a float64's range has room for, and some more
_STEP = 1024  # elements decoded at once; divides GRAIN


@kernel
def add_products(one: Any, other: Any, start: int, size: int, lanes: Any) -> None:
    """Add the products of `size` float32 from element `start` of a block to 16 float64 lanes; each product is exact."""
    head = min(size, (LANES - start % LANES) % LANES)
    for i in range(head):
        lanes[(start + i) % LANES] += np.float64(one[i]) * np.float64(other[i])
    groups = (size - head) // LANES
    add_products_of_groups(one, other, head, groups, lanes)
    for i in range(head + groups * LANES, size):
        lanes[(start + i) % LANES] += np.float64(one[i]) * np.float64(other[i])


@kernel
def add_values(values: Any, start: int, size: int, lanes: Any) -> None:
    """Add `size` float64 from element `start` of a block to 16 lanes."""
    head = min(size, (LANES - start % LANES) % LANES)
    for i in range(head):
        lanes[(start + i) % LANES] += values[i]
    groups = (size - head) // LANES
    add_groups(values, head, groups, lanes)
    for i in range(head + groups * LANES, size):
        lanes[(start + i) % LANES] += values[i]


@kernel
def folded(lanes: Any) -> float:
    """The sum of 16 lanes by a fixed tree: 8 pairs, 4, 2, 1. They are zero afterwards."""
    width = LANES // 2
    while width:
        for lane in range(width):
            lanes[lane] += lanes[lane + width]
        width //= 2
    total: float = lanes[0]
    lanes[:] = 0.0
    return total


@kernel
def exact_total(values: Any, count: int, partials: Any) -> float:
    """The exact sum of `count` float64, rounded once; `partials` is scratch of PARTIALS. NaN and infinity pass on.

    Source: Shewchuk, Adaptive precision floating-point arithmetic, 1997; as Python's `math.fsum`.
    """
    used = 0
    for number in range(count):
        x = values[number]
        if not abs(x) < np.inf:
            plain = 0.0
            for each in range(count):
                plain += values[each]
            return plain
        kept = 0
        for j in range(used):
            y = partials[j]
            if abs(x) < abs(y):
                x, y = y, x
            high = x + y
            low = y - (high - x)
            if low != 0.0:
                partials[kept] = low
                kept += 1
            x = high
        partials[kept] = x
        used = kept + 1
    total, low = 0.0, 0.0
    while used > 0 and low == 0.0:
        used -= 1
        before = total
        total = before + partials[used]
        low = partials[used] - (total - before)
    # Half way between two numbers what is left below decides: its sign, since a product could underflow.
    if used > 0 and (low > 0.0) == (partials[used - 1] > 0.0):
        twice = total + 2.0 * low
        total = twice if twice - total == 2.0 * low else total
    return total


@kernel
def zero_nonfinite(values: Any, size: int) -> int:
    """Put zero in the place of NaN and infinity among `size` float32. Returns how many there were."""
    found = np.uint32(0)
    for i in range(size):
        bad = not abs(values[i]) < np.float32(np.inf)
        found += np.uint32(bad)
        values[i] = np.float32(0.0) if bad else values[i]
    return int(found)


@kernel
def dots(
    addresses: Any, codes: Any, count: int, first: int, deltas: bool, lanes: Any, sums: Any, nonfinite: Any
) -> int:
    """(n),(n),(),(),(),(p,16),(b,p),(1): the dot products of all pairs of vectors, by blocks of GRAIN elements.

    The vectors are the inputs' values; or, where the first input is the base, the others' deltas from it. `lanes` are
    float64, of the block that `first` lies in: the tile's first element, counted from the tensor's. Pairs go (0,0),
    (0,1), …, (1,1), … NaN and infinity count as zero; `nonfinite`, int64, tells how many there were. Returns how many
    blocks the tile ends; their sums are in `sums`.
    """
    inputs = addresses.size
    vectors = np.empty((inputs, _STEP), np.float32)
    lowest, ended, start = (1 if deltas else 0), 0, 0
    while start < count:
        place = (first + start) % GRAIN
        size = min(_STEP - place % _STEP, count - start)
        for number in range(inputs):
            decode(addresses[number], codes[number], start, size, vectors[number])
        for number in range(lowest, inputs):
            if deltas and codes[number] != DELTA:
                for i in range(size):
                    vectors[number, i] = vectors[number, i] - vectors[0, i]
        for number in range(lowest, inputs):
            nonfinite[0] += zero_nonfinite(vectors[number], size)
        pair = 0
        for one in range(lowest, inputs):
            for other in range(one, inputs):
                add_products(vectors[one], vectors[other], place, size, lanes[pair])
                pair += 1
        start += size
        if (first + start) % GRAIN == 0:
            for pair in range(lanes.shape[0]):
                sums[ended, pair] = folded(lanes[pair])
            ended += 1
    return ended
