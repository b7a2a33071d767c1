"""Deltas kept by chance, the larger of a row the likelier: della. Tiles hold whole rows.

Source: arXiv:2406.11617, section 3; METHODS.md, sections 3 and 5.
"""

from typing import Any

import numpy as np

from sdmw.kernels.chance import EXPONENTS, LANES, add_magnitudes, fold, words
from sdmw.kernels.jit import bits_of, kernel
from sdmw.kernels.tiles import BLOCK, decode, encode
from sdmw.kernels.voting import combine, deltas_of, kept_if

DIGITS = 256  # by which patterns are sorted, from the lowest of four


@kernel
def ascending(keys: Any, places: Any, size: int, counts: Any) -> int:
    """(2,r),(2,r),(),(4,DIGITS): sort `size` patterns in `keys[0]`; of equal ones the lowest place comes first.

    Keys and places are uint32; `counts` is int64 scratch. Returns in which of the two rows keys and their places stand.
    """
    low, eight = np.uint32(DIGITS - 1), np.uint32(8)
    counts[:] = 0
    for i in range(size):
        key = keys[0, i]
        places[0, i] = np.uint32(i)
        for digit in range(4):
            counts[digit, (key >> np.uint32(eight * np.uint32(digit))) & low] += 1
    side = 0
    for digit in range(4):
        row, shift = counts[digit], np.uint32(eight * np.uint32(digit))
        if row[(keys[side, 0] >> shift) & low] == size:
            continue  # deltas between bfloat16 models mostly have low bits of zero
        total = 0
        for value in range(DIGITS):
            count = row[value]
            row[value] = total
            total += count
        for i in range(size):
            key = keys[side, i]
            at = row[(key >> shift) & low]
            row[(key >> shift) & low] = at + 1
            keys[1 - side, at] = key
            places[1 - side, at] = places[side, i]
        side = 1 - side
    return side


@kernel
def bounds_by_rank(keys: Any, places: Any, size: int, density: float, epsilon: float, below: Any) -> None:
    """The bound of each place's word, uint32: floor(p * 2^32), p = (density - epsilon) + 2 * epsilon * r / (size - 1).

    `keys` rise, `places` belong to them. Equal keys share the mean of their ranks r. In a row of one p is the density.
    """
    begin = 0
    while begin < size:
        end = begin + 1
        while end < size and keys[end] == keys[begin]:
            end += 1
        rank = 0.5 * (begin + end - 1)
        share = density if size == 1 else (density - epsilon) + (2.0 * epsilon) * (rank / (size - 1))
        bound = np.uint32(np.uint64(share * 2.0**32))
        for i in range(begin, end):
            below[places[i]] = bound
        begin = end


@kernel
def bounds_in_row(
    addresses: Any, codes: Any, model: int, start: int, row: int, density: float, epsilon: float, base: Any, delta: Any,
    keys: Any, places: Any, counts: Any, below: Any,
) -> None:  # fmt: skip
    """The bounds of one model's words in the row that begins at an element of the tile. NaN ranks above infinity."""
    for at in range(0, row, BLOCK):
        size = min(BLOCK, row - at)
        decode(addresses[0], codes[0], start + at, size, base)
        deltas_of(addresses[model + 1], codes[model + 1], start + at, size, base, delta)
        for i in range(size):
            keys[0, at + i] = bits_of(delta[i]) & np.uint32(0x7FFFFFFF)
    side = ascending(keys, places, row, counts)
    bounds_by_rank(keys[side], places[side], row, density, epsilon, below)


@kernel
def keep_below(delta: Any, size: int, first: int, key: Any, below: Any, at: int, drawn: Any) -> None:
    """Put zero where the word of an element is not below its bound, `below[at]` and on; NaN is kept."""
    words(key, first, size, drawn)
    for i in range(size):
        kept = (drawn[i] < below[at + i]) | (delta[i] != delta[i])
        delta[i] = kept_if(kept, delta[i])


