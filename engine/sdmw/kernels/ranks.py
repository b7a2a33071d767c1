"""Deltas kept by chance, the larger of a row the likelier: della. Tiles hold whole rows.

Source: arXiv:2406.11617, section 3; METHODS.md, sections 3 and 5.
"""

from typing import Any

import numpy as np

from sdmw.kernels.chance import add_magnitudes, words
from sdmw.kernels.jit import bits_of, kernel
from sdmw.kernels.tiles import BLOCK, decode, encode
from sdmw.kernels.voting import combine, deltas_of, kept_if

DIGITS = 256  # by which patterns are sorted, from the lowest of four
BINS = 3072  # of high halves of patterns, from the lowest in a row: 24 powers of 2
_PLACE, _PATTERN, _HIGH = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(48)  # of an entry: a mask, and two shifts
_LOW = np.uint32(0xFFFF)


@kernel
def ascending(entries: Any, size: int, counts: Any) -> int:
    """(2,r),(),(4,DIGITS): sort `size` entries in `entries[0]` by pattern; of equal ones the first stays first.

    An entry is a uint64: the pattern above, the place below. `counts` is int64 scratch. Returns in which of the two
    rows the entries stand.
    """
    low = np.uint64(DIGITS - 1)
    counts[:] = 0
    for i in range(size):
        key = entries[0, i] >> _PATTERN
        counts[0, key & low] += 1
        counts[1, (key >> np.uint64(8)) & low] += 1
        counts[2, (key >> np.uint64(16)) & low] += 1
        counts[3, key >> np.uint64(24)] += 1
    side = 0
    for digit in range(4 if size else 0):
        row, shift = counts[digit], np.uint64(32 + 8 * digit)
        source, target = entries[side], entries[1 - side]
        if row[(source[0] >> shift) & low] == size:
            continue  # nothing would move
        total = 0
        for value in range(DIGITS):
            count = row[value]
            row[value] = total
            total += count
        for i in range(size):
            entry = source[i]
            at = row[(entry >> shift) & low]
            row[(entry >> shift) & low] = at + 1
            target[np.uint64(at)] = entry
        side = 1 - side
    return side


@kernel
def bound_of(rank: float, size: int, density: float, epsilon: float) -> Any:
    """floor(p * 2^32), uint32, p = (density - epsilon) + 2 * epsilon * rank / (size - 1); in a row of one the density.

    Of a rank below 0, which nothing has, that of 0.
    """
    share = (density - epsilon) + (2.0 * epsilon) * (max(rank, 0.0) / max(size - 1, 1))
    return np.uint32(np.uint64((density if size == 1 else share) * 2.0**32))


@kernel
def end_of_run(ordered: Any, begin: int, size: int, shift: Any) -> int:
    """Behind the last of the entries from `begin` on that are alike from the bit `shift` up."""
    end = begin + 1
    while end < size and ordered[end] >> shift == ordered[begin] >> shift:
        end += 1
    return end


@kernel
def bounds_by_sorting(below: Any, size: int, density: float, epsilon: float, entries: Any, counts: Any) -> None:
    """As `bounds_by_rank`, of any patterns."""
    for i in range(size):
        entries[0, i] = np.uint64(below[i]) << _PATTERN | np.uint64(i)
    ordered = entries[ascending(entries, size, counts)]
    begin = 0
    while begin < size:
        end = end_of_run(ordered, begin, size, _PATTERN)
        bound = bound_of(0.5 * (begin + end - 1), size, density, epsilon)
        for i in range(begin, end):
            below[ordered[i] & _PLACE] = bound
        begin = end


@kernel
def bin_of(pattern: Any, origin: Any) -> Any:
    """0 for a pattern of zero, else from 1 on by its high half; `origin` is 1 less than the lowest one."""
    return np.uint32(0) if pattern == np.uint32(0) else np.uint32((pattern >> np.uint32(16)) - origin)


