"""How far models differ at each element, and their weighted sum where they agree on the sign: sce.

Source: arXiv:2408.07990, section 3.2; METHODS.md, section 3.
"""

from typing import Any

import numpy as np

from sdmw.kernels.bins import BINS
from sdmw.kernels.jit import bits_of, float_of, kernel
from sdmw.kernels.squares import add_squares
from sdmw.kernels.tiles import BLOCK, ZERO_BINS, decode, encode, list_near, scatter, unpack
from sdmw.kernels.voting import deltas_of, kept_if

_LEAST = np.float32(1e-6)  # of the weights that agree; a smaller sum counts as this one


@kernel
def all_deltas(addresses: Any, codes: Any, start: int, size: int, base: Any, deltas: Any) -> None:
    """(n+1),(n+1),(),(),(s),(n,s): base and deltas of `size` elements from `start`, float32."""
    decode(addresses[0], codes[0], start, size, base)
    for model in range(addresses.size - 1):
        deltas_of(addresses[model + 1], codes[model + 1], start, size, base, deltas[model])


@kernel
def variance_of(deltas: Any, size: int, scratch: Any, out: Any) -> None:
    """(n,s),(),(2,s),(s): the population variance over n deltas: their mean, then that of squared differences.

    In float64, which `scratch` is, rounded once to float32: in float32 the mean of three equal numbers may be another,
    and what all models have alike would have a variance. NaN where a delta is NaN or infinite.
    """
    models, count = deltas.shape[0], np.float64(deltas.shape[0])
    mean, total = scratch[0], scratch[1]
    # Of a power of 2 a product with 1 / count is the quotient, to the bit and sooner.
    exact, part = models & (models - 1) == 0, 1.0 / count
    for model in range(models):
        delta = deltas[model]
        for i in range(size):
            mean[i] = np.float64(delta[i]) if model == 0 else mean[i] + np.float64(delta[i])
    for i in range(size if exact else 0):
        mean[i] = mean[i] * part
    for i in range(0 if exact else size):
        mean[i] = mean[i] / count
    for model in range(models):
        delta = deltas[model]
        for i in range(size):
            apart = np.float64(delta[i]) - mean[i]
            square = apart * apart
            total[i] = square if model == 0 else total[i] + square
    for i in range(size if exact else 0):
        out[i] = np.float32(total[i] * part)
    for i in range(0 if exact else size):
        out[i] = np.float32(total[i] / count)


@kernel
def variance_bits(
    addresses: Any, codes: Any, start: int, size: int, base: Any, deltas: Any, scratch: Any, out: Any, bits: Any
) -> None:
    """The patterns of the variance of `size` elements; zeros become patterns of the bins for zeros."""
    all_deltas(addresses, codes, start, size, base, deltas)
    variance_of(deltas, size, scratch, out)
    for i in range(size):
        pattern = bits_of(out[i]) & np.uint32(0x7FFFFFFF)
        zero = np.uint32(BINS << 16) | ((np.uint32(i) & np.uint32(ZERO_BINS - 1)) << np.uint32(16))
        bits[i] = zero if pattern == np.uint32(0) else pattern


@kernel
def count_variances(addresses: Any, codes: Any, count: int, packed: Any, counts: Any, low_sums: Any) -> None:
    """(n+1),(n+1),(),(PACKED),(BINS),(BINS): count nonzero variances, as `tiles.count_magnitudes` does magnitudes."""
    base, deltas = np.empty(BLOCK, np.float32), np.empty((addresses.size - 1, BLOCK), np.float32)
    scratch, out, bits = np.empty((2, BLOCK), np.float64), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.uint32)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        variance_bits(addresses, codes, start, size, base, deltas, scratch, out, bits)
        scatter(bits, size, packed)
    unpack(packed, counts, low_sums)


