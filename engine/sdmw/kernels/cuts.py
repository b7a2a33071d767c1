"""Deltas by rank: an order of all elements of a tensor, by magnitude and, among equals, by place; and cuts of it.

The largest magnitude comes first; of equal ones the lowest element. A cut is a float32 pattern and an element: before
it come the deltas whose magnitude is above the pattern, and those equal to it up to the element.
"""

from typing import Any

import numpy as np

from sdmw.kernels.consensus import all_deltas, variance_of
from sdmw.kernels.jit import bits_of, float_of, kernel, widened
from sdmw.kernels.tiles import BLOCK, by_dtype, decode, encode
from sdmw.kernels.voting import combine, deltas_of


@kernel
def ranked_by(
    addresses: Any, codes: Any, model: int, start: int, size: int, base: Any, deltas: Any, scratch: Any, out: Any
) -> None:  # fmt: skip
    """What orders `size` elements from `start`: a model's magnitudes; of model −1 the variance over all models."""
    if model < 0:
        all_deltas(addresses, codes, start, size, base, deltas)
        variance_of(deltas, size, scratch, out)
        return
    decode(addresses[0], codes[0], start, size, base)
    deltas_of(addresses[model + 1], codes[model + 1], start, size, base, out)
    for i in range(size):
        out[i] = abs(out[i])


@kernel
def add_equal(words: Any, base: Any, size: int, wanted: Any, counts: Any) -> None:
    """Add to the first count how many of |model - base| equal a float32; zero where bits are equal."""
    found = np.uint32(0)
    for i in range(size):
        value = widened(words[i])
        magnitude = np.float32(0.0) if bits_of(value) == bits_of(base[i]) else abs(value - base[i])
        found = np.uint32(found + np.uint32(magnitude == wanted))
    counts[0] += np.int64(found)


add_equal_of = by_dtype(add_equal)


@kernel
def count_equal(
    addresses: Any, codes: Any, count: int, first: int, models: Any, patterns: Any, block: int, counts: Any
) -> None:
    """(n+1),(n+1),(),(),(c),(c),(),(c,b): per cut and block of elements, how many magnitudes equal the cut's pattern.

    `models` has the number of each cut's model, int64, or −1; patterns are uint32, counts int64.
    """
    base, deltas = np.zeros((2, BLOCK), np.float32), np.empty((addresses.size - 1, BLOCK), np.float32)
    scratch, ranked = np.empty((2, BLOCK), np.float64), np.empty(BLOCK, np.float32)
    start = 0
    while start < count:
        place = first + start
        size = min(BLOCK, count - start, block - place % block)
        decode(addresses[0], codes[0], start, size, base[0])
        for cut in range(models.size):
            model, wanted, own = models[cut], float_of(patterns[cut]), counts[cut, place // block :]
            if model < 0:
                ranked_by(addresses, codes, model, start, size, base[0], deltas, scratch, ranked)
                add_equal(ranked.view(np.uint32), base[1], size, wanted, own)
            else:
                add_equal_of(addresses[model + 1], codes[model + 1], start, size, base, ranked, wanted, own)
        start += size


@kernel
def find_equal(addresses: Any, codes: Any, count: int, first: int, model: int, pattern: Any, found: Any) -> None:
    """(n+1),(n+1),(),(),(),(),(2): find the element of a model's so many-th magnitude that equals a pattern.

    `found` is int64: the element, put there where it is met, and how many have to be met still. The model is given by
    its number, the pattern as uint32. Of model -1 it is the variance.
    """
    base, deltas = np.empty(BLOCK, np.float32), np.empty((addresses.size - 1, BLOCK), np.float32)
    scratch, ranked = np.empty((2, BLOCK), np.float64), np.empty(BLOCK, np.float32)
    wanted = float_of(pattern)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        ranked_by(addresses, codes, model, start, size, base, deltas, scratch, ranked)
        for i in range(size):
            if ranked[i] == wanted:
                found[1] -= 1
                if found[1] == 0:
                    found[0] = first + start + i
                    return


@kernel
def drop_outside(delta: Any, size: int, high: Any, low: Any, factor: Any) -> None:
    """Put zero where a magnitude is above `high` or below `low`; multiply the others by a factor. NaN is kept."""
    for i in range(size):
        magnitude = abs(delta[i])
        delta[i] = np.float32(0.0) if (magnitude > high) | (magnitude < low) else delta[i] * factor


@kernel
def keep_between(
    delta: Any, size: int, first: int, high: Any, high_at: int, low: Any, low_at: int, factor: Any
) -> None:
    """Put zero where a delta is before the upper cut, or behind the lower one; multiply the others by a factor.

    A cut's pattern is uint32. NaN is kept.
    """
    start = 0
    while start < size:
        # Up to the next element of a cut nothing changes: equals of the upper cut are dropped or not, and of the lower.
        stop = size
        equals_above, equals_below = first + start <= high_at, first + start > low_at
        if equals_above:
            stop = min(stop, min(high_at - first, size) + 1)
        if not equals_below:
            stop = min(stop, min(low_at - first, size) + 1)
        above = float_of(high)
        if equals_above:
            above = float_of(np.uint32(high - np.uint32(1))) if high else np.float32(-1.0)
        below = float_of(low)
        if equals_below and below < np.inf:
            below = float_of(np.uint32(low + np.uint32(1)))
        elif equals_below:
            above = np.float32(-1.0)  # nothing is above infinity: all are dropped
        drop_outside(delta[start:], stop - start, above, below, factor)
        start = stop


@kernel
def merge_kept(
    addresses: Any, codes: Any, count: int, first: int, patterns: Any, places: Any, factors: Any, weights: Any,
    vote: bool, normalize: bool, scale: Any, out_address: int, out_code: int,
) -> bool:  # fmt: skip
    """(n+1),(n+1),(),(),(n,2),(n,2),(n),(n),(),(),(): base + scale * the sum of weighted kept deltas.

    METHODS.md, section 3, steps 1 to 7. `patterns` are uint32 and `places` int64: the upper and the lower cut of each
    model. The rest is `combine`'s. NaN and infinity pass on. Returns whether a result is NaN or infinite.
    """
    models = addresses.size - 1
    base, deltas = np.empty(BLOCK, np.float32), np.empty((models, BLOCK), np.float32)
    total, share = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    bad = False
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        decode(addresses[0], codes[0], start, size, base)
        for model in range(models):
            deltas_of(addresses[model + 1], codes[model + 1], start, size, base, deltas[model])
            keep_between(
                deltas[model], size, first + start, patterns[model, 0], places[model, 0], patterns[model, 1],
                places[model, 1], factors[model],
            )  # fmt: skip
        combine(deltas, weights, size, vote, normalize, scale, base, total, share)
        bad |= encode(total, size, out_code, out_address, start)
    return bad
