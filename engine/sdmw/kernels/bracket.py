"""Counts |deltas| against a bracket of bins instead of putting each into its bin. Source: METHOD.md, "bins".

A bin for each delta costs 0.8 ns, since a processor stores to many places one at a time. But a percentile asks for the
bins around its rank alone: of what lies below them the number is enough, of what lies above them number and sum. Both
come from loops that are vectorised; what lies inside is put together by `compress`, and only that goes into bins.
"""

from typing import Any

import numpy as np

from sdmw.kernels.bins import FIRST_NONFINITE_BIN
from sdmw.kernels.blocks import LANES
from sdmw.kernels.compress import SPARE, compress
from sdmw.kernels.jit import bits_of, kernel, widened
from sdmw.kernels.lanes import add_patterns_from
from sdmw.kernels.tiles import LOW_SUM, ONE, by_dtype, decode, unpack

BLOCK = 2048  # elements
ROOM = 512  # bins of a bracket that is counted apart; a wider one goes into the packed bins
COPIES = 8  # of each of its bins, since equal deltas would wait for each other

_EXACT = 2.0**53  # float64 sums of integers below this are exact, in whatever order
_WORD = np.int64((1 << 52) - 1)


@kernel
def sort_out(words: Any, base: Any, size: int, lowest: Any, bits: Any, found: Any) -> None:
    """The patterns of |model - base| for `size` words; zero where bits are equal, whatever they are.

    `found` is int64: how many of them are zero, and how many below the pattern `lowest`, zeros among them.
    """
    zeros, below = np.uint32(0), np.uint32(0)
    for i in range(size):
        value = widened(words[i])
        magnitude = np.uint32(bits_of(value - base[i]) & np.uint32(0x7FFFFFFF))
        magnitude = np.uint32(0) if bits_of(value) == bits_of(base[i]) else magnitude
        bits[i] = magnitude
        zeros = np.uint32(zeros + np.uint32(magnitude == np.uint32(0)))
        below = np.uint32(below + np.uint32(magnitude < lowest))
    found[0], found[1] = np.int64(zeros), np.int64(below)


sort_out_of = by_dtype(sort_out)


@kernel
def units_from(bits: Any, size: int, beyond: Any, lanes: Any) -> float:
    """The sum of the float32 whose patterns are at least `beyond`, in units of its last place.

    Exact where it is below 2**53: each of them is a multiple of the unit, so no sum on the way was rounded. NaN or
    infinite where one of them is. `bits` has room for a whole group behind its `size`, and `lanes` is scratch.
    """
    groups = (size + LANES - 1) // LANES
    bits[size : groups * LANES] = np.uint32(0)
    lanes[:] = 0.0
    add_patterns_from(bits, 0, groups, beyond, lanes)
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    # Two factors: 2**149 times a float32 is a float64, and exact.
    return total * 2.0 ** np.float64(150 - max(np.int64(beyond >> np.uint32(23)), np.int64(1)))


@kernel
def scatter_inside(inside: Any, size: int, origin: Any, row: Any) -> None:
    """Count patterns of a bracket that begins at the pattern `origin` in a row of packed bins, `COPIES` of each."""
    whole = size - size % COPIES
    for i in range(0, whole, COPIES):
        for copy in range(COPIES):
            place = np.uint64(np.uint32(inside[i + copy] - origin))
            row[(place >> np.uint64(16)) * np.uint64(COPIES) + np.uint64(copy)] += ONE + (place & np.uint64(0xFFFF))
    for i in range(whole, size):
        place = np.uint64(np.uint32(inside[i] - origin))
        row[(place >> np.uint64(16)) * np.uint64(COPIES)] += ONE + (place & np.uint64(0xFFFF))


@kernel
def scatter_all(bits: Any, size: int, row: Any) -> None:
    """Count patterns in a row of packed bins, less zeros."""
    for i in range(size):
        pattern = np.uint64(bits[i])
        if pattern != np.uint64(0):
            row[pattern >> np.uint64(16)] += ONE + (pattern & np.uint64(0xFFFF))


