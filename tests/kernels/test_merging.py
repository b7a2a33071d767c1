"""merge_deltas and average against the plain references, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.inputs import STORED, codes, inputs, tile_of
from reference.linear import linear
from reference.sdm_w import deltas, kept, merged
from reference.task_arithmetic import task_arithmetic
from sdmw.kernels import tiles
from sdmw.kernels.codes import BF16

weights = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5]), st.floats(-3, 3, width=32))


def run(kernel, arrays, given_codes, *numbers, out_code):
    out = np.zeros(arrays[0].size, STORED[out_code])
    tile = tile_of(arrays, given_codes)
    bad = kernel(tile.addresses, tile.codes, tile.count, *numbers, out.ctypes.data, out_code)
    return out, bad


def assert_same(found, bad, expected, code):
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        expected = expected.astype(STORED[code])
    nan = np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(found.astype(np.float32)), nan)
    bits = {2: np.uint16, 4: np.uint32}[found.itemsize]
    np.testing.assert_array_equal(found.view(bits)[~nan], expected.view(bits)[~nan])
    assert bad == (not np.isfinite(expected.astype(np.float32)).all())


@given(inputs(), st.data())
def test_sdm_w_arithmetic(given_inputs, data):
    arrays, given_codes = given_inputs
    base, *tunes = (array.astype(np.float32) for array in arrays)
    ws = [data.draw(weights) for _ in tunes]
    scale = data.draw(st.sampled_from([1.0, 0.5, 0.0, -2.0]))
    cuts = [data.draw(st.sampled_from([1e-45, 1e-3, 0.1, 1e30])) for _ in tunes]
    thresholds = np.array(cuts, np.float32)
    parts = [kept(deltas(base, t), float(np.float32(c))) for t, c in zip(tunes, cuts, strict=True)]
    code = data.draw(codes)
    one = np.float32(1)
    found, bad = run(
        tiles.merge_deltas, arrays, given_codes, thresholds, np.array(ws, np.float32), one, np.float32(scale), True,
        out_code=code,
    )  # fmt: skip
    assert_same(found, bad, merged(base, parts, ws, scale), code)


@given(inputs(), st.booleans(), st.data())
def test_task_arithmetic(given_inputs, normalize, data):
    arrays, given_codes = given_inputs
    base, *tunes = (array.astype(np.float32) for array in arrays)
    ws = np.array([data.draw(weights) for _ in tunes], np.float32)
    total = np.float32(0)
    for w in ws:
        total = np.float32(total + w)
    divisor = total if normalize and abs(total) >= 1e-8 else np.float32(1)
    code = data.draw(codes)
    found, bad = run(
        tiles.merge_deltas, arrays, given_codes, np.zeros(ws.size, np.float32), ws, divisor, np.float32(0.7), False,
        out_code=code,
    )  # fmt: skip
    assert_same(found, bad, task_arithmetic(base, tunes, ws, normalize, 0.7), code)


@given(inputs(), st.booleans(), st.data())
def test_average(given_inputs, normalize, data):
    arrays, given_codes = given_inputs
    models = [array.astype(np.float32) for array in arrays]
    ws = np.array([data.draw(weights) for _ in models], np.float32)
    divisor = np.float32(1)
    if normalize:
        divisor = np.float32(0)
        for w in ws:
            divisor = np.float32(divisor + w)
    code = data.draw(codes)
    found, bad = run(tiles.average, arrays, given_codes, ws, divisor, out_code=code)
    assert_same(found, bad, linear(models, ws, normalize), code)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_arrives(special):
    base = np.array([1, 2, special, special], np.float32)
    tune = np.array([1, special, special, 1], np.float32)
    one = np.float32(1)
    nothing_kept = np.array([np.inf], np.float32)
    found, bad = run(
        tiles.merge_deltas, [base, tune], [0, 0], nothing_kept, np.array([0.5], np.float32), one, one, True, out_code=0
    )
    assert bad
    np.testing.assert_array_equal(found[:2], np.array([1, special], np.float32))  # equal bits give no delta
    np.testing.assert_array_equal(found[2], np.float32(special))  # the base's own, though no number
    assert np.isnan(found[3])


def test_without_models_the_base_is_rounded_with_its_negative_zero():
    base = np.array([-0.0, 0.0, 1.00390625, np.float32(3.4e38)], np.float32)
    one = np.float32(1)
    nothing = np.empty(0, np.float32)
    found, bad = run(tiles.merge_deltas, [base], [0], nothing, nothing, one, one, True, out_code=BF16)
    np.testing.assert_array_equal(found.view(np.uint16), base.astype(STORED[BF16]).view(np.uint16))
    assert bad
