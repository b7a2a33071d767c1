"""Deltas kept by chance: a bit of each depends on a key and the element's number alone.

Source: Salmon et al., SC 2011 (Philox-4x32-10); METHODS.md, section 5.
"""

from typing import Any

import numpy as np

from sdmw.kernels.blocks import LANES
from sdmw.kernels.dots import folded
from sdmw.kernels.elementary import power_of_2
from sdmw.kernels.jit import bits_of, kernel, part
from sdmw.kernels.lanes import add_groups
from sdmw.kernels.tiles import BLOCK, decode, encode
from sdmw.kernels.voting import combine, deltas_of, kept_if

EXPONENTS = 256  # of float32
NEAR = 19  # exponents: with 24 bits of a mantissa, and 10 for the sum of BLOCK numbers, as many as float64 has
_ROUNDS = 10
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MANTISSA, _MAGNITUDE = np.uint32(0x7FFFFF), np.uint32(0x7FFFFFFF)


@kernel
def groups(key: Any, begin: int, number: int, out: Any) -> None:
    """(),(),(),(4,g): the four random words of each of `number` counters from `begin`, uint32; `key` is uint64."""
    for k in range(number):
        counter = np.uint64(begin) + np.uint64(k)
        a, b, c, d = counter & _LOW, counter >> _HALF, np.uint64(0), np.uint64(0)
        low, high = key & _LOW, key >> _HALF
        for _ in range(_ROUNDS):
            one, other = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
            a, b, c, d = (other >> _HALF) ^ b ^ low, other & _LOW, (one >> _HALF) ^ d ^ high, one & _LOW
            low, high = (low + _WEYL[0]) & _LOW, (high + _WEYL[1]) & _LOW
        out[0, k], out[1, k], out[2, k], out[3, k] = np.uint32(a), np.uint32(b), np.uint32(c), np.uint32(d)


