"""Counting by a bracket tells what the histogram of all bins tells, or that it does not know."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.inputs import inputs, tile_of
from sdmw.kernels.bins import FIRST_NONFINITE_BIN
from sdmw.statistics import bracket, percentile
from sdmw.statistics.bracket import BracketLook
from sdmw.statistics.histogram import HistogramLook
from sdmw.statistics.low_bits import LowBits, LowBitsLook

END = FIRST_NONFINITE_BIN
ks = st.sampled_from([0.0, 10.0, 50.0, 99.9, 100.0])


def counted(look, arrays, codes, step):
    """A histogram a model, measured in pieces of `step` elements, each of two tiles."""
    counter, total = look.counter(len(arrays) - 1), look.nothing(len(arrays) - 1)
    for start in range(0, arrays[0].size, step):
        for part in np.array_split(np.arange(start, min(start + step, arrays[0].size)), 2):
            if part.size:
                counter.add(tile_of([each[part[0] : part[-1] + 1] for each in arrays], codes))
        total = look.add(total, counter.result())
    return total


def decided(histogram, low_bits, k):
    """What a percentile asks of a histogram whose ranks are known."""
    cut = percentile.exact(histogram, low_bits, k)
    return cut, percentile.kept(histogram, low_bits, cut.pattern)


def agrees(found, truth, arrays, codes, k):
    """Whether the ranks were known; where they were, all of it is as the whole histogram has it."""
    assert (found.nonzero, found.nonfinite) == (truth.nonzero, truth.nonfinite)
    first, stop = found.outside.first, found.outside.stop
    assert found == truth.within(first, stop)
    if not percentile.is_known(found, k):
        return False
    bins = percentile.bins_to_open(found, k)
    if found.near.covers(bins):
        (looked,) = counted(LowBitsLook((bins,)), arrays, codes, arrays[0].size) if bins else (LowBits({}, {}),)
        assert decided(found, found.near.low_bits(bins), k) == decided(truth, looked, k)
    return True


@pytest.mark.parametrize("spread", [0, 4])
@given(inputs(), ks, st.sampled_from([300, 2000, 9000]))
def test_what_is_known_is_what_all_bins_tell(spread, given_inputs, k, step):
    arrays, codes = given_inputs
    models = len(arrays) - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bracket, "SPREAD", spread)
        patch.setattr(bracket, "HALF_MARGIN", 0.01)
        found = counted(BracketLook((k,) * models), arrays, codes, step)
    truths = counted(HistogramLook(), arrays, codes, step)
    for one, truth, array, code in zip(found, truths, arrays[1:], codes[1:], strict=True):
        agrees(one, truth, [arrays[0], array], [codes[0], code], k)


def against_zero(deltas):
    """A base of zeros and a fine-tune with these deltas, and their codes."""
    deltas = np.asarray(deltas, np.float32)
    return [np.zeros_like(deltas), deltas], [0, 0]


def of(deltas, k, tile=None):
    """The bracket's histogram of one fine-tune whose base is zero, counted tile by tile; whether it knows its ranks."""
    arrays, codes = against_zero(deltas)
    counter, size = BracketLook((k,)).counter(1), arrays[0].size
    for start in range(0, size, tile or size):
        counter.add(tile_of([each[start : start + (tile or size)] for each in arrays], codes))
    (found,), (truth,) = counter.result(), counted(HistogramLook(), arrays, codes, size)
    return found, agrees(found, truth, arrays, codes, k)


def normal(size, seed=0):
    return np.random.default_rng(seed).normal(0, 1e-3, size).astype(np.float32)


