"""Dot products of tensors by fixed blocks, so that tiles and threads change no bit. Source: DESIGN.md, promise 2."""

from typing import Any

import numpy as np

from sdmw.kernels.blocks import GRAIN, LANES
from sdmw.kernels.codes import DELTA
from sdmw.kernels.jit import kernel
from sdmw.kernels.lanes import add_groups, add_pairs_of_groups, add_products_of_groups
from sdmw.kernels.tiles import decode

PARTIALS = 64  # numbers without common bits that a float64's range has room for, and some more
_STEP = 1024  # elements decoded at once; divides GRAIN


@kernel
def add_some_products(one: Any, other: Any, start: int, first: int, stop: int, lanes: Any) -> None:
    """Add the products of elements from `first` up to `stop`, of which element 0 is element `start` of a block."""
    for i in range(first, stop):
        lanes[(start + i) % LANES] += np.float64(one[i]) * np.float64(other[i])


@kernel
def before_groups(start: int, size: int) -> int:
    """How many of `size` elements from element `start` of a block come before the first whole group of lanes."""
    return min(size, -start & (LANES - 1))  # LANES is a power of two


@kernel
def add_products(one: Any, other: Any, start: int, size: int, lanes: Any) -> None:
    """Add the products of `size` float32 from element `start` of a block to 16 float64 lanes; each product is exact."""
    head = before_groups(start, size)
    groups = (size - head) // LANES
    end = head + groups * LANES
    if head:  # to find that there is nothing to do takes longer than a whole step of groups
        add_some_products(one, other, start, 0, head, lanes)
    add_products_of_groups(one, other, head, groups, lanes)
    if end < size:
        add_some_products(one, other, start, end, size, lanes)


@kernel
def add_some_of_two(
    one: Any, other: Any, start: int, first: int, stop: int, lanes: Any, both: Any, others: Any
) -> None:  # fmt: skip
    """The same of one with itself, of both, and of the other with itself."""
    add_some_products(one, one, start, first, stop, lanes)
    add_some_products(one, other, start, first, stop, both)
    add_some_products(other, other, start, first, stop, others)


@kernel
def add_products_of_two(one: Any, other: Any, start: int, size: int, lanes: Any, both: Any, others: Any) -> None:
    """All products of two vectors, as `add_products` adds them, but reading each once."""
    head = before_groups(start, size)
    groups = (size - head) // LANES
    end = head + groups * LANES
    if head:
        add_some_of_two(one, other, start, 0, head, lanes, both, others)
    add_pairs_of_groups(one, other, head, groups, lanes, both, others)
    if end < size:
        add_some_of_two(one, other, start, end, size, lanes, both, others)


@kernel
def add_all_products(vectors: Any, lowest: int, start: int, size: int, lanes: Any) -> None:
    """The same of all pairs of vectors from number `lowest` on; (n, size) and (p, 16).

    Pairs go (0,0), (0,1), …, (1,1), …
    """
    count, pair = vectors.shape[0], 0
    if count - lowest == 2:
        one, other = vectors[lowest], vectors[lowest + 1]
        add_products_of_two(one, other, start, size, lanes[0], lanes[1], lanes[2])
        return
    for one in range(lowest, count):
        for other in range(one, count):
            add_products(vectors[one], vectors[other], start, size, lanes[pair])
            pair += 1


@kernel
def add_values(values: Any, start: int, size: int, lanes: Any) -> None:
    """Add `size` float64 from element `start` of a block to 16 lanes."""
    head = before_groups(start, size)
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
        add_all_products(vectors, lowest, place, size, lanes)
        start += size
        if (first + start) % GRAIN == 0:
            for pair in range(lanes.shape[0]):
                sums[ended, pair] = folded(lanes[pair])
            ended += 1
    return ended