@kernel
def count_low_variances(addresses: Any, codes: Any, count: int, place: int, counts: Any) -> None:
    """(n+1),(n+1),(),(),(LOW): how often each nonzero low half occurs in one bin of variances, int64."""
    base, deltas = np.empty(BLOCK, np.float32), np.empty((addresses.size - 1, BLOCK), np.float32)
    scratch, out, bits = np.empty((2, BLOCK), np.float64), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.uint32)
    hits, listed = np.empty(BLOCK, np.uint8), np.empty(BLOCK, np.uint32)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        variance_bits(addresses, codes, start, size, base, deltas, scratch, out, bits)
        for i in range(list_near(bits, size, place, place + 1, hits, listed, 0)):
            counts[listed[i] & np.uint32(0xFFFF)] += 1


@kernel
def keep_varied(deltas: Any, size: int, first: int, cut: Any, cut_at: int, scratch: Any, out: Any) -> None:
    """Put zeros where the variance is below a cut, or equal to it and the element is behind the cut's; NaN is kept."""
    variance_of(deltas, size, scratch, out)
    behind = min(max(cut_at - first, -1), size - 1) + 1  # from here on equal ones are not kept
    for model in range(deltas.shape[0]):
        delta = deltas[model]
        for i in range(behind):
            delta[i] = kept_if(not out[i] < cut, delta[i])
        rest, order = delta[behind:], out[behind:]  # places from 0 on, which need not be checked for being negative
        for i in range(size - behind):
            rest[i] = kept_if(not order[i] <= cut, rest[i])


@kernel
def sum_squares(
    addresses: Any, codes: Any, count: int, first: int, keep_all: bool, pattern: Any, place: int, sums: Any
) -> None:
    """(n+1),(n+1),(),(),(),(),(),(n,EXPONENTS,2): squares of the mantissas of kept deltas, by exponent, int64.

    Of each square the upper and the lower 24 bits are added. The cut is a pattern, uint32, and an element; with
    `keep_all` there is none. NaN and infinity go to the last exponent.
    """
    base, deltas = np.empty(BLOCK, np.float32), np.empty((addresses.size - 1, BLOCK), np.float32)
    scratch, out = np.empty((2, BLOCK), np.float64), np.empty(BLOCK, np.float32)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        all_deltas(addresses, codes, start, size, base, deltas)
        if not keep_all:
            keep_varied(deltas, size, first + start, float_of(pattern), place, scratch, out)
        for model in range(addresses.size - 1):
            add_squares(deltas[model], size, scratch, sums[model])


@kernel
def merge_agreeing(
    addresses: Any, codes: Any, count: int, first: int, keep_all: bool, pattern: Any, place: int, weights: Any,
    out_address: int, out_code: int,
) -> bool:  # fmt: skip
    """(n+1),(n+1),(),(),(),(),(),(n): base + the weighted mean of the kept deltas that have the sign of their sum.

    The cut is as for `sum_squares`. All numbers are float32. Zero has no sign; a sum of zero counts as positive. NaN
    and infinity pass on. Returns whether a result is NaN or infinite.
    """
    models, zero, one = addresses.size - 1, np.float32(0.0), np.float32(1.0)
    base, deltas = np.empty(BLOCK, np.float32), np.empty((models, BLOCK), np.float32)
    total, share, sign = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    scratch, bad = np.empty((2, BLOCK), np.float64), False
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        all_deltas(addresses, codes, start, size, base, deltas)
        if not keep_all:
            keep_varied(deltas, size, first + start, float_of(pattern), place, scratch, share)
        for model in range(models):
            delta = deltas[model]
            for i in range(size):
                total[i] = delta[i] if model == 0 else total[i] + delta[i]
        for i in range(size):
            sign[i] = one if total[i] >= zero else -one
            total[i] = zero if total[i] == total[i] else total[i]
            share[i] = zero
        for model in range(models):
            delta, weight = deltas[model], weights[model]
            for i in range(size):
                agrees = delta[i] * sign[i] > zero
                total[i] = total[i] + (delta[i] * weight if agrees else zero)
                share[i] = share[i] + (weight if agrees else zero)
        for i in range(size):
            total[i] = base[i] + total[i] / (_LEAST if share[i] < _LEAST else share[i])
        bad |= encode(total, size, out_code, out_address, start)
    return bad
