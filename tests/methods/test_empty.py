"""Tensors without elements, which some checkpoints have, are merged to themselves."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import write_checkpoint


@pytest.mark.parametrize(
    ("method", "parameters", "models"),
    [
        ("sdm_w", {}, 2),
        ("linear", {"weight": 0.5}, 2),
        ("ties", {"density": 0.5, "weight": 1}, 2),
        ("della", {"density": 0.5, "weight": 1, "epsilon": 0.1}, 2),
        ("sce", {"select_topk": 0.5}, 2),
        ("arcee_fusion", {}, 1),
        ("model_stock", {}, 2),
        ("slerp", {"t": 0.5}, 1),
    ],
)
def test_an_empty_tensor_is_no_error(tmp_path, method, parameters, models):
    rng = np.random.default_rng(0)
    for name in ("base", "one", "two"):
        tensors = {"a.weight": np.zeros((0,), np.float32), "b.weight": rng.normal(0, 1, (20, 30)).astype(np.float32)}
        write_checkpoint(tmp_path / name, tensors)
    merged = [{"model": str(tmp_path / name)} for name in ("one", "two")[:models]]
    recipe = {"merge_method": method, "base_model": str(tmp_path / "base"), "models": merged, "parameters": parameters}
    sdmw.merge(recipe, tmp_path / "out", progress=False)
    assert load_file(tmp_path / "out" / "model.safetensors")["a.weight"].shape == (0,)
