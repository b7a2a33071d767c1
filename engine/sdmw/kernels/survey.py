"""All that a store keeps of a tensor, counted in one read: magnitudes by bin, pairs of models, what rounding swallows.

Each block is decoded once, and its deltas stay in the first-level cache for all that is asked of them.
"""

from typing import Any

import numpy as np

from sdmw.kernels.bins import BINS, FIRST_NONFINITE_BIN
from sdmw.kernels.blocks import GRAIN
from sdmw.kernels.codes import BF16, F16
from sdmw.kernels.compress import SPARE, compress
from sdmw.kernels.dots import add_all_products, folded
from sdmw.kernels.jit import bits_of, float_of, kernel, widened
from sdmw.kernels.tiles import ZERO_BINS, by_dtype, decode, scatter, unpack

STEP = 1024  # elements decoded at once; divides GRAIN
COPIES = 8  # of the table of subsets, since equal ones would wait for each other
FEW = 8  # subsets that are counted one after the other
NOTHING = 0xFFFFFFFF  # what `extremes` has for the least pattern, less one, where there is none
_ODD = np.uint64(1 << 48)  # a word of a bin: the count above, the sum of squares below
_MOST_ODD = 1 << 15  # that a word holds for certain
_SMALL = 0x33800000  # the pattern of 2**-24, float16's smallest number
_LARGE = 0x47000000  # the pattern of 2**15


@kernel
def subtract(words: Any, base: Any, size: int, deltas: Any, bits: Any, found: Any) -> None:
    """Model - base for `size` words, zero where bits are equal, whatever they are; and the patterns of |delta|.

    Zeros have patterns of the bins for zeros, over which they are spread. `found` is int64: the least pattern of any
    other delta, less one, and the largest.
    """
    for i in range(size):
        value = widened(words[i])
        deltas[i] = np.float32(0.0) if bits_of(value) == bits_of(base[i]) else value - base[i]
    least, largest = np.uint32(NOTHING), np.uint32(0)
    for i in range(size):
        pattern = np.uint32(bits_of(deltas[i]) & np.uint32(0x7FFFFFFF))
        least = min(least, np.uint32(pattern - np.uint32(1)))
        largest = max(largest, pattern)
        zero = np.uint32(BINS << 16) | ((np.uint32(i) & np.uint32(ZERO_BINS - 1)) << np.uint32(16))
        bits[i] = zero if pattern == np.uint32(0) else pattern
    found[0], found[1] = np.int64(least), np.int64(largest)


subtract_of = by_dtype(subtract)


@kernel
def scatter_low(patterns: Any, size: int, row: Any) -> None:
    """Count patterns whose low 16 bits are not zero by bin: how many, and below it the sum of their squares."""
    for i in range(size):
        low = np.uint64(patterns[i] & np.uint32(0xFFFF))
        row[np.uint64(patterns[i] >> np.uint32(16))] += _ODD + low * low


@kernel
def take_low(row: Any, open_bins: Any, odds: Any, squares: Any) -> None:
    """Add a row's open bins to counts, and to squares as their low 32 bits and the rest; they are zero afterwards.

    `open_bins` is int64: how many patterns were counted, the first bin and the last.
    """
    for place in range(open_bins[1], open_bins[2] + 1):
        word = row[place]
        if word != np.uint64(0):
            odds[place] += np.int64(word >> np.uint64(48))
            squares[0, place] += np.int64(word & np.uint64(0xFFFFFFFF))
            squares[1, place] += np.int64((word >> np.uint64(32)) & np.uint64(0xFFFF))
            row[place] = np.uint64(0)
    open_bins[0], open_bins[1], open_bins[2] = 0, BINS, -1


@kernel
def keep_finite(deltas: Any, size: int, found: Any) -> None:
    """Put zero in the place of NaN and infinity; `found` is that of `subtract`."""
    infinity = np.uint32(FIRST_NONFINITE_BIN << 16)
    least, largest = np.uint32(NOTHING), np.uint32(0)
    for i in range(size):
        pattern = np.uint32(bits_of(deltas[i]) & np.uint32(0x7FFFFFFF))
        pattern = pattern if pattern < infinity else np.uint32(0)
        deltas[i] = deltas[i] if pattern else np.float32(0.0)
        least = min(least, np.uint32(pattern - np.uint32(1)))
        largest = max(largest, pattern)
    found[0], found[1] = np.int64(least), np.int64(largest)


@kernel
def as_bf16(value: np.float32) -> np.uint32:
    """The bfloat16 pattern of a number, to nearest even."""
    bits = bits_of(value)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@kernel
