"""Arithmetic over one tile of every input, decoded in blocks that stay in the first-level cache.

An input is an address and a code (F32, F16 or BF16); the base is the first. Each float operation rounds once to
float32, nearest even, and none are fused, so the same bits come out on any machine. Without its
sign a float32 pattern is ordered like the magnitude, with infinities and NaNs above all numbers.

Numba widens uint32 arithmetic to 64 bits, which halves the vectors: a sum is narrowed again before it is shifted right,
and what is to be compared by size is compared as float.
"""

from typing import Any

import numpy as np

from sdmw.kernels.bins import BINS, FIRST_NONFINITE_BIN
from sdmw.kernels.bins import BLOCK as COUNT_BLOCK
from sdmw.kernels.codes import BF16, DELTA, F16
from sdmw.kernels.jit import bits_of, float_of, kernel, part, widened, words16, words32

# Elements of a block. Measured on tiles in memory, in ns per element of two fine-tunes: merging 0.43 by 4,096, 0.30 by
# 2,048, 0.20 by 1,024 and 512, where its arrays stay in the first-level cache; counting 0.90 by 4,096, 0.93 by 1,024.
BLOCK = 1024
LARGEST_TILE = 1 << 23  # elements: a packed bin has 24 bits for the count
ZERO_BINS = 64  # zeros are spread over these: a single one would make each wait for the last
PACKED = BINS + ZERO_BINS

ONE = np.uint64(1 << 40)  # a packed bin: the count above, the sum of the low 16 bits below
LOW_SUM = np.uint64((1 << 40) - 1)
_TO_HALF = np.float32(2.0**112)  # from float16's exponent bias to float32's, exact


@kernel
def decode(address: int, code: int, start: int, size: int, out: Any) -> None:
    """Widen `size` elements from `start` of the input at `address` to float32 in `out`, exactly."""
    if code == BF16:
        short = words16(address + 2 * start, size)
        for i in range(size):
            out[i] = float_of(np.uint32(short[i]) << np.uint32(16))
    elif code == F16:
        half = words16(address + 2 * start, size)
        for i in range(size):
            word = np.uint32(half[i])
            magnitude = word & np.uint32(0x7FFF)
            # The shifted pattern is the value times 2**-112, subnormals included; one exact product puts it right.
            bits = bits_of(float_of(magnitude << np.uint32(13)) * _TO_HALF)
            full_exponent = (word & np.uint32(0x7C00)) == np.uint32(0x7C00)
            wide = bits | np.uint32(0x7F800000) if full_exponent else bits
            out[i] = float_of(wide | (word & np.uint32(0x8000)) << np.uint32(16))
    else:
        full = words32(address + 4 * start, size)
        for i in range(size):
            out[i] = float_of(full[i])


@kernel
def encode(values: Any, size: int, code: int, address: int, start: int) -> bool:
    """Round `size` float32 to the dtype of `code`, to nearest even, at element `start` of `address`.

    NaN becomes a quiet NaN of its sign. Returns whether a result is NaN or infinite.
    """
    largest = np.uint32(0)  # the largest exponent field: a maximum stays in vectors of 32 bits, a flag does not
    if code == BF16:
        infinity = np.uint32(0x7F800000)
        short = words16(address + 2 * start, size)
        for i in range(size):
            bits = bits_of(values[i])
            odd = (bits >> np.uint32(16)) & np.uint32(1)
            rounded = np.uint32(bits + np.uint32(0x7FFF) + odd)
            kept = np.uint32(bits | np.uint32(0x00400000)) if values[i] != values[i] else rounded
            short[i] = np.uint16(kept >> np.uint32(16))
            largest = max(largest, np.uint32(kept & infinity))
    elif code == F16:
        infinity = np.uint32(0x7C00)
        half = words16(address + 2 * start, size)
        for i in range(size):
            bits = bits_of(values[i])
            magnitude = np.uint32(bits & np.uint32(0x7FFFFFFF))
            size_of = float_of(magnitude)
            odd = (magnitude >> np.uint32(13)) & np.uint32(1)
            normal = np.uint32((np.uint32(magnitude + np.uint32(0x0FFF) + odd) >> np.uint32(13)) - np.uint32(112 << 10))
            # 0.5's last place is float16's smallest number: the sum rounds as a subnormal must.
            small = np.uint32(bits_of(size_of + np.float32(0.5)) - np.uint32(0x3F000000))
            word = small if size_of < np.float32(2.0**-14) else normal
            word = infinity if size_of >= np.float32(2.0**16) else word
            word = np.uint32(0x7E00) if values[i] != values[i] else word
            half[i] = np.uint16(word | (bits >> np.uint32(16)) & np.uint32(0x8000))
            largest = max(largest, np.uint32(word & infinity))
    else:
        infinity = np.uint32(0x7F800000)
        full = words32(address + 4 * start, size)
        for i in range(size):
            bits = bits_of(values[i])
            full[i] = bits
            largest = max(largest, np.uint32(bits & infinity))
    return bool(largest == infinity)


