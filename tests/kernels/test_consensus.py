"""Variances over models, exact sums of squares, and cuts that keep exactly as many elements as asked."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.inputs import inputs, tile_of
from reference.sce import variance
from sdmw.kernels import consensus
from sdmw.kernels.bins import FIRST_NONFINITE_BIN
from sdmw.kernels.chance import EXPONENTS
from sdmw.kernels.squares import add_squares
from sdmw.methods import all_methods
from sdmw.methods.sce import SceParams
from sdmw.statistics.look import Measured
from sdmw.statistics.squares import UNIT_EXPONENT
from sdmw.statistics.variance import SquaresLook, VarianceLook


def deltas_of(arrays):
    base, *models = (array.astype(np.float32) for array in arrays)
    with np.errstate(over="ignore", invalid="ignore"):
        return [model - base for model in models]


@given(inputs())
def test_variances_are_counted_by_bin(drawn):
    arrays, codes = drawn
    counter = VarianceLook().counter(len(arrays) - 1)
    counter.add(tile_of(arrays, codes))
    found = counter.result()
    with np.errstate(over="ignore", invalid="ignore"):
        patterns = np.abs(variance(deltas_of(arrays))).view(np.uint32)
    finite = patterns[(patterns != 0) & (patterns < FIRST_NONFINITE_BIN << 16)]
    bins, counts = np.unique(finite >> 16, return_counts=True)
    assert found.bins[: found.finite_bins].tolist() == bins.tolist()
    assert found.counts[: found.finite_bins].tolist() == counts.tolist()
    lows = [int((finite[finite >> 16 == place] & 0xFFFF).sum()) for place in bins]
    assert found.low_sums[: found.finite_bins].tolist() == lows
    assert counter.result() == VarianceLook().nothing(1)


@given(inputs())
def test_sums_of_squares_are_exact(drawn):
    arrays, codes = drawn
    counter = SquaresLook(None, 0).counter(len(arrays) - 1)
    counter.add(tile_of(arrays, codes))
    expected = [
        sum(Fraction(float(x)) ** 2 for x in delta[np.isfinite(delta)]) * 2**UNIT_EXPONENT
        for delta in deltas_of(arrays)
    ]
    assert list(counter.result()) == expected


def decided(arrays, codes, share):
    """What sce decides of one tensor, looked at as a whole; and how often."""
    method, params = all_methods()["sce"], SceParams(len(arrays) - 1, share, arrays[0].size)
    have, looks = Measured(), 0
    while look := method.needs(params, have):
        counter = look.counter(params.models)
        for start, stop in look.ranges() or [(0, arrays[0].size)]:
            counter.add(tile_of(arrays, codes).cut(start, stop))
        have, looks = have.with_look(type(look), {"w": counter.result()}), looks + 1
    return method.decide_layer(params, have), looks


@given(inputs(models=st.just(2)), st.floats(0, 0.999))
def test_exactly_so_many_are_kept_and_of_equal_ones_the_first(drawn, share):
    arrays, codes = drawn
    deltas = deltas_of(arrays)
    with np.errstate(over="ignore", invalid="ignore"):
        varied = variance(deltas)
    if not np.isfinite(varied).all():
        return
    found, _ = decided(arrays, codes, share)
    count = int(share * np.count_nonzero(varied))
    assert (found.varied, found.kept) == (np.count_nonzero(varied), count)
    kept = np.array(deltas)
    scratch = np.empty((2, varied.size)), np.empty(varied.size, np.float32)
    cut = np.uint32(found.cut.pattern).view(np.float32)
    consensus.keep_varied(kept, varied.size, 0, cut, found.cut.element, *scratch)
    mask = np.zeros(varied.size, bool)
    mask[np.argsort(-varied, kind="stable")[:count]] = True
    np.testing.assert_array_equal(kept, np.where(mask, deltas, np.float32(0)))


@pytest.mark.parametrize("models", [2, 3, 5, 7])
def test_what_all_models_have_alike_does_not_vary(models):
    base, tune = np.random.default_rng(1).normal(0, 0.02, (2, 4000)).astype(np.float32)
    other = tune.copy()
    other[:10] += 1
    found, _ = decided([base, other, *[tune] * (models - 1)], [0] * (models + 1), 0.5)
    assert (found.varied, found.kept) == (10, 5)


def test_small_changes_weigh_the_same():
    """METHODS_FACTS.md: their mean squares add up to less than 1e-6."""
    base = np.zeros(8, np.float32)
    for changes, weights in (((1e-4, 5e-4), [0.5, 0.5]), ((1e-3, 5e-3), [1 / 26, 25 / 26])):
        found, looks = decided([base, *(np.full(8, change, np.float32) for change in changes)], [0, 0, 0], 1.0)
        assert looks == 1
        assert found.equal == (weights == [0.5, 0.5])
        np.testing.assert_allclose(found.weights, weights, rtol=1e-6)


def test_nan_is_kept():
    deltas = np.array([[np.nan, 1, 2], [0, 1, 5]], np.float32)
    consensus.keep_varied(deltas, 3, 0, np.float32(np.inf), -1, np.empty((2, 3)), np.empty(3, np.float32))
    np.testing.assert_array_equal(deltas, [[np.nan, 0, 0], [0, 0, 0]])


@given(st.integers(0, 2**32 - 1), st.integers(1, 1024), st.integers(1, 254), st.integers(0, 40), st.booleans())
def test_sums_of_squares_are_exact_over_any_exponents(seed, size, lowest, spread, whole):
    """Whether the exponents of a block are near each other or not, at either end of their range."""
    rng = np.random.default_rng(seed)
    exponents = np.minimum(rng.integers(lowest, lowest + spread + 1, size), 254)
    mantissas = rng.integers(0, 1 << 23, size) if whole else (1 << 23) - 1 - rng.integers(0, 2, size)
    bits = exponents << 23 | mantissas | rng.integers(0, 2, size) << 31
    values = (bits * (rng.random(size) < 0.9)).astype(np.uint32).view(np.float32)
    sums = np.zeros((EXPONENTS, 2), np.int64)
    add_squares(values, size, np.full((2, 1024), np.nan), sums)
    found = sum(
        ((upper << 24) + lower) << 2 * (max(exponent, 1) - 1) for exponent, (upper, lower) in enumerate(sums.tolist())
    )
    assert found == sum(int(value * 2.0**149) ** 2 for value in values.astype(np.float64))
    assert not sums[EXPONENTS - 1].any()
