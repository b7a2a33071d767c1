"""Ranks within rows: sorting, the probabilities that follow, and shares as they should be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.della_linear import probabilities
from sdmw.kernels.ranks import BINS, DIGITS, ascending, bounds_by_rank
from sdmw.methods import all_methods
from sdmw.methods.method import Settings

PATTERNS = st.one_of(
    st.integers(0, 2**32 - 1), st.integers(0, 3), st.sampled_from([0x3F800000, 0x3F810000, 0xFF, 0xFF00, 0x7FC00000])
)


@given(st.lists(PATTERNS, min_size=1, max_size=300))
def test_it_sorts_and_keeps_the_order_of_equal_ones(patterns):
    entries = np.zeros((2, len(patterns)), np.uint64)
    entries[0] = [pattern << 32 | place for place, pattern in enumerate(patterns)]
    found = entries[ascending(entries, len(patterns), np.ones((4, DIGITS), np.int64))]
    assert found.tolist() == sorted(pattern << 32 | place for place, pattern in enumerate(patterns))


def bounds(delta, density, epsilon):
    below = np.abs(delta).view(np.uint32)
    entries, bins = np.zeros((2, delta.size), np.uint64), np.zeros((2, BINS), np.uint32)
    bounds_by_rank(below, delta.size, density, epsilon, entries, np.ones((4, DIGITS), np.int64), bins)
    assert not bins[0].any()
    return below


@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=100),
    st.sampled_from([(0.5, 0.4), (0.3, 0.15), (0.84, 0.15), (0.7, 0.0)]),
)
def test_bounds_are_the_reference(values, given):
    delta = np.array(values, np.float32)
    expected = np.floor(probabilities(delta, *given) * 2.0**32)
    assert bounds(delta, *given).tolist() == expected.tolist()


@given(st.integers(0, 2**32 - 1), st.integers(1, 700), st.sampled_from([0, 1, 3, 50, 10**5]), st.floats(0, 0.4))
def test_patterns_whose_low_halves_are_mostly_zero(seed, size, apart, share):
    """As of deltas between bfloat16 models: few are sorted, in bins with others of low halves or alone."""
    rng = np.random.default_rng(seed)
    high = 0x3C00 + rng.integers(0, apart + 1, size) % 0x4000
    low = rng.integers(0, 3, size) * 0x4001 * (rng.random(size) < share)
    bits = ((high << 16) + low) * (rng.random(size) < 0.9)
    delta = bits.astype(np.uint32).view(np.float32)
    expected = np.floor(probabilities(delta, 0.5, 0.4) * 2.0**32)
    assert bounds(delta, 0.5, 0.4).tolist() == expected.tolist()


def test_equal_magnitudes_share_the_mean_of_their_ranks():
    found = bounds(np.array([3, -1, 1, 0, 3], np.float32), 0.5, 0.25)
    assert found.tolist() == [int(share * 2**32) for share in (0.6875, 0.4375, 0.4375, 0.25, 0.6875)]


def test_nan_ranks_above_all_numbers():
    found = bounds(np.array([np.nan, np.inf, 1, 2], np.float32), 0.5, 0.25)
    assert found.argsort().tolist() == [2, 3, 1, 0]


def objection(method, density, epsilon):
    settings = Settings(
        models=1, base=True, elements=9, rows=1, seed=0, top={"normalize": False, "rescale": True, "lambda": 1.0},
        by_model={"weight": (1.0,), "density": (density,), "epsilon": (epsilon,)},
    )  # fmt: skip
    own = all_methods()[method]
    return own.objection(own.params(settings))


@pytest.mark.parametrize("method", ["della", "della_linear"])
@pytest.mark.parametrize(
    ("density", "epsilon", "fine"),
    [
        (0.5, 0.4, True), (0.84, 0.15, True), (0.16, 0.15, True), (0.5, 0.0, True),
        (1.0, 0.15, True), (1.0, 1.0, True), (0.0, 0.15, True),  # all is kept, or nothing
        (0.85, 0.15, False), (0.9, 0.15, False), (0.15, 0.15, False), (0.1, 0.15, False), (0.5, 0.5, False),
        (0.9999999, 1e-7, False), (1e-9, 1e-9, False),
    ],
)  # fmt: skip
def test_probabilities_lie_between_0_and_1(method, density, epsilon, fine):
    found = objection(method, density, epsilon)
    assert (found is None) == fine
    assert fine or f"density {density:g} with epsilon {epsilon:g}" in found
