"""Dot products by fixed blocks, against a plain reference: to the bit, however tiles are cut."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.inputs import stored, tile_of, values
from sdmw.kernels.blocks import GRAIN, LANES
from sdmw.kernels.codes import BF16, DELTA, F16, F32
from sdmw.kernels.dots import PARTIALS, exact_total
from sdmw.statistics.blocks import UNIT_EXPONENT
from sdmw.statistics.gram import GramLook


def dot(one, other):
    """The exact sum of the blocks' sums, as a fraction's numerator over 2**1074."""
    total = 0
    for start in range(0, one.size, GRAIN):
        products = one[start : start + GRAIN].astype(np.float64) * other[start : start + GRAIN].astype(np.float64)
        lanes = np.zeros(LANES)
        for place in range(0, products.size, LANES):
            part = products[place : place + LANES]
            lanes[: part.size] += part
        while lanes.size > 1:
            half = lanes.size // 2
            lanes = lanes[:half] + lanes[half:]
        numerator, denominator = float(lanes[0]).as_integer_ratio()
        total += (numerator << UNIT_EXPONENT) // denominator
    return total


FLOATS = st.floats(-1e300, 1e300)


@example([1.0, 2.0**-53, 1e-323])  # the product of what is left underflows
@given(st.lists(st.one_of(FLOATS, st.sampled_from([1.0, -1.0, 2.0**53, 2.0**-53, 1e-323, 0.1])), max_size=30))
def test_a_sum_is_exact_and_rounded_once(numbers):
    found = exact_total(np.array(numbers, np.float64), len(numbers), np.empty(PARTIALS))
    assert found == math.fsum(numbers)


def test_half_way_what_is_below_decides():
    for below, expected in ((2.0**-200, 1 + 2.0**-52), (0.0, 1.0), (-(2.0**-200), 1.0)):
        assert exact_total(np.array([1.0, 2.0**-53, below]), 3, np.empty(PARTIALS)) == expected


def test_the_widest_sum_needs_no_more_room():
    numbers = 2.0 ** np.arange(-1074.0, 1000, 53)
    assert numbers.size < PARTIALS
    assert exact_total(numbers, numbers.size, np.empty(PARTIALS)) == math.fsum(numbers)


def test_a_sum_with_infinity_or_nan():
    assert exact_total(np.array([1.0, np.inf]), 2, np.empty(PARTIALS)) == np.inf
    assert np.isnan(exact_total(np.array([np.nan, *range(100)]), 101, np.empty(PARTIALS)))


@pytest.mark.parametrize("deltas", [False, True])
@given(seed=st.integers(0, 2**32), count=st.integers(1, 3 * GRAIN), data=st.data())
def test_each_pair_is_the_reference(deltas, seed, count, data):
    rng = np.random.default_rng(seed)
    codes = [data.draw(st.sampled_from([F32, F16, BF16])) for _ in range(3)]
    arrays = [stored(values(rng, count, "normal"), code) for code in codes]
    if deltas and data.draw(st.booleans()):
        codes[2], arrays[2] = DELTA, values(rng, count, "normal")
    look = GramLook(base=True, deltas=deltas)
    counter = look.counter(2)
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    tile = tile_of(arrays, codes)
    for start, stop in itertools.pairwise([0, *cuts, count]):
        counter.add(tile.cut(start, stop))
    vectors = [array.astype(np.float32) for array in arrays]
    if deltas:
        vectors = [v if code == DELTA else v - vectors[0] for v, code in zip(vectors[1:], codes[1:], strict=True)]
    expected = [dot(one, other) for one, other in itertools.combinations_with_replacement(vectors, 2)]
    found = counter.result()
    assert list(found.totals) == expected
    assert found.nonfinite == 0
    assert counter.result() == look.nothing(2)


def test_what_is_not_finite_counts_as_zero():
    array = np.array([1, np.nan, np.inf, -np.inf, 2], np.float32)
    counter = GramLook(base=False, deltas=False).counter(1)
    counter.add(tile_of([array], [F32]))
    found = counter.result()
    assert found.matrix() == [[5.0]]
    assert found.nonfinite == 3
