"""Every kernel also runs as plain Python and gives the same bits: what is compiled is what is written."""

import os
import subprocess
import sys

import pytest

from faults.worlds import ALL
from sdmw.kernels import processor

PROGRAM = """
import sys
import numpy as np
import ml_dtypes
from sdmw.kernels import calls, ready
from sdmw.kernels import bracket, changed, consensus, cuts, divergence, dots, fusion, ram, ranks, single, small
from sdmw.kernels import squares, steps, tiles, vectors
from sdmw.kernels.bins import BINS, LOW, SMALL
from sdmw.kernels.codes import BF16, DELTA, F16, F32

ready.prepare(lambda _once: None, groups=list(calls.CALLS))
rng = np.random.default_rng(5)
count = 300
stored = {F32: np.float32, F16: np.float16, BF16: ml_dtypes.bfloat16}
codes = np.array([BF16, F16, F32], np.int64)
base = rng.normal(0, 1, count).astype(np.float32)
moved = [base, base + rng.normal(0, 0.1, count).astype(np.float32), base * np.float32(1.25)]
arrays = [a.astype(stored[c]) for a, c in zip(moved, codes)]
arrays[2][:9] = [0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 7e4, 65519, 3e38]
addresses = np.array([a.ctypes.data for a in arrays], np.int64)
weights = np.array([0.25, 0.75, 0.5], np.float32)
one = np.float32(1)
results = []

packed = np.zeros((2, tiles.PACKED), np.uint64)
counts, sums = np.zeros((2, BINS), np.int64), np.zeros((2, BINS), np.int64)
edges, listed, sizes = np.array([[0x3D00, 0x3E00], [0, 0x7F80]]), np.zeros((2, 50), np.uint32), np.zeros(2, np.int64)
tiles.count_magnitudes(addresses, codes, count, 4096, packed, counts, sums, edges, listed, sizes)
results += [packed, counts, sums, listed, sizes]

for first, stop in ((0x3D00, 0x3E00), (0, 0x7F80), (0x3D00, 0x7F80), (0x3F10, 0x3F11)):
    outside, brackets = np.zeros((2, 4), np.int64), np.array([[first, stop]] * 2)
    counts, sums = np.zeros((2, BINS), np.int64), np.zeros((2, BINS), np.int64)
    listed, sizes = np.zeros((2, 400), np.uint32), np.zeros(2, np.int64)
    bracket.count_by_bracket(
        addresses, codes, count, brackets, packed, counts, sums, outside, listed, sizes
    )
    results += [packed, counts, sums, outside, sizes, *(row[:size] for row, size in zip(listed, sizes))]
patterns, values = np.zeros((2, SMALL), np.uint32), np.zeros(2)
small.put_patterns(addresses, codes, count, 0, patterns)
numbers, by_exponent = np.zeros((2, 6), np.int64), np.zeros((2, 256), np.int64)
small.decide_all(patterns, count, np.array([10.0, 66.0]), values, numbers, by_exponent)
results += [patterns[:, :count].copy(), values, numbers, by_exponent]
packed[:] = counts[:] = 0
tiles.count_magnitudes(addresses, codes, count, 4096, packed, counts, sums, edges, listed, sizes)

bins = np.array([[int(np.flatnonzero(c)[3]), int(np.flatnonzero(c)[9])] for c in counts], np.int64)
low = np.zeros((2, 2, LOW), np.int64)
tiles.count_low_bits(addresses, codes, count, bins, low)
results.append(low)

for code in stored:
    for keep in (True, False):
        out = np.zeros(count, np.uint32)
        bad = tiles.merge_deltas(
            addresses, codes, count, np.array([0.0625, 1e-45], np.float32), weights[:2], one, np.float32(0.5), keep,
            out.ctypes.data, code,
        )
        results += [out, np.array([bad])]
    out = np.zeros(count, np.uint32)
    bad = tiles.average(addresses, codes, count, weights, np.float32(1.5), out.ctypes.data, code)
    results += [out, np.array([bad])]
    bad = ram.merge_shared(addresses, codes, count, np.float32(0.01), weights[:2], out.ctypes.data, code)
    results += [out.copy(), np.array([bad])]
    bad = single.swap_near(addresses[:2], codes[:2], count, np.float32(0.05), out.ctypes.data, code)
    results += [out.copy(), np.array([bad])]
    for scale in (0.3, 1.0):
        bad = single.scaled(addresses[1:2], codes[1:2], count, np.float32(scale), out.ctypes.data, code)
        results += [out.copy(), np.array([bad])]

for deltas, pairs in ((True, 3), (False, 6)):
    lanes, sums, nonfinite = np.zeros((pairs, 16)), np.zeros((2, pairs)), np.zeros(1, np.int64)
    ended = dots.dots(addresses, codes, count, 65536 - 107, deltas, lanes, sums, nonfinite)
    results += [np.array([ended]), lanes, sums[:ended], nonfinite, np.array([dots.folded(row) for row in lanes])]
found = np.zeros(2, np.int64)
changed.count_changed(addresses[1:], codes[1:], count, found)
results.append(found)
packed, counts, lows = np.zeros(tiles.PACKED, np.uint64), np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
consensus.count_variances(addresses, codes, count, packed, counts, lows)
low = np.zeros(LOW, np.int64)
place = int(np.flatnonzero(counts)[9])
consensus.count_low_variances(addresses, codes, count, place, low)
results += [packed, counts, lows, low]
pattern, sums = np.uint32(place << 16), np.zeros((2, 256, 2), np.int64)
out = np.zeros(count, np.uint32)
for keep_all in (True, False):
    consensus.sum_squares(addresses, codes, count, 70, keep_all, pattern, 90, sums)
    bad = consensus.merge_agreeing(
        addresses, codes, count, 70, keep_all, pattern, 90, weights[:2], out.ctypes.data, F32,
    )
    results += [sums.copy(), out.copy(), np.array([bad])]
sums = np.zeros((2, 256, 2), np.int64)
squares.sum_squares_from(addresses, codes, count, np.array([0.0625, np.inf], np.float32), sums)
results += [sums]
equal = np.zeros((2, 8), np.int64)
delta = np.abs(arrays[1].astype(np.float32) - arrays[0].astype(np.float32))
patterns = np.array([delta[20].view(np.uint32), 0], np.uint32)
cuts.count_equal(addresses, codes, count, 70, np.array([0, -1]), patterns, 65, equal)
found = np.array([[-1, 2], [-1, 2]])
for model in (0, -1):
    cuts.find_equal(addresses, codes, count, 70, model, patterns[model], found[model])
results += [equal, found]
bad = cuts.merge_kept(
    addresses, codes, count, 70, np.array([[0x7F800000, place << 16]] * 2, np.uint32), np.array([[-1, 90]] * 2),
    weights[1:], weights[:2], True, True, one, out.ctypes.data, F32,
)
results += [out.copy(), np.array([bad])]
arrays[1][:9] = 0  # finite
counts, lows, low = np.zeros(65536, np.int64), np.zeros(65536, np.int64), np.zeros((1, LOW), np.int64)
for known in (np.zeros(0), np.array([0.25])):
    fusion.count_scores(addresses, codes, count, 50, known, counts, lows)
    places = np.flatnonzero(counts)
    fusion.count_low_scores(addresses, codes, count, 50, known, places[9:10], low)
    bad = fusion.merge_telling(addresses, codes, count, 50, known, 20, 270, 1e-5, out.ctypes.data, BF16)
    results += [counts, lows, low, out.copy(), np.array([bad])]
tops = np.full(2, -np.inf)
divergence.find_largest(addresses, codes, count, tops)
for totals in (np.zeros(0), np.array([90.0, 70.0])):
    lanes, sums = np.zeros((1 if totals.size else 2, 16)), np.zeros((2, 2))
    ended = divergence.sum_by_block(addresses, codes, count, 65536 - 107, tops, totals, lanes, sums)
    results += [tops, lanes, sums[:ended]]
both = np.array([addresses[0], addresses[2]])
sums, shares = np.zeros((3, 60)), np.zeros((2, 60), np.float32)
vectors.add_column_products(addresses, codes, count, 70, 60, True, sums)
vectors.shares_of_columns(sums, 0.3, shares)
bad = vectors.merge_columns(addresses, codes, count, 70, True, shares, out.ctypes.data, F16)
results += [sums, shares, out.copy(), np.array([bad])]
bad = vectors.merge_arc_rows(both, codes[[0, 2]], count, 60, 10, 290, False, 0.3, out.ctypes.data, F32)
results += [out.copy(), np.array([bad])]
bad = vectors.merge_stock_rows(addresses, codes, count, 60, 10, 290, out.ctypes.data, F32)
results += [out.copy(), np.array([bad])]
many, partials = rng.normal(0, 1, 300) * 2.0 ** rng.integers(-400, 400, 300), np.empty(dots.PARTIALS)
results.append(np.array([dots.exact_total(many, number, partials) for number in range(300)]))
keys, shares, epsilons = np.array([5, 2**63 + 1], np.uint64), np.array([0.5, 1.0]), np.array([0.4, 0.1])
sums = np.zeros((2, 2, 256), np.int64)
ranks.sum_kept_by_rank(addresses, codes, count, 600, 100, keys, shares, epsilons, sums)
out = np.zeros(count, np.uint32)
bad = ranks.merge_by_rank(
    addresses, codes, count, 600, 100, 30, 270, keys, shares, epsilons, weights[:2], weights[1:], True, True, one,
    out.ctypes.data, F32,
)
results += [sums.copy(), out.copy(), np.array([bad])]
starts = np.array([0, 0x3C000000, 0x3D800000, 0x3E000000] * 2, np.uint32)
ends, bounds = np.array([0, 4, 8]), np.arange(1, 9).astype(np.uint32) << np.uint32(28)
met, lowest, highest = np.zeros(8, np.int64), np.full(8, 0xFFFFFFFF, np.uint32), np.zeros(8, np.uint32)
steps.count_ranges(addresses, codes, count, starts, ends, met, lowest, highest)
listed, sizes = np.zeros((2, 20), np.uint32), np.zeros(2, np.int64)
upper = bounds + np.uint32(1 << 27)
steps.list_open(addresses, codes, count, 600, keys, starts, ends, bounds, upper, listed, sizes)
results += [met, lowest, highest, listed, sizes]
for ends in (ends, np.array([0, 4, 4])):  # of one of which all is kept
    steps.sum_kept_by_step(addresses, codes, count, 600, keys, starts, ends, bounds, sums)
    bad = steps.merge_by_step(
        addresses, codes, count, 600, keys, starts, ends, bounds, weights[:2], weights[1:], True, True, one,
        out.ctypes.data, F32,
    )
    results += [sums.copy(), out.copy(), np.array([bad])]
shared = np.zeros((2, 2), np.int64)
ram.count_shared(addresses, codes, count, np.float32(0.01), shared)
results.append(shared)
sys.stdout.buffer.write(b"".join(r.tobytes() for r in results))
"""


def output(**environment):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
    ).stdout


def test_compiled_and_plain_kernels_agree():
    plain, compiled = output(NUMBA_DISABLE_JIT="1"), output()
    assert len(plain) > 1_000_000
    assert plain == compiled


@pytest.mark.skipif(not ALL, reason="compiles all kernels anew; scripts/test --all")
@pytest.mark.parametrize("name", ["generic", *processor.LEVELS])
def test_kernels_of_other_processors_agree(name):
    """A wheel brings those of the levels; this processor runs its own level's and lower ones'."""
    levels = [*processor.LEVELS, None]
    if name in processor.LEVELS and levels.index(name) < levels.index(processor.level()):
        pytest.skip(f"the processor has not what {name} has")
    assert output(NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES="") == output()
