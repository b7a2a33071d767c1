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
