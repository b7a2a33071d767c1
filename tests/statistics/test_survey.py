"""All that a store keeps, against plain NumPy; and its parts against the looks that measure them alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.inputs import inputs, stored, tile_of
from reference import survey as reference
from sdmw.kernels.codes import BF16, F16, F32
from sdmw.statistics.gram import GramLook
from sdmw.statistics.histogram import HistogramLook
from sdmw.statistics.survey import SurveyLook


def surveyed(arrays, codes, look=None):
    counter = (look or SurveyLook()).counter(len(arrays) - 1)
    counter.add(tile_of(arrays, codes))
    return counter.result()


@given(inputs(models=st.integers(1, 5)))
def test_it_is_what_plain_numpy_finds(given_inputs):
    arrays, codes = given_inputs
    found, deltas = surveyed(arrays, codes), reference.deltas_of(arrays[0], arrays[1:])
    for model, delta in zip(found.models, deltas, strict=True):
        expected = reference.magnitudes(arrays[0], delta)
        squares = [int(low) + (int(high) << 32) for low, high in model.squares.T]
        columns = zip(model.counts.tolist(), model.odds.tolist(), model.low_sums.tolist(), squares, strict=True)
        assert dict(zip(model.bins.tolist(), map(list, columns), strict=True)) == expected["bins"]
        numbers = ("nonfinite", "unchanged", "smallest", "largest")
        assert {name: getattr(model, name) for name in numbers} == {name: expected[name] for name in numbers}
    assert found.conflict.tolist() == reference.conflict(deltas)
    assert found.overlap.tolist() == reference.overlap(deltas)


@given(inputs())
def test_it_has_what_other_looks_measure_alone(given_inputs):
    arrays, codes = given_inputs
    found = surveyed(arrays, codes)
    assert found.products.totals == surveyed(arrays, codes, GramLook(base=True, deltas=True)).totals
    for model, histogram in zip(found.models, surveyed(arrays, codes, HistogramLook()), strict=True):
        finite = slice(histogram.finite_bins)
        assert model.bins.tolist() == histogram.bins[finite].tolist()
        assert model.counts.tolist() == histogram.counts[finite].tolist()
        assert model.low_sums.tolist() == histogram.low_sums[finite].tolist()
        assert model.nonzero == histogram.nonzero


@pytest.mark.parametrize("codes", [(F32, F32), (BF16, BF16), (F16, F16), (BF16, F32), (F16, F32)])
def test_deltas_that_a_dtype_swallows(codes):
    rng = np.random.default_rng(0)
    wide = rng.normal(0, 1, 5000) * 10.0 ** rng.integers(-9, 5, 5000)
    base = stored(wide.astype(np.float32), codes[0])
    model = stored((base.astype(np.float64) * (1 + rng.normal(0, 1e-3, 5000))).astype(np.float32), codes[1])
    (found,) = surveyed([base, model], codes).models
    (delta,) = reference.deltas_of(base, [model])
    assert found.unchanged == reference.magnitudes(base, delta)["unchanged"]
    assert any(found.unchanged)


def test_low_bits_of_many_deltas_are_counted_exactly():
    """More of one bin than a word of the kernel's holds, with the largest low bits."""
    base = np.zeros(200_000, np.float32)
    model = np.full(200_000, np.uint32(0x3F80FFFF)).view(np.float32)
    model[::3] = np.uint32(0x3F810001).view(np.float32)
    (found,) = surveyed([base, model], [F32, F32]).models
    ones = len(model[::3])
    assert found.bins.tolist() == [0x3F80, 0x3F81]
    assert found.odds.tolist() == [200_000 - ones, ones]
    squares = [int(low) + (int(high) << 32) for low, high in found.squares.T]
    assert squares == [(200_000 - ones) * 0xFFFF**2, ones]


def test_models_of_which_no_subset_is_counted():
    rng = np.random.default_rng(1)
    arrays = [rng.normal(0, 1, 100).astype(np.float32) for _ in range(10)]
    found = surveyed(arrays, [F32] * 10)
    assert found.overlap.tolist() == [0]
    assert found.conflict.tolist() == reference.conflict(reference.deltas_of(arrays[0], arrays[1:]))


def test_a_base_that_stands_for_a_model_has_no_delta():
    base = np.arange(5000, dtype=np.float32)
    found = surveyed([base, base, base + 1], [F32] * 3)
    assert found.models[0].nonzero == 0
    assert found.overlap.tolist() == [0, 0, 5000, 0]


def test_tiles_go_on_with_a_block():
    rng = np.random.default_rng(2)
    arrays = [rng.normal(0, 1, 150_000).astype(np.float32) for _ in range(3)]
    counter = SurveyLook().counter(2)
    tile = tile_of(arrays, [F32] * 3)
    for start, stop in ((0, 7), (7, 70_001), (70_001, 150_000)):
        counter.add(replace(tile, addresses=tile.addresses + 4 * start, count=stop - start, first=start))
    assert counter.result().products == surveyed(arrays, [F32] * 3).products