@kernel
def count_by_bin(patterns: Any, size: int, origin: Any, bins: Any, entries: Any) -> int:
    """Count patterns in `bins[0]`; make entries of those with low bits. Returns how many these are."""
    known = 0
    for i in range(size):
        pattern = patterns[i]
        bins[0, np.uint64(bin_of(pattern, origin))] += np.uint32(1)
        entries[0, known] = np.uint64(pattern) << _PATTERN | np.uint64(i)  # without a branch: seldom foreseen
        known += int((pattern & _LOW) != np.uint32(0))
    return known


@kernel
def bounds_of_bins(bins: Any, width: int, size: int, density: float, epsilon: float) -> None:
    """From counts to ranks at which bins begin; and in `bins[1]` the bounds of those whose patterns are all equal."""
    before = np.uint32(0)
    for place in range(width + 1):
        count = bins[0, place]
        bins[0, place] = before
        before = np.uint32(before + count)
    for place in range(width):
        rank = 0.5 * (np.float64(bins[0, place]) + np.float64(bins[0, place + 1]) - 1.0)
        bins[1, place] = bound_of(rank, size, density, epsilon)


@kernel
def bounds_of_listed(
    ordered: Any, known: int, origin: Any, bins: Any, size: int, density: float, epsilon: float
) -> None:  # fmt: skip
    """Put bounds in the place of patterns with low bits; and right the bounds of those without in the same bins."""
    begin = 0
    while begin < known:
        end = end_of_run(ordered, begin, known, _HIGH)
        place = np.int64(bin_of(np.uint32(ordered[begin] >> _PATTERN), origin))
        first = np.int64(bins[0, place + 1]) - (end - begin)  # the rank of the least of them: those without come before
        bins[1, place] = bound_of(0.5 * (np.int64(bins[0, place]) + first - 1), size, density, epsilon)
        at = begin
        while at < end:
            stop = end_of_run(ordered, at, end, _PATTERN)
            rank = first + 0.5 * (at + stop - 1 - 2 * begin)
            bound = np.uint64(bound_of(rank, size, density, epsilon)) << _PATTERN
            for i in range(at, stop):
                ordered[i] = bound | ordered[i] & _PLACE
            at = stop
        begin = end


@kernel
def bounds_by_bin(
    below: Any, size: int, origin: Any, width: int, density: float, epsilon: float, entries: Any, counts: Any, bins: Any
) -> None:  # fmt: skip
    """As `bounds_by_rank`, of patterns in few bins, most of which have no low bits: only the others are sorted."""
    known = count_by_bin(below, size, origin, bins, entries)
    bounds_of_bins(bins, width, size, density, epsilon)
    ordered = entries[ascending(entries, known, counts)]
    bounds_of_listed(ordered, known, origin, bins, size, density, epsilon)
    for i in range(size):
        below[i] = bins[1, np.uint64(bin_of(below[i], origin))]
    for i in range(known):
        below[ordered[i] & _PLACE] = np.uint32(ordered[i] >> _PATTERN)
    bins[0, : width + 1] = np.uint32(0)


@kernel
def bounds_by_rank(
    below: Any, size: int, density: float, epsilon: float, entries: Any, counts: Any, bins: Any
) -> None:  # fmt: skip
    """(r),(),(),(),(2,r),(4,DIGITS),(2,BINS): in the place of each pattern the bound of its word, uint32, by its rank.

    Equal patterns share the mean of their ranks. `entries` and `counts` are scratch, as of `ascending`; `bins` is
    uint32 scratch whose first row is zero before and after.
    """
    most, least, listed = np.uint32(0), np.uint32(0xFFFFFFFF), np.uint32(0)
    for i in range(size):
        most = max(most, below[i])
        least = min(least, np.uint32(below[i] - np.uint32(1)))  # zero is none
        listed = np.uint32(listed + np.uint32((below[i] & _LOW) != np.uint32(0)))
    lowest = np.uint32(least + np.uint32(1)) >> np.uint32(16)
    width = int(np.int64(most >> np.uint32(16)) - np.int64(lowest) + 2)
    if width < bins.shape[1] and np.int64(listed) <= size // 3:
        origin = np.uint32(np.uint32(lowest) - np.uint32(1))
        bounds_by_bin(below, size, origin, width, density, epsilon, entries, counts, bins)
    else:
        bounds_by_sorting(below, size, density, epsilon, entries, counts)


