"""Deltas of one long row kept by chance, the larger the likelier, by the ranges that their magnitudes lie in.

A range is of patterns: from its start up to the next one's. What each model has of them stands behind what the models
before it have, up to `ends`. Source: METHODS.md, sections 3 and 5.
"""

from typing import Any

import numpy as np

from sdmw.kernels.chance import merge_by, sums_by, words
from sdmw.kernels.jit import bits_of, kernel
from sdmw.kernels.tiles import BLOCK, decode
from sdmw.kernels.voting import deltas_of, kept_if


@kernel
def range_of(delta: Any, starts: Any) -> int:
    """The number of the last range that begins at the magnitude's pattern or before; the first where none does."""
    pattern = bits_of(delta) & np.uint32(0x7FFFFFFF)
    at, left = 0, starts.size
    while left > 1:  # without a branch: which half it is cannot be foreseen
        half = left // 2
        at = at + half if starts[at + half] <= pattern else at
        left -= half
    return at


@kernel
def count_ranges(
    addresses: Any, codes: Any, count: int, starts: Any, ends: Any, counts: Any, lowest: Any, highest: Any
) -> None:
    """(n+1),(n+1),(),(r),(n+1),(r),(r),(r): magnitudes in each range, int64, and the least and the largest pattern.

    Patterns are uint32.
    """
    base, delta = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        decode(addresses[0], codes[0], start, size, base)
        for model in range(addresses.size - 1):
            deltas_of(addresses[model + 1], codes[model + 1], start, size, base, delta)
            own = starts[ends[model] : ends[model + 1]]
            for i in range(size):
                pattern = bits_of(delta[i]) & np.uint32(0x7FFFFFFF)
                at = ends[model] + range_of(delta[i], own)
                counts[at] += 1
                lowest[at] = min(lowest[at], pattern)
                highest[at] = max(highest[at], pattern)


@kernel
def list_open(
    addresses: Any, codes: Any, count: int, first: int, keys: Any, starts: Any, ends: Any, lower: Any, upper: Any,
    listed: Any, sizes: Any,
) -> None:  # fmt: skip
    """(n+1),(n+1),(),(),(n),(r),(n+1),(r),(r),(n,l),(n): list patterns of which words lie between their range's bounds.

    From the lower one up to the upper, uint32. What there is no room for in `listed` is counted in `sizes`, int64, and
    not kept. NaN is kept whatever its word is.
    """
    base, delta, drawn = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.uint32)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        decode(addresses[0], codes[0], start, size, base)
        for model in range(addresses.size - 1):
            deltas_of(addresses[model + 1], codes[model + 1], start, size, base, delta)
            words(keys[model], first + start, size, drawn)
            own = starts[ends[model] : ends[model + 1]]
            for i in range(size):
                at = ends[model] + range_of(delta[i], own)
                if lower[at] <= drawn[i] < upper[at] and delta[i] == delta[i]:
                    if sizes[model] < listed.shape[1]:
                        listed[model, sizes[model]] = bits_of(delta[i]) & np.uint32(0x7FFFFFFF)
                    sizes[model] += 1


@kernel
def keep_by_step(
    delta: Any, size: int, first: int, key: Any, drawn: Any, model: int, starts: Any, ends: Any, bounds: Any
) -> None:  # fmt: skip
    """Put zero where the element's word is not below its range's bound, uint32; NaN is kept. Without ranges all is."""
    begin, end = ends[model], ends[model + 1]
    if begin == end:
        return
    words(key, first, size, drawn)
    own, below = starts[begin:end], bounds[begin:end]
    for i in range(size):
        kept = (drawn[i] < below[range_of(delta[i], own)]) | (delta[i] != delta[i])
        delta[i] = kept_if(kept, delta[i])


_sum_by_step, _merge_by_step = sums_by(keep_by_step), merge_by(keep_by_step)


@kernel
def sum_kept_by_step(
    addresses: Any, codes: Any, count: int, first: int, keys: Any, starts: Any, ends: Any, bounds: Any, sums: Any
) -> None:
    """(n+1),(n+1),(),(),(n),(r),(n+1),(r),(n,2,EXPONENTS): mantissas of all deltas and of those kept, by exponent.

    Of words below the bound of their range. Sums are int64.
    """
    _sum_by_step(addresses, codes, count, first, keys, sums, starts, ends, bounds)


@kernel
def merge_by_step(
    addresses: Any, codes: Any, count: int, first: int, keys: Any, starts: Any, ends: Any, bounds: Any, factors: Any,
    weights: Any, vote: bool, normalize: bool, scale: Any, out_address: int, out_code: int,
) -> bool:  # fmt: skip
    """(n+1),(n+1),(),(),(n),(r),(n+1),(r),(n),(n),(),(),(): base + scale * the sum of weighted kept deltas.

    As `merge_by_chance`, of words below the bound of their range.
    """
    return bool(
        _merge_by_step(
            addresses, codes, count, first, keys, factors, weights, vote, normalize, scale, out_address, out_code,
            starts, ends, bounds,
        )
    )  # fmt: skip