CASES = {
    "alike throughout": (normal(300_000), 10.0),
    "the smallest, of subnormals": (np.arange(1, 100_000, dtype=np.uint32).view(np.float32), 0.0),
    "the smallest": (normal(100_000), 0.0),
    "the largest": (normal(100_000), 100.0),
    "an outlier in every block": (np.where(np.arange(100_000) % 2000 == 7, np.float32(3e38), normal(100_000)), 10.0),
    "sums that are not exact": (np.where(np.arange(100_000) % 3 == 0, np.float32(1e30), normal(100_000)), 10.0),
    "all equal": (np.full(100_000, 0.5), 50.0),
    "two values": (np.where(np.arange(100_000) % 2, 0.5, 0.25), 50.0),
    "mostly zeros": (np.where(np.arange(100_000) % 1000 == 0, normal(100_000), 0), 10.0),
    "a few": (normal(3), 50.0),
    "one": (normal(1), 50.0),
    "none": (np.zeros(5000), 50.0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_ranks_are_known_where_the_sample_is_like_the_rest(name):
    deltas, k = CASES[name]
    assert of(deltas, k)[1]


@pytest.mark.parametrize("k", [0.0, 50.0, 100.0])
def test_nan_and_infinity_are_counted_apart(k):
    deltas = normal(50_000)
    deltas[[5, 20_000]] = np.nan
    deltas[[9, 49_999]] = -np.inf
    found, known = of(deltas, k)
    assert (found.nonfinite, known) == (4, True)


def test_a_tensor_that_rises_is_known_not_to_be_known():
    """Its first tile tells nothing of the others, and so do brackets that have no bin in common."""
    rising = np.sort(np.abs(normal(400_000)))
    _, known = of(rising, 50.0, tile=100_000)
    assert not known
    one, two, three, four = (of(part, 50.0)[0] for part in np.split(rising, 4))
    whole = one + two + three + four
    assert whole.nonzero == np.count_nonzero(rising)
    assert not percentile.is_known(whole, 50.0)


def test_a_model_that_first_changes_late_gets_its_bracket_then():
    deltas = np.concatenate([np.zeros(100_000, np.float32), normal(200_000)])
    found, known = of(deltas, 10.0, tile=100_000)
    assert known
    assert (found.outside.first, found.outside.stop) != (0, END)


def test_more_than_can_be_listed_is_not_listed():
    """The histogram tells which bins' low bits have to be looked at."""
    deltas = np.random.default_rng(0).uniform(1, 1.001, 1 << 18).astype(np.float32)
    found, known = of(deltas, 50.0)
    assert known
    assert not found.near.covers(percentile.bins_to_open(found, 50.0))


def test_a_new_tensor_gets_its_own_bracket():
    counter = BracketLook((10.0,)).counter(1)
    brackets = []
    for name, scale in (("a", 1), ("b", 1000), ("b", 1)):
        deltas = normal(50_000) * np.float32(scale)
        tile = replace(tile_of([np.zeros_like(deltas), deltas], [0, 0]), tensor=name)
        counter.add(tile)
        (found,) = counter.result()
        brackets.append(found.outside.first)
    assert brackets[0] < brackets[1] == brackets[2]


def test_a_better_sample_takes_the_place_of_a_small_one():
    """A large tensor may begin with a few elements that go before the first block of the output's file."""
    deltas, counter = normal(300_000), BracketLook((10.0,)).counter(1)
    sizes = []
    for start, stop in ((0, 3), (3, 100_000), (100_000, 300_000)):
        arrays, codes = against_zero(deltas[start:stop])
        counter.add(tile_of(arrays, codes))
        (found,) = counter.result()
        sizes.append(found.outside.stop - found.outside.first)
    assert sizes[0] > 10 * sizes[1] == 10 * sizes[2]


def test_sums_of_many_blocks_are_carried():
    """Each block above adds up to 2**52 units of the bracket's last place: 4,096 of them would fill 64 bits."""
    deltas = np.full(1 << 21, 0.31, np.float32)
    deltas[::5] = np.float32(2**-20) * (1 + np.arange(deltas[::5].size, dtype=np.float32) / 2**20)
    counter, truth = BracketLook((10.0,)).counter(1), HistogramLook().counter(1)
    arrays, codes = against_zero(deltas)
    for _ in range(5):
        counter.add(tile_of(arrays, codes))
        truth.add(tile_of(arrays, codes))
    (found,), (whole,) = counter.result(), truth.result()
    assert found.outside.sum_above >> 52 > 5 << 20
    assert found == whole.within(found.outside.first, found.outside.stop)


@pytest.mark.parametrize("k", [10.0, 50.0, 90.0])
def test_what_a_piece_lists_finds_room(k):
    """One worker may take all of its tiles."""
    counter = BracketLook((k,)).counter(1)
    for number in range(8):
        arrays, codes = against_zero(normal(1 << 19, number))
        counter.add(tile_of(arrays, codes))
    (found,) = counter.result()
    assert percentile.is_known(found, k)
    assert found.near.covers(percentile.bins_to_open(found, k))
