"""A tensor of a few thousand elements decided by sorting, without bins. Source: METHOD.md, "P, exact", and step 3."""

import math
from typing import Any

import numpy as np

from sdmw.kernels.bins import FIRST_NONFINITE_BIN, SMALL
from sdmw.kernels.bracket import sort_out_of
from sdmw.kernels.jit import bits_of, float_of, kernel
from sdmw.kernels.tiles import decode

EXPONENTS = 256  # of float32


@kernel
def decide(patterns: Any, count: int, k: float, numbers: Any, sums: Any) -> float:
    """Sort the patterns of |delta|, and cut those that are finite and not zero at their k-th percentile.

    Args:
        patterns: uint32, in any order; afterwards the first `count` are sorted.
        count: how many there are.
        k: percentile.
        numbers: int64, (4): how many are not zero and finite, how many are not finite, the pattern that is reached by
            what is kept, how many are kept.
        sums: int64, (EXPONENTS): the sum of the kept ones' significands by their exponent field.

    Returns:
        P; NaN where none is left.
    """
    ranked = patterns[:count]
    ranked.sort()
    first = np.int64(np.searchsorted(ranked, np.uint32(1)))
    last = np.int64(np.searchsorted(ranked, np.uint32(FIRST_NONFINITE_BIN << 16)))
    found = last - first
    numbers[0], numbers[1], numbers[2], numbers[3] = found, count - last, FIRST_NONFINITE_BIN << 16, 0
    sums[:] = 0
    if found == 0:
        return np.nan
    rank = (found - 1) * (k / 100)
    lower = np.int64(math.floor(rank))
    share = rank - lower
    one = np.float64(float_of(ranked[first + lower]))
    two = np.float64(float_of(ranked[first + min(lower + 1, found - 1)]))
    # As `numpy.percentile` has it: two ways of writing it, by the half.
    value = one + (two - one) * share if share < 0.5 else two - (two - one) * (1 - share)
    nearest = np.float32(value)
    pattern = np.int64(bits_of(nearest))
    if np.float64(nearest) < value:
        pattern += 1
    start = first + np.int64(np.searchsorted(ranked[first:last], np.uint32(pattern)))
    for i in range(start, last):
        exponent = np.int64(ranked[i] >> np.uint32(23))
        significand = np.int64(ranked[i] & np.uint32(0x7FFFFF))
        sums[exponent] += significand + (np.int64(1 << 23) if exponent else 0)
    numbers[2], numbers[3] = pattern, last - start
    return value


@kernel
def decide_all(patterns: Any, count: int, k: Any, cuts: Any, numbers: Any, sums: Any) -> None:
    """(n,m),(),(n),(n),(n,4),(n,EXPONENTS): `decide` for each model; `cuts` takes each P."""
    for model in range(k.size):
        cuts[model] = decide(patterns[model], count, k[model], numbers[model], sums[model])


@kernel
def put_patterns(addresses: Any, codes: Any, count: int, place: int, patterns: Any) -> None:
    """(n+1),(n+1),(),(),(n,m): the patterns of |model - base| of a tile, from a place of each model's row on."""
    base, scratch = np.zeros((2, SMALL), np.float32), np.empty(SMALL, np.float32)
    found = np.empty(2, np.int64)
    for start in range(0, count, SMALL):
        size = min(SMALL, count - start)
        decode(addresses[0], codes[0], start, size, base[0])
        for model in range(addresses.size - 1):
            sort_out_of(
                addresses[model + 1], codes[model + 1], start, size, base, scratch, np.uint32(1),
                patterns[model][place + start :], found,
            )  # fmt: skip
