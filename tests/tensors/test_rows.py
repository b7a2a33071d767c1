"""Gathered rows, means of rows and row tables, against NumPy's indexing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from reference.rounding import STORED
from sdmw.checkpoints.formats import read
from sdmw.tensors import rows as rows_module
from sdmw.tensors.dtype import DType
from sdmw.tensors.row_table import ZEROS, RowTable
from sdmw.tensors.rows import Mean, MeanRow, Rows

WIDTH = 5


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    """Two in bfloat16, one in float16, one in float32, a bias; with their values in float32."""
    folder = tmp_path_factory.mktemp("m")
    rng = np.random.default_rng(0)
    shapes = {"a": ("BF16", (9, WIDTH)), "b": ("BF16", (6, WIDTH)), "h": ("F16", (4, WIDTH)), "f": ("F32", (3, WIDTH)),
              "bias": ("F32", (9,))}  # fmt: skip
    values = {name: rng.standard_normal(shape).astype(STORED[dtype]) for name, (dtype, shape) in shapes.items()}
    save_file(values, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return read(str(folder)).tensors, {name: each.astype(np.float32) for name, each in values.items()}


def values_of(tensor):
    raw = tensor.open().tile(0, tensor.elements)
    wide = {DType.BF16: lambda: (raw.astype(np.uint32) << 16).view(np.float32), DType.F32: lambda: raw.view(np.float32),
            DType.F16: lambda: raw.view(np.float16).astype(np.float32)}  # fmt: skip
    return wide[tensor.dtype]().reshape(tensor.shape)


PLACES = st.lists(st.tuples(st.sampled_from([ZEROS, 0, 1, 2]), st.integers(0, 2)), max_size=20)


@given(places=PLACES, ends=st.tuples(st.integers(0, 20), st.integers(0, 20)))
def test_a_table_gives_back_what_it_was_made_of(places, ends):
    sources, rows = np.array(places, np.int64).reshape(-1, 2).T
    table = RowTable.of(sources, rows)
    assert table.rows == len(places)
    start, stop = sorted(min(end, len(places)) for end in ends)
    runs = table.runs(start, stop)
    each = zip(runs.starts, runs.stops, runs.sources, runs.firsts, strict=True)
    found = [(source, first + step if source != ZEROS else 0)
             for begin, end, source, first in each for step in range(end - begin)]  # fmt: skip
    assert found == [(source, row if source != ZEROS else 0) for source, row in places[start:stop]]


@settings(max_examples=60, deadline=None)
@given(places=PLACES)
@pytest.mark.parametrize("names", [("a", "b", "a"), ("a", "h", "f"), ("f", "a", "b")])
def test_rows_are_numpys(tensors, names, places):
    stored, values = tensors
    sources, rows = np.array(places, np.int64).reshape(-1, 2).T
    found = Rows.of("x", [stored[name] for name in names], sources, rows)
    expected = [np.zeros(WIDTH, np.float32) if s == ZEROS else values[names[s]][r] for s, r in places]
    assert found.shape == (len(places), WIDTH)
    np.testing.assert_array_equal(values_of(found), np.array(expected, np.float32).reshape(-1, WIDTH))
    assert found.stored_as is stored[names[0]].dtype
    used = {stored[names[s]].dtype for s, _ in places if s != ZEROS}
    assert found.dtype is (DType.F32 if len(used) > 1 else used.pop() if used else stored[names[0]].dtype)


def test_biases(tensors):
    stored, values = tensors
    found = Rows.of("x", [stored["bias"]], np.array([0, 0, ZEROS, 0]), np.array([8, 2, 0, 3]))
    np.testing.assert_array_equal(values_of(found), values["bias"][[8, 2, 0, 3]] * [1, 1, 0, 1])


def test_a_run_in_its_own_dtype_is_read_as_it_lies(tensors, monkeypatch):
    stored, values = tensors
    found = Rows.of("x", [stored["a"]], np.zeros(8, np.int64), np.arange(1, 9))
    monkeypatch.setattr(rows_module, "_gather", None)
    np.testing.assert_array_equal(values_of(found), values["a"][1:])
    found.open().release(0, found.elements)


def test_the_mean_of_tensors_is_float32s(tensors):
    stored, values = tensors
    parts = [Rows.of("x", [stored[name]], np.zeros(2, np.int64), np.array([1, 2])) for name in ("a", "h", "f")]
    a, h, f = (values[name][1:3] for name in ("a", "h", "f"))
    np.testing.assert_array_equal(values_of(Mean.of(parts)), (a + h + f) / np.float32(3))
    assert Mean.of(parts).shape == (2, WIDTH)


def test_the_mean_row_is_that_of_all_rows(tensors, monkeypatch):
    stored, values = tensors
    rows_module.forget()
    monkeypatch.setattr(rows_module, "_BLOCK", 7)
    found = values_of(MeanRow.of(stored["a"], 3))
    expected = values["a"].astype(np.float64).mean(axis=0).astype(np.float32)
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (3, WIDTH)))
    rows_module.forget()
