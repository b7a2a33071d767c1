"""Rows and columns as vectors of their own: of any shape, in long rows, and with what is not finite."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import write_checkpoint
from kernels.inputs import STORED, codes, inputs, stored, tile_of, values
from reference.model_stock import model_stock
from reference.nuslerp import nuslerp
from sdmw.errors import CheckpointError, RunError
from sdmw.kernels import vectors
from sdmw.kernels.blocks import GRAIN, LANES
from sdmw.kernels.codes import BF16, F16, F32
from sdmw.kernels.dots import PARTIALS
from sdmw.kernels.tiles import BLOCK
from sdmw.methods import all_methods
from sdmw.methods.method import Destination, Settings
from sdmw.statistics.gram import GramLook
from sdmw.statistics.look import Measured

SHAPES = [(200_001,), (3, 70_000), (5, 1), (), (2, 3, 4), (1,), (1500, 3)]


def gram_of(arrays, codes, deltas):
    tile, models, size = tile_of(arrays, codes), len(arrays) - deltas, arrays[0].size
    pairs = models * (models + 1) // 2
    scratch, found = np.empty((models, BLOCK), np.float32), np.empty(pairs)
    sums, partials = np.empty((pairs, size // GRAIN + 1)), np.empty(PARTIALS)
    vectors.gram_of_row(
        tile.addresses, tile.codes, 0, size, deltas, np.empty(BLOCK, np.float32), scratch, np.zeros((pairs, LANES)),
        sums, partials, found,
    )  # fmt: skip
    return found


@pytest.mark.parametrize("deltas", [False, True])
@given(st.integers(0, 2**32), st.one_of(st.integers(1, 3000), st.integers(GRAIN - 2, 2 * GRAIN + 2)))
def test_a_row_that_is_the_tensor_has_the_tensor_s_products(deltas, seed, count):
    """To the bit: blocks, lanes and the exact sum of blocks are the same."""
    rng = np.random.default_rng(seed)
    codes = [BF16, F32, F16]
    arrays = [stored(values(rng, count, "normal"), code) for code in codes]
    counter = GramLook(base=deltas, deltas=deltas).counter(3 - deltas)
    counter.add(tile_of(arrays, codes))
    matrix = counter.result().matrix()
    assert gram_of(arrays, codes, deltas).tolist() == matrix[np.triu_indices(len(matrix))].tolist()


def settings_of(models, base, rows):
    top = {"nuslerp_flatten": False, "nuslerp_row_wise": False, "filter_wise": True}
    return Settings(models, base, 9, rows, 0, top, {"weight": (0.3,) * models})


@pytest.mark.parametrize(
    ("name", "base", "models"), [("nuslerp", False, 2), ("nuslerp", True, 2), ("model_stock", True, 3)]
)
@given(drawn=inputs(models=st.just(3)), code=codes, odd=st.booleans())
def test_a_single_row_is_merged_by_row_as_the_tensor_that_it_is(name, base, models, drawn, code, odd):
    """To the bit, NaN and infinity included."""
    arrays, dtypes = drawn[0][: models + base], drawn[1][: models + base]
    if odd:
        arrays[-1][[0, -1]] = np.nan, np.inf
    method, tile = all_methods()[name], replace(tile_of(arrays, dtypes), row=arrays[0].size)
    found = []
    for rows in 1, 2:
        params, have = method.params(settings_of(models, base, rows)), Measured()
        while look := method.needs(params, have):
            counter = look.counter(models)
            counter.add(tile)
            have = have.with_look(type(look), {"w": counter.result()})
        out = np.zeros(tile.count, STORED[code])
        layer = method.decide_layer(params, have)
        assert (layer is None) == (rows > 1)
        bad = method.apply(tile, params, layer, None, Destination(out.ctypes.data, code))
        found.append((out.tobytes(), bad))
    assert found[0] == found[1]


@pytest.fixture
def merged(tmp_path, monkeypatch):
    """What a recipe makes of tensors of one shape: the result, the base and the models."""
    monkeypatch.chdir(tmp_path)

    def merge(shape, names, **recipe):
        rng = np.random.default_rng(3)
        arrays = [np.asarray(rng.normal(0, 1, shape), np.float32) for _ in range(len(names) + 1)]
        for name, array in zip(("base", *names), arrays, strict=True):
            write_checkpoint(name, {"w": array})
        sdmw.merge({"models": [{"model": name} for name in names], **recipe}, "out", progress=False)
        return load_file("out/model.safetensors")["w"], *arrays

    return merge


@pytest.mark.parametrize("shape", SHAPES)
def test_model_stock_by_row(merged, shape):
    recipe = {"merge_method": "model_stock", "base_model": "base", "parameters": {"filter_wise": True}}
    found, base, *models = merged(shape, ("a", "b", "c"), **recipe)
    np.testing.assert_array_equal(found, model_stock(base, models, filter_wise=True))


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_nuslerp_by_vector(merged, shape, base, columns):
    parameters = {"weight": 1, "nuslerp_flatten": False, "nuslerp_row_wise": columns}
    below = {"base_model": "base"} if base else {}
    found, own, *models = merged(shape, ("a", "b"), merge_method="nuslerp", parameters=parameters, **below)
    expected = nuslerp(models, (1, 1), own if base else None, False, columns)
    # A vector along a long axis is added up in another order here than in NumPy.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_what_is_not_finite_counts_as_zero():
    base = np.zeros(8, np.float32)
    one, other = np.array([[1, np.nan, 0, 2, 1, 1, 1, 1], [1, 0, np.inf, 2, 1, 1, 1, 1]], np.float32)
    clean = [base, np.nan_to_num(one), np.nan_to_num(other, posinf=0)]
    for deltas in (False, True):
        assert gram_of([base, one, other], [F32] * 3, deltas).tolist() == gram_of(clean, [F32] * 3, deltas).tolist()


@pytest.mark.parametrize("bad", [None, {"type": "methods.coefficients.ColumnShares", "shares": "AAAA"}, "short"])
def test_a_report_with_another_decision(merged, bad):
    """Columns that are not there are not read."""
    parameters = {"weight": 1, "nuslerp_flatten": False, "nuslerp_row_wise": True}
    merged((4, 5), ("a", "b"), merge_method="nuslerp", parameters=parameters)
    path = Path("out/sdmw_report.json")
    report = json.loads(path.read_text())
    shares = report["layers"][0]["decision"]["shares"]
    report["layers"][0]["decision"] = (
        {**report["layers"][0]["decision"], "shares": shares[:32]} if bad == "short" else bad
    )
    path.write_text(json.dumps(report))
    with pytest.raises((CheckpointError, RunError), match="decision"):
        sdmw.verify("out", sample=1, progress=False)
