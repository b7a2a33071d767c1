"""The changes of one model that matter most, by how far its rows are from the base's: arcee_fusion.

A row's divergence is that of the softmax of the model's values from that of the base's. Tiles hold whole rows.
Source: METHODS.md, section 3.
"""

import math
from typing import Any

import numpy as np

from sdmw.kernels.blocks import GRAIN, LANES
from sdmw.kernels.codes import DELTA
from sdmw.kernels.dots import PARTIALS, exact_total, folded
from sdmw.kernels.jit import bits_of, kernel
from sdmw.kernels.tiles import BLOCK, decode, encode
from sdmw.kernels.voting import deltas_of

BINS = 1 << 16  # of scores, by the high half of their key; a score may be negative
_ADDED = 1e-8  # to each share
_NAN = np.uint32(0x7FC00000)


@kernel
def block_sums(values: Any, size: int, lanes: Any, sums: Any) -> int:
    """The sums of blocks of GRAIN float64 by LANES lanes, in `sums`. Returns how many there are."""
    number = 0
    for start in range(0, size, GRAIN):
        stop = min(start + GRAIN, size)
        whole = start + (stop - start) // LANES * LANES
        for i in range(start, whole, LANES):
            for lane in range(LANES):
                lanes[lane] += values[i + lane]
        for i in range(whole, stop):
            lanes[i - whole] += values[i]
        sums[number] = folded(lanes)
        number += 1
    return number


@kernel
def divergence(
    addresses: Any, codes: Any, start: int, row: int, base: Any, delta: Any, shares: Any, lanes: Any, sums: Any,
    partials: Any,
) -> float:  # fmt: skip
    """The sum of p * ln(p / q) over the row that begins at an element of the tile: p of the model, q of the base.

    Both are softmax in float64, and 1e-8 more. `shares` is (2,r) float64 scratch. NaN where a value is NaN or infinite.
    """
    top_p, top_q = -np.inf, -np.inf
    for at in range(0, row, BLOCK):
        size = min(BLOCK, row - at)
        decode(addresses[0], codes[0], start + at, size, base)
        decode(addresses[1], codes[1], start + at, size, delta)
        for i in range(size):
            model = np.float64(base[i] + delta[i] if codes[1] == DELTA else delta[i])
            below = np.float64(base[i])
            shares[0, at + i], shares[1, at + i] = model, below
            top_p, top_q = max(top_p, model), max(top_q, below)
    for which in range(2):
        share, top = shares[which], top_q if which else top_p
        for i in range(row):
            share[i] = math.exp(share[i] - top)
        total = exact_total(sums, block_sums(share, row, lanes, sums), partials)
        for i in range(row):
            share[i] = share[i] / total + _ADDED
    p, q = shares[0], shares[1]
    for i in range(row):
        p[i] = p[i] * math.log(p[i] / q[i])
    return exact_total(sums, block_sums(p, row, lanes, sums), partials)


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


@kernel
def count_scores(addresses: Any, codes: Any, count: int, row: int, counts: Any, low_sums: Any) -> None:
    """(2),(2),(),(),(BINS),(BINS): per high half of a score's key how many there are, and the sum of their low halves.

    Counts and sums are int64.
    """
    base, delta = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    shares, lanes = np.empty((2, row), np.float64), np.zeros(LANES, np.float64)
    sums, partials = np.empty(row // GRAIN + 1, np.float64), np.empty(PARTIALS, np.float64)
    for start in range(0, count, row):
        factor = divergence(addresses, codes, start, row, base, delta, shares, lanes, sums, partials)
        for at in range(start, start + row, BLOCK):
            size = min(BLOCK, start + row - at)
            decode(addresses[0], codes[0], at, size, base)
            deltas_of(addresses[1], codes[1], at, size, base, delta)
            for i in range(size):
                key = key_of(score_of(delta[i], factor))
                counts[key >> np.uint32(16)] += 1
                low_sums[key >> np.uint32(16)] += np.int64(key & np.uint32(0xFFFF))


@kernel
def count_low_scores(addresses: Any, codes: Any, count: int, row: int, bins: Any, counts: Any) -> None:
    """(2),(2),(),(),(b),(b,LOW): per asked bin of scores how often each nonzero low half occurs, int64."""
    base, delta = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    shares, lanes = np.empty((2, row), np.float64), np.zeros(LANES, np.float64)
    sums, partials = np.empty(row // GRAIN + 1, np.float64), np.empty(PARTIALS, np.float64)
    for start in range(0, count, row):
        factor = divergence(addresses, codes, start, row, base, delta, shares, lanes, sums, partials)
        for at in range(start, start + row, BLOCK):
            size = min(BLOCK, start + row - at)
            decode(addresses[0], codes[0], at, size, base)
            deltas_of(addresses[1], codes[1], at, size, base, delta)
            for i in range(size):
                key = key_of(score_of(delta[i], factor))
                for which in range(bins.size):
                    if np.int64(key >> np.uint32(16)) == bins[which] and key & np.uint32(0xFFFF):
                        counts[which, key & np.uint32(0xFFFF)] += 1


@kernel
def merge_telling(
    addresses: Any, codes: Any, count: int, row: int, begin: int, end: int, cut: float, out_address: int, out_code: int
) -> bool:
    """(2),(2),(),(),(),(),(): the base, and the model's change where its score reaches a cut, float64.

    Elements of the tile from `begin` to `end` are merged. A score of NaN reaches every cut: a row that holds NaN or
    infinity is the model's. Returns whether a result is NaN or infinite.
    """
    base, delta = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    shares, lanes = np.empty((2, row), np.float64), np.zeros(LANES, np.float64)
    sums, partials = np.empty(row // GRAIN + 1, np.float64), np.empty(PARTIALS, np.float64)
    bad = False
    for start in range(0, count, row):
        factor = divergence(addresses, codes, start, row, base, delta, shares, lanes, sums, partials)
        last = min(start + row, end)
        for at in range(max(start, begin), last, BLOCK):
            size = min(BLOCK, last - at)
            decode(addresses[0], codes[0], at, size, base)
            deltas_of(addresses[1], codes[1], at, size, base, delta)
            for i in range(size):
                # `<`, not `>=`: comparisons with NaN are false, so a NaN delta is kept.
                base[i] = base[i] if np.float64(score_of(delta[i], factor)) < cut else base[i] + delta[i]
            bad |= encode(base, size, out_code, out_address, at - begin)
    return bad
