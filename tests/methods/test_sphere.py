"""Multislerp of models that cancel each other has no direction."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import write_checkpoint
from sdmw.errors import RunError

ARRAYS = {"a": [1, 0, 0], "b": [0, 1, 0], "c": [-1, -1, 0], "opposite": [-1, 0, 0]}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, array in ARRAYS.items():
        write_checkpoint(name, {"w": np.array(array, np.float32)})


def merge(*names, weights):
    models = [{"model": name, "parameters": {"weight": weight}} for name, weight in zip(names, weights, strict=True)]
    sdmw.merge({"merge_method": "multislerp", "models": models}, "out", progress=False)
    return load_file("out/model.safetensors")["w"].tolist()


def test_of_two_the_weighted_sum_is_left():
    assert merge("a", "opposite", weights=(1, 1)) == [0, 0, 0]


def test_of_more_it_is_an_error():
    with pytest.raises(RunError, match="expected models with a mean direction, found they cancel each"):
        merge("a", "b", "c", weights=(1, 1, 2**0.5))


def test_a_tensor_that_no_model_changed_is_the_base_s():
    """Frozen norms of a family of fine-tunes: there is nothing to give a direction, and nothing to add."""
    for name in ("base", "same", "again", "too"):
        write_checkpoint(name, {"w": np.array([1, -2, 0], np.float32), "v": np.ones(3, np.float32)})
    write_checkpoint("moved", {"w": np.array([1, -2, 0], np.float32), "v": np.arange(3, dtype=np.float32)})
    models = [{"model": name, "parameters": {"weight": 1}} for name in ("same", "again", "moved")]
    recipe = {"merge_method": "multislerp", "base_model": "base", "models": models}
    sdmw.merge(recipe, "out", progress=False)
    merged = load_file("out/model.safetensors")
    assert merged["w"].tolist() == [1, -2, 0]
    assert np.isfinite(merged["v"]).all()