def by_dtype(step: Any) -> Any:
    """`step` on a block of one input whatever its dtype is: the one place that asks for it.

    What is returned calls `step(words, origin, size, *others)`. bfloat16 and float32 words are read as they lie,
    float16 is decoded into `scratch` first. The origin of a model's values is `base[0]`, that of a delta `base[1]`,
    which is zero; `base` is (2,n) float32.
    """

    @part
    def on_block(
        address: int, code: int, start: int, size: int, base: Any, scratch: Any, *others: Any
    ) -> None:  # fmt: skip
        if code == BF16:
            step(words16(address + 2 * start, size), base[0], size, *others)
        elif code == F16:
            decode(address, code, start, size, scratch)
            step(scratch.view(np.uint32), base[0], size, *others)
        elif code == DELTA:
            step(words32(address + 4 * start, size), base[1], size, *others)
        else:
            step(words32(address + 4 * start, size), base[0], size, *others)

    return on_block


@kernel
def magnitudes(words: Any, base: Any, size: int, bits: Any) -> None:
    """The patterns of |model - base| for `size` words: float32 patterns, or bfloat16's as uint16.

    A zero, which is also where bits are equal whatever they are, becomes one of the patterns of the bins for zeros.
    """
    for i in range(size):
        value = widened(words[i])
        magnitude = bits_of(value - base[i]) & np.uint32(0x7FFFFFFF)
        magnitude = np.uint32(0) if bits_of(value) == bits_of(base[i]) else magnitude
        zero = np.uint32(BINS << 16) | ((np.uint32(i) & np.uint32(ZERO_BINS - 1)) << np.uint32(16))
        bits[i] = zero if magnitude == np.uint32(0) else magnitude


magnitudes_of = by_dtype(magnitudes)


@kernel
def scatter(bits: Any, size: int, row: Any) -> None:
    """Count `size` patterns in a row of packed bins."""
    # Two at a load, and as places without a sign, which Numba need not check for being negative: half the time.
    for pair in bits[: size - size % 2].view(np.uint64):
        row[(pair >> np.uint64(16)) & np.uint64(0xFFFF)] += ONE + (pair & np.uint64(0xFFFF))
        row[pair >> np.uint64(48)] += ONE + ((pair >> np.uint64(32)) & np.uint64(0xFFFF))
    if size % 2:
        last = np.uint64(bits[size - 1])
        row[last >> np.uint64(16)] += ONE + (last & np.uint64(0xFFFF))


@kernel
def unpack(row: Any, counts: Any, low_sums: Any) -> None:
    """Add a row of packed bins to counts and sums of low bits, int64; it is zero afterwards."""
    for place in range(BINS):
        counts[place] += np.int64(row[place] >> np.uint64(40))
        low_sums[place] += np.int64(row[place] & LOW_SUM)
    row[:] = np.uint64(0)


