"""The changes of one model that matter most, by how far its rows are from the base's: arcee_fusion.

A change's score is its magnitude times the divergence of its row. Tiles hold whole rows; or parts of a single one,
whose divergence is known. Source: METHODS.md, section 3.
"""

from typing import Any

import numpy as np

from sdmw.kernels.blocks import GRAIN, LANES
from sdmw.kernels.divergence import divergence
from sdmw.kernels.dots import PARTIALS
from sdmw.kernels.jit import bits_of, kernel, part
from sdmw.kernels.tiles import BLOCK, decode, encode
from sdmw.kernels.voting import deltas_of

BINS = 1 << 16  # of scores, by the high half of their key; a score may be negative
_NAN = np.uint32(0x7FC00000)


@kernel
def score_of(delta: Any, factor: float) -> Any:
    """How much a change matters, float32: its magnitude times the divergence of its row. Zero has no sign."""
    return np.float32(np.float64(abs(delta)) * factor + 0.0)


@kernel
def key_of(score: Any) -> Any:
    """A uint32 that is ordered as scores are; all NaN are one, above infinity."""
    bits = bits_of(score)
    if score != score:
        bits = _NAN
    return np.uint32(~bits) if bits >> np.uint32(31) else np.uint32(bits | np.uint32(0x80000000))


def by_row(step: Any) -> Any:
    """Calls `step(base, delta, size, factor, at, *others)` for the blocks of a tile's rows, with each row's divergence.

    Of the elements from `begin` to `end`. `known` has the divergence of the one row that the tile is part of; it is
    empty where the tile holds whole rows. Returns whether a step returned true.
    """

    @part
    def go(
        addresses: Any, codes: Any, count: int, row: int, known: Any, begin: int, end: int, *others: Any
    ) -> bool:  # fmt: skip
        base, delta = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
        held = 0 if known.size else row
        shares, lanes = np.empty((2, held), np.float64), np.zeros(LANES, np.float64)
        sums, partials = np.empty(held // GRAIN + 1, np.float64), np.empty(PARTIALS, np.float64)
        found = False
        for start in range(0, count, row):
            if known.size:
                factor = known[0]
            else:
                factor = divergence(addresses, codes, start, row, base, delta, shares, lanes, sums, partials)
            last = min(start + row, end)
            for at in range(max(start, begin), last, BLOCK):
                size = min(BLOCK, last - at)
                decode(addresses[0], codes[0], at, size, base)
                deltas_of(addresses[1], codes[1], at, size, base, delta)
                found |= step(base, delta, size, factor, at - begin, *others)
        return found

    return go


@kernel
def score_keys(delta: Any, size: int, factor: float, keys: Any) -> None:
    """The keys of the scores of `size` deltas."""
    for i in range(size):
        keys[i] = key_of(score_of(delta[i], factor))


@kernel
def count_keys(
    _base: Any, delta: Any, size: int, factor: float, _at: int, keys: Any, counts: Any, low_sums: Any
) -> bool:  # fmt: skip
    """Count the high halves of keys, and add up their low halves."""
    score_keys(delta, size, factor, keys)
    for i in range(size):
        high = keys[i] >> np.uint32(16)
        counts[high] += 1
        low_sums[high] += np.int64(keys[i] & np.uint32(0xFFFF))
    return False


@kernel
def count_low_keys(
    _base: Any, delta: Any, size: int, factor: float, _at: int, keys: Any, hits: Any, bins: Any, counts: Any
) -> bool:  # fmt: skip
    """Count the nonzero low halves of keys in some bins."""
    score_keys(delta, size, factor, keys)
    for which in range(bins.size):
        wanted = np.uint16(bins[which])
        for i in range(size):
            hits[i] = np.uint8(np.uint16(keys[i] >> np.uint32(16)) == wanted)
        hits[size:] = np.uint8(0)
        by_eight = hits.view(np.uint64)
        for group in range((size + 7) // 8):
            if by_eight[group] != np.uint64(0):  # mostly none
                for i in range(8 * group, 8 * group + 8):
                    counts[which, keys[i] & np.uint32(0xFFFF)] += np.int64(hits[i])
        counts[which, 0] = 0  # not asked for
    return False


@kernel
def merge_block(
    base: Any, delta: Any, size: int, factor: float, at: int, cut: float, out_address: int, out_code: int
) -> bool:  # fmt: skip
    """Add the changes whose scores reach a cut, and write what they give."""
    for i in range(size):
        # `<`, not `>=`: comparisons with NaN are false, so a NaN delta is kept.
        base[i] = base[i] if np.float64(score_of(delta[i], factor)) < cut else base[i] + delta[i]
    return bool(encode(base, size, out_code, out_address, at))


_count_by_row, _count_low_by_row, _merge_by_row = by_row(count_keys), by_row(count_low_keys), by_row(merge_block)


@kernel
def count_scores(addresses: Any, codes: Any, count: int, row: int, known: Any, counts: Any, low_sums: Any) -> None:
    """(2),(2),(),(),(k),(BINS),(BINS): per high half of a score's key how many there are, and the sum of low halves.

    `known` is float64: the divergence of the row that the tile is part of, or nothing. Counts and sums are int64.
    """
    _count_by_row(addresses, codes, count, row, known, 0, count, np.empty(BLOCK, np.uint32), counts, low_sums)


@kernel
def count_low_scores(addresses: Any, codes: Any, count: int, row: int, known: Any, bins: Any, counts: Any) -> None:
    """(2),(2),(),(),(k),(b),(b,LOW): per asked bin of scores how often each nonzero low half occurs, int64."""
    keys, hits = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint8)
    _count_low_by_row(addresses, codes, count, row, known, 0, count, keys, hits, bins, counts)


@kernel
def merge_telling(
    addresses: Any, codes: Any, count: int, row: int, known: Any, begin: int, end: int, cut: float, out_address: int,
    out_code: int,
) -> bool:  # fmt: skip
    """(2),(2),(),(),(k),(),(),(): the base, and the model's change where its score reaches a cut, float64.

    Elements of the tile from `begin` to `end` are merged. A score of NaN reaches every cut: a row that holds NaN or
    infinity is the model's. Returns whether a result is NaN or infinite.
    """
    return bool(_merge_by_row(addresses, codes, count, row, known, begin, end, cut, out_address, out_code))
