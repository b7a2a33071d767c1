"""The two-pass percentile against numpy.percentile, bit for bit, and what it keeps."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.inputs import inputs, tile_of
from reference.sdm_w import approximate_threshold, deltas, threshold
from sdmw.statistics import percentile
from sdmw.statistics.histogram import UNIT_EXPONENT, HistogramLook
from sdmw.statistics.low_bits import LowBits, LowBitsLook

ks = st.one_of(st.sampled_from([0.0, 10.0, 50.0, 90.0, 100.0]), st.floats(0, 100))


def look(kind, arrays, codes):
    models = len(arrays) - 1
    counter = kind.counter(models)
    arrays, codes = ([each[0], *(each[1 + n] for n in kind.reads(models))] for each in (arrays, codes))
    for start in range(0, arrays[0].size, 5000):
        counter.add(tile_of([a[start : start + 5000] for a in arrays], codes))
    return counter.result()


@given(inputs(), ks)
def test_exact_is_numpys_percentile(given_inputs, k):
    arrays, codes = given_inputs
    base, *tunes = (array.astype(np.float32) for array in arrays)
    histograms = look(HistogramLook(), arrays, codes)
    opened = look(LowBitsLook(tuple(percentile.bins_to_open(h, k) for h in histograms)), arrays, codes)
    for tune, histogram, low_bits in zip(tunes, histograms, opened, strict=True):
        delta = deltas(base, tune)
        expected = threshold([delta], k)
        found = percentile.exact(histogram, low_bits, k)
        assert found.value == expected
        finite = np.abs(delta[np.isfinite(delta)])
        stay = finite[(finite.astype(np.float64) >= expected) & (finite != 0)] if expected is not None else finite[:0]
        assert percentile.kept(histogram, low_bits, found.pattern) == (stay.size, exact_sum(stay))
        assert (finite.view(np.uint32) >= found.pattern).sum() == stay.size


@given(inputs(), ks)
def test_approximate_is_the_lower_edge_of_the_ranks_bin(given_inputs, k):
    arrays, codes = given_inputs
    base, *tunes = (array.astype(np.float32) for array in arrays)
    for tune, histogram in zip(tunes, look(HistogramLook(), arrays, codes), strict=True):
        delta = deltas(base, tune)
        expected, in_bin = approximate_threshold([delta], k)
        found = percentile.approximate(histogram, k)
        assert (found.value, found.rank_error) == (expected, in_bin)
        finite = np.abs(delta[np.isfinite(delta)])
        stay = finite[(finite.astype(np.float64) >= expected) & (finite != 0)] if expected is not None else finite[:0]
        assert percentile.kept(histogram, LowBits({}, {}), found.pattern) == (stay.size, exact_sum(stay))


def test_a_bin_whose_low_bits_are_all_zero_need_not_be_opened():
    """As between bfloat16 models, where most are: no other look at the data is taken for them."""
    patterns = np.array([0x3F000000] * 2 + [0x3F010000, 0x3F010001] + [0x3F020000] * 2, np.uint32)
    (found,) = look(HistogramLook(), [np.zeros(6, np.float32), patterns.view(np.float32)], [0, 0])
    assert percentile.bins_to_open(found, 0) == ()
    assert percentile.bins_to_open(found, 50) == (0x3F01,)
    assert percentile.bins_to_open(found, 100) == ()


@given(inputs(models=st.just(1)), st.integers(1, 9000))
def test_low_bits_in_parts_are_those_of_the_whole(given_inputs, cut):
    arrays, codes = given_inputs
    (histogram,) = look(HistogramLook(), arrays, codes)
    opening = LowBitsLook((percentile.bins_to_open(histogram, 30),))
    (whole,) = look(opening, arrays, codes)
    parts = [look(opening, [a[:cut] for a in arrays], codes)]
    if cut < arrays[0].size:
        parts.append(look(opening, [a[cut:] for a in arrays], codes))
    total = parts[0][0]
    for (part,) in parts[1:]:
        total = total + part
    for place in whole.values:
        np.testing.assert_array_equal(total.values[place], whole.values[place])
        np.testing.assert_array_equal(total.counts[place], whole.counts[place])


def exact_sum(magnitudes):
    total = sum((Fraction(float(x)) for x in magnitudes), Fraction(0)) * (1 << UNIT_EXPONENT)
    assert total.denominator == 1
    return int(total)


def test_the_smallest_pattern_from_a_value_between_two_float32():
    below = np.float32(0.1)
    above = np.nextafter(below, np.float32(1))
    between = (float(below) + float(above)) / 2
    for value, expected in ((float(below), below), (between, above), (np.nextafter(float(below), 1), above)):
        assert percentile.smallest_pattern_from(value) == int(expected.view(np.uint32))


@pytest.mark.parametrize("kind", [HistogramLook(), LowBitsLook(((), (3,)))])
def test_a_tile_of_other_models_than_are_counted_is_refused(kind):
    """A kernel would write beyond its arrays."""
    arrays = [np.zeros(10, np.float32)] * 4
    with pytest.raises(ValueError, match="a tile of 3 models for a counter of"):
        kind.counter(2).add(tile_of(arrays, [0] * 4))


def test_low_bits_read_the_models_that_they_are_asked_of():
    rng = np.random.default_rng(3)
    base, *tunes = (rng.normal(0, 1, 500).astype(np.float32) for _ in range(4))
    opened = tuple(percentile.bins_to_open(h, 50) for h in look(HistogramLook(), [base, *tunes], [0] * 4))
    asked = (opened[0], (), opened[2])
    some, whole = look(LowBitsLook(asked), [base, *tunes], [0] * 4), look(LowBitsLook(opened), [base, *tunes], [0] * 4)
    assert LowBitsLook(asked).reads(3) == (0, 2)
    assert some[1].values == {}
    for model in (0, 2):
        for place in opened[model]:
            np.testing.assert_array_equal(some[model].counts[place], whole[model].counts[place])