@kernel
def list_near(bits: Any, size: int, first: int, stop: int, hits: Any, listed: Any, known: int) -> int:
    """Append the patterns in bins from first up to stop whose low bits are not zero to `listed`, from place `known`.

    Returns how many there are then; what has no room is counted and not kept.
    """
    lowest, beyond = float_of(np.uint32(first << 16)), float_of(np.uint32(min(stop, FIRST_NONFINITE_BIN) << 16))
    for i in range(size):
        value = float_of(bits[i])
        inside = (value >= lowest) & (value < beyond)
        hits[i] = np.uint8(inside & ((bits[i] & np.uint32(0xFFFF)) != np.uint32(0)))
    hits[size:] = np.uint8(0)
    by_eight = hits.view(np.uint64)
    for group in range((size + 7) // 8):
        # Seldom any: a bracket holds few ranks, and low bits between bfloat16 models are mostly zero.
        if by_eight[group] != np.uint64(0):
            for i in range(8 * group, 8 * group + 8):
                if hits[i]:
                    if known < listed.size:
                        listed[known] = bits[i]
                    known += 1
    return known


@kernel
def count_magnitudes(
    addresses: Any, codes: Any, count: int, step: int, packed: Any, counts: Any, low_sums: Any, edges: Any, listed: Any,
    sizes: Any,
) -> None:  # fmt: skip
    """(n+1),(n+1),(),(),(n,PACKED),(n,BINS),(n,BINS),(n,2),(n,l),(n): count |deltas| but zeros, and list some bins'.

    METHOD.md, "bins". Of every `step` elements the first COUNT_BLOCK are counted, so all with a step of as many.
    `packed` is uint64 scratch, zero before and after. `counts` and `low_sums` are int64: per bin
    the number of deltas and the sum of their low 16 bits. NaN and infinity land in the bins from 0x7F80 up. `edges`
    are the bins to list, from one up to another, none where both are equal; `listed` takes the uint32 patterns, and
    `sizes` tells how many there were, which may be more than there was room for.
    """
    base, scratch = np.zeros((2, COUNT_BLOCK), np.float32), np.empty(COUNT_BLOCK, np.float32)
    bits, hits = np.empty(COUNT_BLOCK, np.uint32), np.empty(COUNT_BLOCK, np.uint8)
    models = addresses.size - 1
    for start in range(0, count, step):
        size = min(COUNT_BLOCK, count - start)
        decode(addresses[0], codes[0], start, size, base[0])
        for model in range(models):
            if addresses[model + 1] == addresses[0] and codes[model + 1] == codes[0]:
                continue  # the base itself: what an adapter leaves as it is
            # Two stages: the first is vectorised, the second only scatters.
            magnitudes_of(addresses[model + 1], codes[model + 1], start, size, base, scratch, bits)
            scatter(bits, size, packed[model])
            if edges[model, 0] < edges[model, 1]:
                sizes[model] = list_near(
                    bits, size, edges[model, 0], edges[model, 1], hits, listed[model], sizes[model]
                )  # fmt: skip
    for model in range(models):
        unpack(packed[model], counts[model], low_sums[model])


@kernel
def count_low_bits(addresses: Any, codes: Any, count: int, bins: Any, counts: Any) -> None:
    """(n+1),(n+1),(),(n,2),(n,2,LOW): per model and asked bin, how often each nonzero value of the low 16 bits occurs.

    `bins` is int64, -1 where nothing is asked; `counts` int64. Zero low bits are what the histogram's count leaves
    over, and with bfloat16 inputs nearly all, so they are passed by.
    """
    base, scratch = np.zeros((2, COUNT_BLOCK), np.float32), np.empty(COUNT_BLOCK, np.float32)
    bits, hits, listed = (
        np.empty(COUNT_BLOCK, np.uint32),
        np.empty(COUNT_BLOCK, np.uint8),
        np.empty(COUNT_BLOCK, np.uint32),
    )
    models = addresses.size - 1
    for start in range(0, count, COUNT_BLOCK):
        size = min(COUNT_BLOCK, count - start)
        decode(addresses[0], codes[0], start, size, base[0])
        for model in range(models):
            magnitudes_of(addresses[model + 1], codes[model + 1], start, size, base, scratch, bits)
            for which in range(2):
                place = bins[model, which]
                known = list_near(bits, size, place, place + 1, hits, listed, 0) if place >= 0 else 0
                for i in range(known):
                    counts[model, which, listed[i] & np.uint32(0xFFFF)] += 1


@kernel
def add_delta(words: Any, base: Any, size: int, threshold: Any, weight: Any, first: bool, total: Any) -> None:
    """Add weight * (model - base), where its magnitude reaches the threshold, to `total`; the first is put there."""
    for i in range(size):
        value = widened(words[i])
        delta = np.float32(0.0) if bits_of(value) == bits_of(base[i]) else value - base[i]
        # `<`, not `>=`: comparisons with NaN are false, so a NaN delta is kept.
        product = weight * (np.float32(0.0) if abs(delta) < threshold else delta)
        total[i] = product if first else total[i] + product


add_delta_of = by_dtype(add_delta)


@kernel
def merge_deltas(
    addresses: Any, codes: Any, count: int, thresholds: Any, weights: Any, divisor: Any, scale: Any, keep_base: bool,
    out_address: int, out_code: int,
) -> bool:  # fmt: skip
    """(n+1),(n+1),(),(n),(n),(),(): base + scale * (sum of weight * masked delta / divisor), rounded at the output.

    METHOD.md, step 5 and `task_arithmetic`. All numbers are float32. A delta is kept where its magnitude reaches its
    model's threshold, else it counts as +0. A divisor or scale of 1 changes no bit. `keep_base`: where the value to be
    added is a zero the element is the base's own, -0.0 included. A NaN or infinite delta is kept by every threshold,
    infinity included, and passes on. Returns whether a result is NaN or infinite.
    """
    both, scratch, total = np.zeros((2, BLOCK), np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    base = both[0]
    bad = False
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        decode(addresses[0], codes[0], start, size, base)
        if addresses.size == 1:
            total[:] = np.float32(0.0)
        for model in range(addresses.size - 1):
            address, code = addresses[model + 1], codes[model + 1]
            threshold, weight, first = thresholds[model], weights[model], model == 0
            add_delta_of(address, code, start, size, both, scratch, threshold, weight, first, total)
        # Where nothing divides or scales the loop without them gives the same bits sooner.
        plain = divisor == np.float32(1.0) and scale == np.float32(1.0)
        for i in range(0 if plain else size):
            total[i] = total[i] / divisor * scale
        # Two loops, since a condition that does not change within one keeps it from being vectorised; and not in place
        # of the base, since a store that is only done at times does as well.
        for i in range(size if keep_base else 0):
            merged = base[i] + total[i]
            total[i] = base[i] if total[i] == np.float32(0.0) else merged
        for i in range(0 if keep_base else size):
            total[i] = base[i] + total[i]
        bad |= encode(total, size, out_code, out_address, start)
    return bad


@kernel
def add_weighted(words: Any, _base: Any, size: int, weight: Any, total: Any) -> None:
    """Add weight * model to `total`."""
    for i in range(size):
        total[i] = total[i] + weight * widened(words[i])


add_weighted_of = by_dtype(add_weighted)


@kernel
def average(
    addresses: Any, codes: Any, count: int, weights: Any, divisor: Any, out_address: int, out_code: int
) -> bool:
    """(n),(n),(),(n),(): (0 + weight * model + ...) / divisor, METHOD.md `linear`; rounded once at the output.

    `weights` and `divisor` are float32. NaN and infinity pass on. Returns whether a result is NaN or infinite.
    """
    nothing, scratch, total = np.zeros((2, 1), np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    bad = False
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        total[:size] = np.float32(0.0)
        for model in range(addresses.size):
            address, code = addresses[model], codes[model]
            add_weighted_of(address, code, start, size, nothing, scratch, weights[model], total)
        for i in range(0 if divisor == np.float32(1.0) else size):
            total[i] = total[i] / divisor
        bad |= encode(total, size, out_code, out_address, start)
    return bad
