"""Bounds hold: against sorting, for data of all kinds; and they are exact where a store decides."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import sdm_w as reference
from reference import survey
from sdmw.stores.bins import StoredBins
from sdmw.stores.cuts import NOTHING, Ranked
from sdmw.stores.law import bounded_weights, weights_of

KS = st.one_of(st.sampled_from([0, 1e-9, 10, 33.3, 50, 99, 99.999999, 100]), st.floats(0, 100))
UNIT = 149


def bins_of(magnitudes):
    """As a store has them."""
    found = survey.magnitudes(np.zeros(len(magnitudes), np.float32), magnitudes)
    rows = np.array([*found["bins"].values()], np.int64).reshape(-1, 4)
    squares = np.stack([rows[:, 3] & 0xFFFFFFFF, rows[:, 3] >> 32], axis=1)
    ends = [np.uint32(each if rows.size else 0).view(np.float32) for each in (found["smallest"], found["largest"])]
    bins = np.array([*found["bins"]], np.uint16)
    return StoredBins(bins, rows[:, 0], rows[:, 0] - rows[:, 1], rows[:, 2], squares, *map(float, ends))


def units(value, power=1):
    """A float32, or its square, as an integer."""
    numerator, denominator = float(value).as_integer_ratio()
    return (numerator << UNIT) ** power // denominator**power


@st.composite
def deltas(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 300))
    kind = draw(st.sampled_from(["normal", "bfloat16", "one bin", "few", "patterns", "mixed"]))
    if kind == "normal":
        return rng.normal(0, 1e-3, count).astype(np.float32)
    if kind == "bfloat16":
        return (rng.normal(0, 1e-3, count).astype(np.float32).view(np.uint32) & 0xFFFF0000).astype(np.uint32).view("f4")
    if kind == "one bin":
        return (0x3F800000 + rng.integers(0, 1 << 16, count)).astype(np.uint32).view(np.float32)
    if kind == "few":
        return rng.choice(np.array([1, 1.0000001, 1.003, -1.003, 0, 2], np.float32), count)
    if kind == "patterns":
        drawn = rng.integers(0, 1 << 32, count, dtype=np.uint32).view(np.float32)
        return np.where(np.isfinite(drawn), drawn, np.float32(0))
    low = np.where(rng.random(count) < 0.5, 0, rng.integers(0, 3, count))
    return (0x3F800000 + (rng.integers(0, 3, count) << 16) + low).astype(np.uint32).view(np.float32)


@given(deltas(), KS)
def test_bounds_hold(data, k):
    ranked, cut = Ranked(bins_of(data)), Ranked(bins_of(data)).cut(k)
    changed = data[data != 0]
    assert ranked.nonzero == changed.size
    threshold = reference.threshold([data], k)
    if threshold is None:
        assert cut == NOTHING
        return
    kept = np.abs(changed[np.abs(changed).astype(np.float64) >= threshold])
    assert cut.threshold[0] <= threshold <= cut.threshold[1]
    assert cut.kept[0] <= kept.size <= cut.kept[1]
    assert cut.magnitude[0] <= sum(map(units, kept)) <= cut.magnitude[1]
    assert cut.squares[0] <= sum(units(each, 2) for each in kept) <= cut.squares[1]
    assert ranked.magnitude == sum(map(units, np.abs(changed)))
    assert ranked.squares == sum(units(each, 2) for each in changed)


def is_exact(cut):
    return all(low == high for low, high in (cut.threshold, cut.kept, cut.magnitude, cut.squares))


@given(deltas())
def test_all_is_known_where_nothing_is_dropped(data):
    cut = Ranked(bins_of(data)).cut(0)
    assert cut == NOTHING or is_exact(cut)


@given(deltas(), KS)
def test_all_is_known_of_single_valued_bins(data, k):
    patterns = np.abs(data).view(np.uint32) & 0xFFFF0000
    for low in (0, 77):
        cut = Ranked(bins_of((patterns + np.uint32(low) * (patterns != 0)).astype(np.uint32).view(np.float32))).cut(k)
        assert cut == NOTHING or is_exact(cut)


def test_the_largest_is_known():
    data = np.array([1, 1.0000001, 1.0009, 3.1, 3.1, 3.14159], np.float32)
    cut = Ranked(bins_of(data)).cut(100)
    assert cut.threshold == (float(data[-1]),) * 2
    assert cut.kept[0] == 1


def test_bounds_within_a_bin_use_its_sums():
    """Less than the tenth that is dropped is kept in no case, and the threshold lies in the bin's upper half."""
    data = (0x3F800000 + np.arange(1, 1 << 16, 16)).astype(np.uint32).view(np.float32)
    cut = Ranked(bins_of(data)).cut(90)
    assert cut.threshold[1] - cut.threshold[0] < 0.6 / 128
    assert cut.kept == (410, data.size)


@given(st.lists(deltas(), min_size=2, max_size=4), KS)
def test_bins_add_up(parts, k):
    whole = bins_of(np.concatenate(parts))
    added = bins_of(parts[0])
    for part in parts[1:]:
        added = added + bins_of(part)
    assert Ranked(added).cut(k) == Ranked(whole).cut(k)


# Weights

SUMS = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 10)), min_size=1, max_size=5)


@given(SUMS, st.sampled_from([-2, -0.5, 0, 0.5, 1, 2, 5.5]))
def test_weights_lie_within_their_bounds(drawn, power):
    sums = [(low, low * (1 + off)) for low, off in drawn]
    bounds = bounded_weights(sums, power)
    for chosen in itertools.product(*sums):
        for weight, (low, high) in zip(weights_of(chosen, power), bounds, strict=True):
            assert low <= weight <= high


def test_a_law_for_every_power():
    assert weights_of([3, 1], 1) == (0.75, 0.25)
    assert weights_of([3, 1], 0) == (0.5, 0.5)
    assert weights_of([3, 1], -1) == (0.25, 0.75)
    assert weights_of([3, 0, 1], -1) == (0.25, 0.0, 0.75)
    assert weights_of([0, 0], -1) == (0.0, 0.0)


@pytest.mark.parametrize("power", [-3, 1, 2])
def test_what_changed_nothing_weighs_nothing(power):
    assert weights_of([0.0, 2.0], power) == (0.0, 1.0)
    assert math.fsum(weights_of([1e-300, 1e300, 5], power)) == pytest.approx(1)
