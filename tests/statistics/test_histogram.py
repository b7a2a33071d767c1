"""Histograms: additive, exact sums, zeros and infinities apart."""

import itertools
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernels.inputs import inputs, tile_of
from reference.sdm_w import deltas
from sdmw.statistics.histogram import UNIT_EXPONENT, HistogramLook


def measured(arrays, codes, cuts=()):
    """One histogram a model, from the tile cut at places."""
    edges = [0, *sorted({c % (arrays[0].size + 1) for c in cuts}), arrays[0].size]
    parts = []
    for start, stop in itertools.pairwise(edges):
        if start < stop:
            counter = HistogramLook().counter(len(arrays) - 1)
            counter.add(tile_of([a[start:stop] for a in arrays], codes))
            parts.append(counter.result())
    total = parts[0]
    for part in parts[1:]:
        total = tuple(a + b for a, b in zip(total, part, strict=True))
    return total


@given(inputs(), st.lists(st.integers(0, 10_000), max_size=4))
def test_measuring_in_parts_is_measuring_the_whole(given_inputs, cuts):
    arrays, codes = given_inputs
    assert measured(arrays, codes, cuts) == measured(arrays, codes)


@given(inputs())
def test_counts_and_sums_are_those_of_the_deltas(given_inputs):
    arrays, codes = given_inputs
    base, *tunes = (array.astype(np.float32) for array in arrays)
    for histogram, tune in zip(measured(arrays, codes), tunes, strict=True):
        magnitudes = np.abs(deltas(base, tune))
        finite = magnitudes[np.isfinite(magnitudes)]
        assert histogram.nonzero == np.count_nonzero(finite)
        assert histogram.nonfinite == magnitudes.size - finite.size
        exact = sum((Fraction(float(x)) for x in finite), Fraction(0))
        assert Fraction(histogram.sum_from(0), 1 << UNIT_EXPONENT) == exact


@given(inputs(models=st.just(1)))
def test_a_model_that_is_the_base_itself_has_no_deltas(given_inputs):
    """By its address: the tensors that an adapter leaves as they are; its NaN too are no changes."""
    (base, tune), (code, other) = given_inputs
    itself, changed = measured([base, base, tune], [code, code, other])
    assert itself.bins.size == 0
    assert changed == measured([base, tune], [code, other])[0]


@given(inputs(models=st.just(1)))
def test_ranks_are_found_in_their_bins(given_inputs):
    arrays, codes = given_inputs
    base, tune = (array.astype(np.float32) for array in arrays)
    magnitudes = np.abs(deltas(base, tune))
    ranked = np.sort(magnitudes[np.isfinite(magnitudes) & (magnitudes != 0)])
    (histogram,) = measured(arrays, codes)
    for rank in {0, ranked.size // 3, ranked.size - 1} if ranked.size else ():
        place = histogram.place_of_rank(rank)
        assert histogram.bins[place] == ranked[rank].view(np.uint32) >> 16
        assert histogram.rank_before(place) == (ranked.view(np.uint32) >> 16 < histogram.bins[place]).sum()


def test_sums_are_exact_beyond_64_bits():
    """2**40 deltas of the largest float32 in one bin: the sum has 168 bits."""
    from sdmw.statistics.histogram import Histogram

    count = 1 << 40
    histogram = Histogram(np.array([0x7F7F], np.uint16), np.array([count]), np.array([count * 0xFFFF]))
    assert histogram.sum_from(0) == count * int(np.finfo(np.float32).max) << UNIT_EXPONENT
    doubled = histogram + histogram
    assert doubled.nonzero == 2 * count