@kernel
def words(key: Any, first: int, size: int, out: Any) -> None:
    """The random 32-bit words of `size` elements from `first`, in `out`, uint32; `key` is uint64."""
    begin, before = first // 4, first % 4
    number = (before + size + 3) // 4
    drawn = np.empty((4, number), np.uint32)  # by place in the group: so that counters, side by side, fill vectors
    groups(key, begin, number, drawn)
    if before:
        for i in range(size):
            out[i] = drawn[(before + i) % 4, (before + i) // 4]
        return
    for k in range(size // 4):
        for j in range(4):
            out[4 * k + j] = drawn[j, k]
    for i in range(size // 4 * 4, size):
        out[i] = drawn[i % 4, i // 4]


@kernel
def scatter_magnitudes(delta: Any, size: int, sums: Any) -> None:
    """(s),(),(EXPONENTS): add mantissas of finite float32 to int64 sums by exponent; others go to the last one."""
    for i in range(size):
        bits = bits_of(delta[i]) & _MAGNITUDE
        exponent = bits >> np.uint32(23)
        hidden = np.uint32(0) if exponent == np.uint32(0) else np.uint32(1 << 23)
        sums[exponent] += np.int64((bits & _MANTISSA) | hidden)


@kernel
def exponents_of(delta: Any, size: int) -> Any:
    """The least exponent of `size` float32 that are not zero, and the largest; subnormal numbers have 1."""
    least, most = np.uint32(0xFFFFFFFF), np.uint32(0)
    for i in range(size):
        bits = bits_of(delta[i]) & _MAGNITUDE
        least = min(least, np.uint32(bits - np.uint32(1)))  # zero is none
        most = max(most, bits)
    lowest, highest = np.int64(np.uint32(least + np.uint32(1)) >> np.uint32(23)), np.int64(most >> np.uint32(23))
    return max(lowest, np.int64(1)), highest


@kernel
def total_of(values: Any, size: int) -> float:
    """The sum of at most BLOCK float64 which is exact, so that their order does not matter; those behind are zeroed."""
    lanes = np.zeros(LANES)
    values[size:] = 0.0
    add_groups(values, 0, values.size // LANES, lanes)
    return folded(lanes)


@kernel
def add_magnitudes(delta: Any, size: int, wide: Any, sums: Any) -> None:
    """(s),(),(s),(EXPONENTS): as `scatter_magnitudes`; `wide` is float64 scratch.

    Or what gives the same total, where the exponents of a block are so near that its float64 sum is exact: multiples of
    the least exponent's last place, the upper bits of their number as mantissas of a larger exponent.
    """
    lowest, highest = exponents_of(delta, size)
    if highest - lowest > NEAR or lowest + 24 >= EXPONENTS - 1 or highest == EXPONENTS - 1:
        scatter_magnitudes(delta, size, sums)
        return
    for i in range(size):
        wide[i] = np.float64(abs(delta[i]))
    number = np.int64(total_of(wide, size) * power_of_2(150 - lowest))
    sums[lowest] += number & 0xFFFFFF
    sums[lowest + 24] += number >> 24


def sums_by(keep: Any) -> Any:
    """Adds up the mantissas of all deltas, and of those that are kept, by exponent, in (n,2,EXPONENTS) int64 sums.

    `keep(delta, size, first, key, drawn, model, *others)` puts zero in the place of the others.
    """

    @part
    def add(addresses: Any, codes: Any, count: int, first: int, keys: Any, sums: Any, *others: Any) -> None:
        base, delta, drawn = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.uint32)
        wide = np.empty(BLOCK, np.float64)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            decode(addresses[0], codes[0], start, size, base)
            for model in range(addresses.size - 1):
                deltas_of(addresses[model + 1], codes[model + 1], start, size, base, delta)
                add_magnitudes(delta, size, wide, sums[model, 0])
                keep(delta, size, first + start, keys[model], drawn, model, *others)
                add_magnitudes(delta, size, wide, sums[model, 1])

    return add


def merge_by(keep: Any) -> Any:
    """Merges what `keep`, as of `sums_by`, leaves of each model's deltas, multiplied by the model's factor."""

    @part
    def merge(
        addresses: Any, codes: Any, count: int, first: int, keys: Any, factors: Any, weights: Any, vote: bool,
        normalize: bool, scale: Any, out_address: int, out_code: int, *others: Any,
    ) -> bool:  # fmt: skip
        models = addresses.size - 1
        base, deltas = np.empty(BLOCK, np.float32), np.empty((models, BLOCK), np.float32)
        total, share = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
        drawn = np.empty(BLOCK, np.uint32)
        bad = False
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            decode(addresses[0], codes[0], start, size, base)
            for model in range(models):
                delta, factor = deltas[model], factors[model]
                deltas_of(addresses[model + 1], codes[model + 1], start, size, base, delta)
                keep(delta, size, first + start, keys[model], drawn, model, *others)
                for i in range(size):
                    delta[i] = delta[i] * factor
            combine(deltas, weights, size, vote, normalize, scale, base, total, share)
            bad |= encode(total, size, out_code, out_address, start)
        return bad

    return merge


@kernel
def keep_share(delta: Any, size: int, first: int, key: Any, drawn: Any, model: int, below: Any) -> None:
    """Put zero where the element's word is not below the model's bound, uint64; NaN is kept."""
    words(key, first, size, drawn)
    bound = below[model]
    for i in range(size):
        kept = (np.uint64(drawn[i]) < bound) | (delta[i] != delta[i])
        delta[i] = kept_if(kept, delta[i])


_sum_shares, _merge_shares = sums_by(keep_share), merge_by(keep_share)


@kernel
def sum_kept(addresses: Any, codes: Any, count: int, first: int, keys: Any, below: Any, sums: Any) -> None:
    """(n+1),(n+1),(),(),(n),(n),(n,2,EXPONENTS): mantissas of all deltas and of those kept, by exponent, int64."""
    _sum_shares(addresses, codes, count, first, keys, sums, below)


@kernel
def merge_by_chance(
    addresses: Any, codes: Any, count: int, first: int, keys: Any, below: Any, factors: Any, weights: Any, vote: bool,
    normalize: bool, scale: Any, out_address: int, out_code: int,
) -> bool:  # fmt: skip
    """(n+1),(n+1),(),(),(n),(n),(n),(n),(),(),(): base + scale * the sum of weighted deltas kept by chance.

    `keys` and `below` are uint64: each model's key, and the bound of its words. What is kept is multiplied by the
    model's factor; the rest is `combine`'s. NaN and infinity pass on. Returns whether a result is NaN or infinite.
    """
    return bool(
        _merge_shares(
            addresses, codes, count, first, keys, factors, weights, vote, normalize, scale, out_address, out_code, below
        )
    )
