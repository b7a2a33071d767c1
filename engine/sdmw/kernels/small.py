"""A tensor of a few thousand elements decided by its ranks, without bins. Source: METHOD.md, "P, exact", and step 3."""

import math
from typing import Any

import numpy as np

from sdmw.kernels.bins import FIRST_NONFINITE_BIN, SMALL
from sdmw.kernels.bracket import sort_out_of
from sdmw.kernels.jit import bits_of, float_of, kernel
from sdmw.kernels.tiles import decode

EXPONENTS = 256  # of float32


@kernel
def select(values: Any, count: int, place: int) -> Any:
    """(m),(),()->(): what stands at a place once the first `count` are sorted; what lies behind is not less then."""
    low, high = 0, count - 1
    while low < high:
        one, two, three = values[low], values[(low + high) // 2], values[high]
        pivot = max(min(one, two), min(max(one, two), three))
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            break
    return values[place]


@kernel
def decide(patterns: Any, count: int, k: float, numbers: Any, sums: Any) -> float:
    """Cut the patterns of |delta| that are finite and not zero at their k-th percentile.

    Args:
        patterns: uint32, in any order, `count` of them; afterwards in another.
        count: how many there are.
        k: percentile.
        numbers: int64, (6): how many are not zero and finite, how many are not finite, the pattern that is reached by
            what is kept, how many are kept, the least exponent field of these, and the one behind the greatest.
        sums: int64, (EXPONENTS): the sum of the kept ones' significands by their exponent field.

    Returns:
        P; NaN where none is left.
    """
    beyond = np.uint32(FIRST_NONFINITE_BIN << 16)
    zeros, finite = np.uint32(0), np.uint32(0)
    for i in range(count):
        zeros = np.uint32(zeros + np.uint32(patterns[i] == np.uint32(0)))
        finite = np.uint32(finite + np.uint32(patterns[i] < beyond))
    found = np.int64(finite) - np.int64(zeros)
    numbers[:] = 0
    numbers[0], numbers[1], numbers[2] = found, count - np.int64(finite), np.int64(beyond)
    sums[:] = 0
    if found == 0:
        return np.nan
    rank = (found - 1) * (k / 100)
    lower = np.int64(math.floor(rank))
    share = rank - lower
    place = np.int64(zeros) + lower
    first = select(patterns, count, int(place))
    second = first
    if lower + 1 < found:
        second = beyond
        for i in range(place + 1, count):
            second = min(second, patterns[i])
    one, two = np.float64(float_of(first)), np.float64(float_of(second))
    # As `numpy.percentile` has it: two ways of writing it, by the half.
    value = one + (two - one) * share if share < 0.5 else two - (two - one) * (1 - share)
    nearest = np.float32(value)
    pattern = np.int64(bits_of(nearest))
    if np.float64(nearest) < value:
        pattern += 1
    kept, least, most = 0, np.int64(EXPONENTS), np.int64(-1)
    for i in range(count):
        if np.uint32(pattern) <= patterns[i] < beyond:
            exponent = np.int64(patterns[i] >> np.uint32(23))
            significand = np.int64(patterns[i] & np.uint32(0x7FFFFF))
            sums[exponent] += significand + (np.int64(1 << 23) if exponent else 0)
            kept, least, most = kept + 1, min(least, exponent), max(most, exponent)
    numbers[2], numbers[3], numbers[4], numbers[5] = pattern, kept, least, most + 1
    return value


@kernel
def decide_all(patterns: Any, count: int, k: Any, cuts: Any, numbers: Any, sums: Any) -> None:
    """(n,m),(),(n),(n),(n,6),(n,EXPONENTS): `decide` for each model; `cuts` takes each P."""
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