def as_f16(value: np.float32) -> np.uint32:
    """The float16 pattern of a number, to nearest even: as `tiles.encode` has it."""
    bits = bits_of(value)
    magnitude = np.uint32(bits & np.uint32(0x7FFFFFFF))
    size_of = float_of(magnitude)
    odd = (magnitude >> np.uint32(13)) & np.uint32(1)
    normal = np.uint32((np.uint32(magnitude + np.uint32(0x0FFF) + odd) >> np.uint32(13)) - np.uint32(112 << 10))
    small = np.uint32(bits_of(size_of + np.float32(0.5)) - np.uint32(0x3F000000))
    word = small if size_of < np.float32(2.0**-14) else normal
    word = np.uint32(0x7C00) if size_of >= np.float32(2.0**16) else word
    return np.uint32(word | np.uint32((bits >> np.uint32(16)) & np.uint32(0x8000)))


@kernel
def round_to(code: int, values: Any, size: int, words: Any) -> None:
    """The patterns of `size` finite float32 in the dtype of a code, BF16 or F16, as uint32."""
    if code == BF16:
        for i in range(size):
            words[i] = as_bf16(values[i])
    else:
        for i in range(size):
            words[i] = as_f16(values[i])


@kernel
def count_unchanged(code: int, base: Any, rounded: Any, deltas: Any, size: int, total: Any, words: Any) -> int:
    """How many deltas but zeros leave the base as it is once both are rounded to a dtype; the base is already."""
    for i in range(size):
        total[i] = base[i] + deltas[i]
    round_to(code, total, size, words)
    found = np.uint32(0)
    for i in range(size):
        zeros = np.uint32((words[i] | rounded[i]) & np.uint32(0x7FFF)) == np.uint32(0)
        same = zeros | (words[i] == rounded[i])
        found = np.uint32(found + np.uint32((deltas[i] != np.float32(0.0)) & same))
    return int(found)


@kernel
def largest_of(values: Any, size: int) -> int:
    """The largest pattern of a magnitude."""
    largest = np.uint32(0)
    for i in range(size):
        largest = max(largest, np.uint32(bits_of(values[i]) & np.uint32(0x7FFFFFFF)))
    return int(largest)


@kernel
def count_opposed(one: Any, other: Any, size: int) -> int:
    """How many of two models' deltas are above zero in one and below in the other."""
    found = np.uint32(0)
    for i in range(size):
        both = (one[i] != np.float32(0.0)) & (other[i] != np.float32(0.0))
        found = np.uint32(found + np.uint32(both & ((one[i] < np.float32(0.0)) != (other[i] < np.float32(0.0)))))
    return int(found)


@kernel
def count_two(one: Any, other: Any, size: int, subsets: Any) -> int:
    """Add to `subsets` (4), int64, what `count_subsets` counts of two models, and return what `count_opposed` does."""
    first, second, shared, opposed = np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0)
    for i in range(size):
        both = (one[i] != np.float32(0.0)) & (other[i] != np.float32(0.0))
        first = np.uint32(first + np.uint32(one[i] != np.float32(0.0)))
        second = np.uint32(second + np.uint32(other[i] != np.float32(0.0)))
        shared = np.uint32(shared + np.uint32(both))
        opposed = np.uint32(opposed + np.uint32(both & ((one[i] < np.float32(0.0)) != (other[i] < np.float32(0.0)))))
    subsets[0] += size - np.int64(first) - np.int64(second) + np.int64(shared)
    subsets[1] += np.int64(first) - np.int64(shared)
    subsets[2] += np.int64(second) - np.int64(shared)
    subsets[3] += np.int64(shared)
    return int(opposed)


@kernel
def mark(deltas: Any, size: int, bit: Any, subsets: Any) -> None:
    """Add a model's bit to the subset of each element that it changes."""
    for i in range(size):
        subsets[i] |= bit if deltas[i] != np.float32(0.0) else np.uint32(0)


@kernel
def count_equal(words: Any, size: int, wanted: Any) -> int:
    """How many of `size` words are a certain one."""
    found = np.uint32(0)
    for i in range(size):
        found = np.uint32(found + np.uint32(words[i] == wanted))
    return int(found)


@kernel
def count_subsets(deltas: Any, size: int, subsets: Any, counts: Any) -> None:
    """Count which models change each element; `subsets` is scratch, `counts` (COPIES, 2**n) int64."""
    subsets[:size] = np.uint32(0)
    for model in range(deltas.shape[0]):
        mark(deltas[model], size, np.uint32(1 << model), subsets)
    if counts.shape[1] <= FEW:
        for subset in range(counts.shape[1]):
            counts[0, subset] += count_equal(subsets, size, np.uint32(subset))
        return
    whole = size - size % COPIES
    for i in range(0, whole, COPIES):
        for copy in range(COPIES):
            counts[copy, np.uint64(subsets[i + copy])] += 1
    for i in range(whole, size):
        counts[0, np.uint64(subsets[i])] += 1


