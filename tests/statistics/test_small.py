"""A small tensor that is sorted gets the cut that counting gives it, and that NumPy gives."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.inputs import inputs, tile_of
from sdmw.kernels.bins import SMALL
from sdmw.statistics.percentile import NOTHING_KEPT
from sdmw.statistics.small import SmallLook

ks = st.sampled_from([0.0, 10.0, 33.3, 50.0, 99.9, 100.0])


def cuts(arrays, codes, k, tile):
    size, models = arrays[0].size, len(arrays) - 1
    counter = SmallLook((k,) * models, size).counter(models)
    for start in range(0, size, tile):
        counter.add(tile_of([each[start : start + tile] for each in arrays], codes))
    return counter.result()


@given(inputs(), ks, st.sampled_from([7, 100, SMALL]))
def test_it_is_numpys_percentile_and_the_exact_sum(given_inputs, k, tile):
    arrays, codes = given_inputs
    arrays = [each[:SMALL] for each in arrays]
    base = arrays[0].astype(np.float32)
    for model, cut in zip(arrays[1:], cuts(arrays, codes, k, tile), strict=True):
        values = model.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            deltas = np.abs(np.where(values.view(np.uint32) == base.view(np.uint32), np.float32(0), values - base))
        finite = deltas[np.isfinite(deltas) & (deltas != 0)].astype(np.float64)
        assert cut.nonfinite == deltas.size - np.count_nonzero(np.isfinite(deltas))
        assert cut.nonzero == finite.size
        if not finite.size:
            assert (cut.value, cut.pattern, cut.kept, cut.magnitude) == (None, NOTHING_KEPT, 0, 0)
            continue
        assert cut.value == np.percentile(finite, k)
        kept = finite[finite >= cut.value]
        assert cut.kept == kept.size
        assert cut.magnitude == sum(map(Fraction, kept.tolist())) * 2**149
        reached, before = (float(np.uint32(each).view(np.float32)) for each in (cut.pattern, cut.pattern - 1))
        assert before < cut.value <= reached


@pytest.mark.parametrize("tile", [97, 5000])
def test_counting_begins_again_after_a_result(tile):
    rng = np.random.default_rng(0)
    counter = SmallLook((10.0,), 500).counter(1)
    found = []
    for _ in range(2):
        arrays = [np.zeros(500, np.float32), rng.normal(0, 1, 500).astype(np.float32)]
        counter.add(tile_of(arrays, [0, 0]))
        found.append((counter.result(), cuts(arrays, [0, 0], 10.0, tile)))
    assert all(one == other for one, other in found)
    assert counter.result() == ()


def test_a_larger_tensor_is_refused():
    counter = SmallLook((10.0,), SMALL).counter(1)
    counter.add(tile_of([np.zeros(SMALL, np.float32)] * 2, [0, 0]))
    with pytest.raises(ValueError, match="4097 elements"):
        counter.add(tile_of([np.zeros(1, np.float32)] * 2, [0, 0]))