@kernel
def sum_kept_by_rank(
    addresses: Any, codes: Any, count: int, first: int, row: int, keys: Any, densities: Any, epsilons: Any, sums: Any
) -> None:
    """(n+1),(n+1),(),(),(),(n),(n),(n),(n,2,EXPONENTS): mantissas of all deltas and of those kept, by exponent, int64.

    `keys` are uint64, densities and epsilons float64, above 0 and below 1 where they count: a model of density 1 keeps
    all and one of density 0 nothing.
    """
    base, delta, drawn = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.uint32)
    patterns, places = np.empty((2, row), np.uint32), np.empty((2, row), np.uint32)
    below, counts = np.zeros(row, np.uint32), np.empty((4, DIGITS), np.int64)
    lanes = np.zeros((addresses.size - 1, 2, LANES, EXPONENTS), np.int64)
    for start in range(0, count, row):
        for model in range(addresses.size - 1):
            density = densities[model]
            if 0.0 < density < 1.0:
                bounds_in_row(
                    addresses, codes, model, start, row, density, epsilons[model], base, delta, patterns, places,
                    counts, below,
                )  # fmt: skip
            else:
                below[:] = np.uint32(0)
            for at in range(0, row, BLOCK):
                size = min(BLOCK, row - at)
                decode(addresses[0], codes[0], start + at, size, base)
                deltas_of(addresses[model + 1], codes[model + 1], start + at, size, base, delta)
                add_magnitudes(delta, size, lanes[model, 0])
                if density < 1.0:
                    keep_below(delta, size, first + start + at, keys[model], below, at, drawn)
                add_magnitudes(delta, size, lanes[model, 1])
    fold(lanes, sums)


@kernel
def merge_by_rank(
    addresses: Any, codes: Any, count: int, first: int, row: int, begin: int, end: int, keys: Any, densities: Any,
    epsilons: Any, factors: Any, weights: Any, vote: bool, normalize: bool, scale: Any, out_address: int, out_code: int,
) -> bool:  # fmt: skip
    """(n+1),(n+1),(),(),(),(),(),(n),(n),(n),(n),(n),(),(),(): base + scale * the sum of weighted kept deltas.

    Elements of the tile from `begin` to `end` are merged. Densities and epsilons as for `sum_kept_by_rank`. What is
    kept is multiplied by the model's factor; the rest is `combine`'s. NaN and infinity pass on. Returns whether a
    result is NaN or infinite.
    """
    models = addresses.size - 1
    base, deltas = np.empty(BLOCK, np.float32), np.empty((models, BLOCK), np.float32)
    total, share = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    drawn, counts = np.empty(BLOCK, np.uint32), np.empty((4, DIGITS), np.int64)
    patterns, places = np.empty((2, row), np.uint32), np.empty((2, row), np.uint32)
    below = np.zeros((models, row), np.uint32)
    bad = False
    for start in range(0, count, row):
        for model in range(models):
            if 0.0 < densities[model] < 1.0:
                bounds_in_row(
                    addresses, codes, model, start, row, densities[model], epsilons[model], base, deltas[model],
                    patterns, places, counts, below[model],
                )  # fmt: skip
        last = min(start + row, end)
        for at in range(max(start, begin), last, BLOCK):
            size = min(BLOCK, last - at)
            decode(addresses[0], codes[0], at, size, base)
            for model in range(models):
                delta, factor = deltas[model], factors[model]
                deltas_of(addresses[model + 1], codes[model + 1], at, size, base, delta)
                if densities[model] < 1.0:
                    keep_below(delta, size, first + at, keys[model], below[model], at - start, drawn)
                for i in range(size):
                    delta[i] = delta[i] * factor
            combine(deltas, weights, size, vote, normalize, scale, base, total, share)
            bad |= encode(total, size, out_code, out_address, at - begin)
    return bad