@kernel
def list_low(inside: Any, size: int, listed: Any, known: int) -> int:
    """Append the patterns whose low bits are not zero to `listed`, from place `known`.

    Returns how many there are then; what has no room is counted and not kept.
    """
    if known + size + SPARE <= listed.size:
        return compress(
            inside, size, np.uint32(16), np.uint32(0x10000), np.uint32(0xFFFF0000), listed, known
        )  # fmt: skip
    for i in range(size):
        if inside[i] & np.uint32(0xFFFF):
            if known < listed.size:
                listed[known] = inside[i]
            known += 1
    return known


@kernel
def count_by_bracket(
    addresses: Any, codes: Any, count: int, brackets: Any, packed: Any, counts: Any, low_sums: Any, outside: Any,
    listed: Any, sizes: Any,
) -> None:  # fmt: skip
    """(n+1),(n+1),(),(n,2),(n,PACKED),(n,BINS),(n,BINS),(n,4),(n,l),(n): count nonzero |deltas| by a bracket of bins.

    `brackets` are int64, first bin and the one behind the last. `packed` is uint64 scratch, zero before and after.
    `counts` and `low_sums` are as of `count_magnitudes`, for the bins of the bracket, and for all of them where a block
    could not be summed otherwise: where magnitudes above are too far apart, NaN or infinite. `outside` is int64: how
    many lie below and above in the other blocks, and the sum of those above in units of the last place of the
    bracket's end, as its low 52 bits and the rest. `listed` takes the uint32 patterns of the bracket whose low bits are
    not zero, and `sizes` tells how many there were, which may be more than there was room for.
    """
    both, scratch = np.zeros((2, BLOCK), np.float32), np.empty(BLOCK, np.float32)
    bits, inside = np.empty(BLOCK + LANES, np.uint32), np.empty(BLOCK + SPARE, np.uint32)
    lanes, found = np.empty(LANES, np.float64), np.empty(2, np.int64)
    models = addresses.size - 1
    rows, wide = np.zeros((models, ROOM * COPIES), np.uint64), np.zeros(models, np.uint8)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        decode(addresses[0], codes[0], start, size, both[0])
        for model in range(models):
            if addresses[model + 1] == addresses[0] and codes[model + 1] == codes[0]:
                continue  # the base itself: what an adapter leaves as it is
            origin = np.uint32(brackets[model, 0] << 16)
            first = max(origin, np.uint32(1))  # zeros are in no bin
            beyond = np.uint32(min(brackets[model, 1], FIRST_NONFINITE_BIN) << 16)
            width = np.uint32(beyond - first)
            sort_out_of(addresses[model + 1], codes[model + 1], start, size, both, scratch, first, bits, found)
            units = units_from(bits, size, beyond, lanes)
            known = compress(bits, size, np.uint32(0), first, width, inside, 0)
            sizes[model] = list_low(inside, known, listed[model], sizes[model])
            if not units < _EXACT:
                wide[model] = 1
                scatter_all(bits, size, packed[model])
                continue
            whole = np.int64(units)
            outside[model, 0] += found[1] - found[0]
            outside[model, 1] += size - found[1] - known
            low = outside[model, 2] + (whole & _WORD)  # of 53 bits: carried at once, since blocks may be many
            outside[model, 2] = low & _WORD
            outside[model, 3] += (whole >> np.int64(52)) + (low >> np.int64(52))
            if brackets[model, 1] - brackets[model, 0] <= ROOM:
                scatter_inside(inside, known, origin, rows[model])
            else:
                wide[model] = 1
                scatter_all(inside, known, packed[model])
    for model in range(models):
        first_bin = brackets[model, 0]
        for place in range(min(ROOM, brackets[model, 1] - first_bin)):
            for copy in range(COPIES):
                word = rows[model, place * COPIES + copy]
                counts[model, first_bin + place] += np.int64(word >> np.uint64(40))
                low_sums[model, first_bin + place] += np.int64(word & LOW_SUM)
        if wide[model]:
            unpack(packed[model], counts[model], low_sums[model])
