"""Exact sums of squares of deltas, as integers by exponent. Source: METHOD.md, "W_i", norm 2."""

from typing import Any

import numpy as np

from sdmw.kernels.chance import EXPONENTS, NEAR, exponents_of, total_of
from sdmw.kernels.elementary import power_of_2
from sdmw.kernels.jit import bits_of, kernel
from sdmw.kernels.tiles import BLOCK, decode
from sdmw.kernels.voting import deltas_of, kept_if


@kernel
def scatter_squares(delta: Any, size: int, sums: Any) -> None:
    """(s),(),(EXPONENTS,2): add squares of mantissas by exponent, int64: their upper and their lower 24 bits.

    NaN and infinity go to the last exponent.
    """
    for i in range(size):
        bits = bits_of(delta[i]) & np.uint32(0x7FFFFFFF)
        exponent = bits >> np.uint32(23)
        hidden = np.uint32(0) if exponent == np.uint32(0) else np.uint32(1 << 23)
        mantissa = np.uint64((bits & np.uint32(0x7FFFFF)) | hidden)
        square = mantissa * mantissa
        sums[exponent, 0] += np.int64(square >> np.uint64(24))
        sums[exponent, 1] += np.int64(square & np.uint64(0xFFFFFF))


@kernel
def add_squares(delta: Any, size: int, scratch: Any, sums: Any) -> None:
    """(s),(),(2,s),(EXPONENTS,2): as `scatter_squares`; `scratch` is float64.

    Or what gives the same total, where the exponents of a block are near each other. With u the square of the least
    one's last place, each square, below 2**86 u, is an integer times 2**44 u and a rest of at most 2**43 u of either
    sign. The sums of both over a block are at most 2**53 of these: exact in float64.
    """
    lowest, highest = exponents_of(delta, size)
    if highest - lowest > NEAR or lowest + 22 >= EXPONENTS - 1 or highest == EXPONENTS - 1:
        scatter_squares(delta, size, sums)
        return
    unit = 2 * (lowest - 150)
    upper, lower, rounder = scratch[0], scratch[1], 1.5 * power_of_2(unit + 44 + 52)
    for i in range(size):
        square = np.float64(delta[i]) * np.float64(delta[i])
        upper[i] = (square + rounder) - rounder
        lower[i] = square - upper[i]
    low = np.int64(total_of(lower, size) * power_of_2(-unit))
    high = np.int64(total_of(upper, size) * power_of_2(-unit - 44))
    sums[lowest, 0] += low >> 24
    sums[lowest, 1] += low & 0xFFFFFF
    sums[lowest + 22, 0] += high >> 24
    sums[lowest + 22, 1] += high & 0xFFFFFF


@kernel
def sum_squares_from(addresses: Any, codes: Any, count: int, thresholds: Any, sums: Any) -> None:
    """(n+1),(n+1),(),(n),(n,EXPONENTS,2): squares of the mantissas of deltas that reach a threshold, as `add_squares`.

    `thresholds` are float32, one for each model. NaN and infinity reach each, and go to the last exponent.
    """
    base, delta, scratch = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty((2, BLOCK), np.float64)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        decode(addresses[0], codes[0], start, size, base)
        for model in range(addresses.size - 1):
            if addresses[model + 1] == addresses[0] and codes[model + 1] == codes[0]:
                continue  # the base itself: what an adapter leaves as it is
            deltas_of(addresses[model + 1], codes[model + 1], start, size, base, delta)
            threshold = thresholds[model]
            for i in range(size):
                delta[i] = kept_if(not abs(delta[i]) < threshold, delta[i])
            add_squares(delta, size, scratch, sums[model])