@kernel
def bounds_in_row(
    addresses: Any, codes: Any, model: int, start: int, row: int, density: float, epsilon: float, base: Any, delta: Any,
    entries: Any, counts: Any, bins: Any, below: Any,
) -> None:  # fmt: skip
    """The bounds of one model's words in the row that begins at an element of the tile. NaN ranks above infinity."""
    for at in range(0, row, BLOCK):
        size = min(BLOCK, row - at)
        decode(addresses[0], codes[0], start + at, size, base)
        deltas_of(addresses[model + 1], codes[model + 1], start + at, size, base, delta)
        patterns = below[at:]
        for i in range(size):
            patterns[i] = bits_of(delta[i]) & np.uint32(0x7FFFFFFF)
    bounds_by_rank(below, row, density, epsilon, entries, counts, bins)


@kernel
def keep_below(delta: Any, size: int, first: int, key: Any, below: Any, drawn: Any) -> None:
    """Put zero where the word of an element is not below its bound; NaN is kept."""
    words(key, first, size, drawn)
    for i in range(size):
        kept = (drawn[i] < below[i]) | (delta[i] != delta[i])
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
    entries, bins = np.empty((2, row), np.uint64), np.zeros((2, BINS), np.uint32)
    below, counts = np.zeros(row, np.uint32), np.empty((4, DIGITS), np.int64)
    wide = np.empty(BLOCK, np.float64)
    for start in range(0, count, row):
        for model in range(addresses.size - 1):
            density = densities[model]
            if 0.0 < density < 1.0:
                bounds_in_row(
                    addresses, codes, model, start, row, density, epsilons[model], base, delta, entries,
                    counts, bins, below,
                )  # fmt: skip
            else:
                below[:] = np.uint32(0)
            for at in range(0, row, BLOCK):
                size = min(BLOCK, row - at)
                decode(addresses[0], codes[0], start + at, size, base)
                deltas_of(addresses[model + 1], codes[model + 1], start + at, size, base, delta)
                add_magnitudes(delta, size, wide, sums[model, 0])
                if density < 1.0:
                    keep_below(delta, size, first + start + at, keys[model], below[at:], drawn)
                add_magnitudes(delta, size, wide, sums[model, 1])


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
    entries, bins = np.empty((2, row), np.uint64), np.zeros((2, BINS), np.uint32)
    below = np.zeros((models, row), np.uint32)
    bad = False
    for start in range(0, count, row):
        for model in range(models):
            if 0.0 < densities[model] < 1.0:
                bounds_in_row(
                    addresses, codes, model, start, row, densities[model], epsilons[model], base, deltas[model],
                    entries, counts, bins, below[model],
                )  # fmt: skip
        last = min(start + row, end)
        for at in range(max(start, begin), last, BLOCK):
            size = min(BLOCK, last - at)
            decode(addresses[0], codes[0], at, size, base)
            for model in range(models):
                delta, factor = deltas[model], factors[model]
                deltas_of(addresses[model + 1], codes[model + 1], at, size, base, delta)
                if densities[model] < 1.0:
                    keep_below(delta, size, first + at, keys[model], below[model, at - start :], drawn)
                for i in range(size):
                    delta[i] = delta[i] * factor
            combine(deltas, weights, size, vote, normalize, scale, base, total, share)
            bad |= encode(total, size, out_code, out_address, at - begin)
    return bad
