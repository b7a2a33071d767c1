"""What is listed near a percentile is what another look would find, or is known not to be known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.inputs import inputs, tile_of
from sdmw.statistics import histogram as histograms
from sdmw.statistics import near, percentile
from sdmw.statistics.histogram import HistogramLook
from sdmw.statistics.low_bits import LowBitsLook

ks = st.sampled_from([0.0, 10.0, 50.0, 99.9, 100.0])


def counted(look, arrays, codes, step):
    """A statistic a model, measured in pieces of `step` elements, each of two tiles."""
    models, total = len(arrays) - 1, None
    arrays, codes = ([each[0], *(each[1 + n] for n in look.reads(models))] for each in (arrays, codes))
    for start in range(0, arrays[0].size, step):
        counter = look.counter(models)
        for part in np.array_split(np.arange(start, min(start + step, arrays[0].size)), 2):
            if part.size:
                counter.add(tile_of([a[part[0] : part[-1] + 1] for a in arrays], codes))
        result = counter.result()
        total = result if total is None else tuple(a + b for a, b in zip(total, result, strict=True))
    return total


@pytest.mark.parametrize("sample", [50, 1 << 17])
@given(inputs(), ks, st.sampled_from([300, 2000, 9000]))
def test_what_was_listed_is_what_another_look_finds(sample, given_inputs, k, step):
    arrays, codes = given_inputs
    models = len(arrays) - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histograms, "SAMPLE", sample)
        plain = counted(HistogramLook(), arrays, codes, step)
        listed = counted(HistogramLook((k,) * models), arrays, codes, step)
    assert listed == plain
    bins = tuple(percentile.bins_to_open(h, k) for h in plain)
    looked = counted(LowBitsLook(bins), arrays, codes, step)
    for one, opened, truth in zip(listed, bins, looked, strict=True):
        if one.near.covers(opened):
            found = one.near.low_bits(opened)
            for place in opened:
                np.testing.assert_array_equal(found.values[place], truth.values[place])
                np.testing.assert_array_equal(found.counts[place], truth.counts[place])


def test_data_alike_throughout_need_no_other_look():
    rng = np.random.default_rng(1)
    base = rng.normal(0, 0.02, 500_000).astype(np.float32)
    tune = base + rng.normal(0, 1e-3, base.size).astype(np.float32)
    (found,) = counted(HistogramLook((10.0,)), [base, tune], [0, 0], 250_000)
    assert found.near.covers(percentile.bins_to_open(found, 10.0))
    assert 0 < found.near.patterns.size < base.size // 50


def test_data_that_shift_are_known_to_be_unknown():
    rng = np.random.default_rng(1)
    base = np.zeros(400_000, np.float32)
    tune = np.concatenate([rng.normal(0, 1e-6, 200_000), rng.normal(0, 1, 200_000)]).astype(np.float32)
    (found,) = counted(HistogramLook((60.0,)), [base, tune], [0, 0], 200_000)
    assert not found.near.covers(percentile.bins_to_open(found, 60.0))


def test_a_bracket_ends_before_its_stop():
    known = near.Near(3, 5, np.empty(0, np.uint32))
    assert [known.covers([place]) for place in (2, 3, 4, 5)] == [False, True, True, False]


@pytest.mark.parametrize(("most", "known"), [(40, True), (39, False)])
def test_a_list_with_room_for_all_but_one_knows_nothing(monkeypatch, most, known):
    monkeypatch.setattr(histograms, "MOST_OF_PIECE", most)
    tune = (np.arange(0x3F000001, 0x3F000001 + 40, dtype=np.uint32)).view(np.float32)  # 40 of one bin
    (found,) = counted(HistogramLook((50.0,)), [np.zeros(40, np.float32), tune], [0, 0], 40)
    assert found.near.covers(percentile.bins_to_open(found, 50.0)) == known
    assert found.near.patterns.size == (40 if known else 0)


def test_a_list_that_is_full_knows_nothing(monkeypatch):
    monkeypatch.setattr(histograms, "MOST_OF_PIECE", 10)
    rng = np.random.default_rng(1)
    base = np.zeros(300_000, np.float32)
    (found,) = counted(HistogramLook((10.0,)), [base, rng.normal(0, 1, base.size).astype(np.float32)], [0, 0], 300_000)
    assert not found.near.covers(percentile.bins_to_open(found, 10.0))


def test_too_many_patterns_narrow_the_bracket(monkeypatch):
    monkeypatch.setattr(near, "MOST", 1000)
    patterns = np.arange(0x3F000000, 0x3F100000, 0x200, dtype=np.uint32) | np.uint32(1)
    half = near.Near(0x3F00, 0x3F10, patterns)
    joined = half + half
    assert joined.patterns.size <= 1000
    assert 0x3F00 < joined.first < joined.stop < 0x3F10
    inside = patterns[(patterns >= joined.first << 16) & (patterns < joined.stop << 16)]
    np.testing.assert_array_equal(np.sort(joined.patterns), np.sort(np.concatenate([inside, inside])))