@kernel
def survey(
    addresses: Any, codes: Any, count: int, first: int, packed: Any, low: Any, counts: Any, low_sums: Any, odds: Any,
    squares: Any, unchanged: Any, extremes: Any, conflict: Any, overlap: Any, lanes: Any, sums: Any,
) -> int:  # fmt: skip
    """(n+1),(n+1),(),(),(n,PACKED),(n,BINS),(n,BINS),(n,BINS),(n,BINS),(n,2,BINS),(n,2),(n,2),(n,n),(8,s),(p,16),(b,p).

    `packed` and `low` are uint64 scratch, zero before and after; all integers else are int64 and added to. By bin, as
    METHOD.md has them: how many |deltas| but zeros, the sum of their low 16 bits, how many of these are not zero, and
    the sum of their squares, as its low 32 bits and the rest. `unchanged`: deltas that bfloat16 and float16 swallow.
    `extremes`: the least pattern less one, and the largest. `conflict`: pairs of opposed signs. `overlap`: elements by
    the subset of models that change them, where 2**n is its width. NaN and infinity are in the bins from 0x7F80 up
    and nowhere else. `lanes`, `sums` and the result are as of `dots`.
    """
    models = addresses.size - 1
    both, scratch, total = np.zeros((2, STEP), np.float32), np.empty(STEP, np.float32), np.empty(STEP, np.float32)
    bits, words, rounded = np.empty(STEP, np.uint32), np.empty(STEP, np.uint32), np.empty((2, STEP), np.uint32)
    inside, subsets, found = np.empty(STEP + SPARE, np.uint32), np.empty(STEP, np.uint32), np.empty(2, np.int64)
    deltas, open_bins = np.zeros((models, STEP), np.float32), np.empty((models, 3), np.int64)
    open_bins[:, 0], open_bins[:, 1], open_bins[:, 2] = 0, BINS, -1
    base = both[0]
    ended, start = 0, 0
    while start < count:
        place = (first + start) % GRAIN
        size = min(STEP - place % STEP, count - start)
        decode(addresses[0], codes[0], start, size, base)
        highest, ready = largest_of(base, size), 0
        for model in range(models):
            if addresses[model + 1] == addresses[0] and codes[model + 1] == codes[0]:
                continue  # the base itself: its deltas stay zero
            own, code = deltas[model], codes[model + 1]
            subtract_of(addresses[model + 1], code, start, size, both, scratch, own, bits, found)
            scatter(bits, size, packed[model])
            known = compress(bits, size, np.uint32(16), np.uint32(0x10000), np.uint32(0xFFFF0000), inside, 0)
            if open_bins[model, 0] + known > _MOST_ODD:
                take_low(low[model], open_bins[model], odds[model], squares[model])
            scatter_low(inside, known, low[model])
            open_bins[model, 0] += known
            open_bins[model, 1] = min(open_bins[model, 1], (found[0] + 1) >> 16)
            open_bins[model, 2] = max(open_bins[model, 2], found[1] >> 16)
            if found[1] >= FIRST_NONFINITE_BIN << 16:
                keep_finite(own, size, found)
            extremes[model, 0] = min(extremes[model, 0], found[0])
            extremes[model, 1] = max(extremes[model, 1], found[1])
            if codes[0] == BF16 and code == BF16 and highest < _LARGE and found[0] >= _SMALL:
                continue  # what differs in bfloat16 does so in float16, but below its last place and beyond its range
            if not ready:
                round_to(BF16, base, size, rounded[0])
                round_to(F16, base, size, rounded[1])
                ready = 1
            unchanged[model, 0] += count_unchanged(BF16, base, rounded[0], own, size, total, words)
            unchanged[model, 1] += count_unchanged(F16, base, rounded[1], own, size, total, words)
        add_all_products(deltas, 0, place, size, lanes)
        if models == 2:
            conflict[0, 1] += count_two(deltas[0], deltas[1], size, overlap[0])
        else:
            for one in range(models):
                for other in range(one + 1, models):
                    conflict[one, other] += count_opposed(deltas[one], deltas[other], size)
            if overlap.shape[1] > 1:
                count_subsets(deltas, size, subsets, overlap)
        start += size
        if (first + start) % GRAIN == 0:
            for number in range(lanes.shape[0]):
                sums[ended, number] = folded(lanes[number])
            ended += 1
    for model in range(models):
        unpack(packed[model], counts[model], low_sums[model])
        take_low(low[model], open_bins[model], odds[model], squares[model])
    return ended
