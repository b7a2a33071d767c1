"""Each method on eight numbers, with what mergekit 0.1.5 made of them at float32 (METHODS_FACTS.md)."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import write_checkpoint

BASE = [[1, -2, 3, -4], [0.5, 0.25, -0.125, 2]]
DELTAS = {
    "a": [[0.5, -0.25, 0.0625, 1], [-0.375, 0.125, 0.1875, -0.75]],
    "b": [[-0.4375, -0.625, 0.25, 0.75], [0.3125, 0.03125, 0.125, 2]],
    "c": [[0.25, 0.1875, -0.3125, 0.125], [0.0625, -0.5, 0.375, -0.4375]],
}
EXACT, CLOSE = 0.0, 2e-6

CASES = [
    ("linear", "abc", {"weight": [1, 2, 1]}, None, EXACT,
     [[0.96875, -2.328125, 3.0625, -3.34375], [0.578125, 0.171875, 0.078125, 2.703125]]),
    ("task_arithmetic", "ab", {"weight": [1, 0.5]}, {"lambda": 0.5}, EXACT,
     [[1.140625, -2.28125, 3.09375, -3.3125], [0.390625, 0.3203125, 0, 2.125]]),
    ("ties", "abc", {"weight": [1, 0.5, 1], "density": [0.5, 0.5, 0.75]}, {}, CLOSE,
     [[1.375, -2.625, 2.6875, -3.083333], [0.125, -0.25, 0.25, 1.40625]]),
    ("breadcrumbs", "ab", {"weight": [1, 1], "density": [0.5, 0.5], "gamma": [0.25, 0.13]}, {}, EXACT,
     [[1.0625, -2.875, 3, -3.25], [0.4375, 0.25, 0.0625, 2]]),
    ("breadcrumbs_ties", "ab", {"weight": [1, 1], "density": [0.5, 0.5], "gamma": [0.25, 0.13]}, {}, EXACT,
     [[1.5, -2.875, 3, -3.25], [0.125, 0.25, 0.0625, 2]]),
    ("slerp", "a", {}, {"t": 0.25}, CLOSE,
     [[1.131275, -2.073426, 3.031337, -3.768603], [0.4080341, 0.2828187, -0.07836805, 1.82126]]),
    ("nuslerp", "ab", {"weight": [3, 1]}, None, CLOSE,
     [[1.287039, -2.390255, 3.170067, -3.122488], [0.3048421, 0.3580517, 0.047578, 1.983861]]),
    ("nuslerp", "ab", {"weight": [1, 1]}, {"nuslerp_flatten": False, "base": False}, CLOSE,
     [[1.036316, -2.449475, 3.171757, -3.140353], [0.4723456, 0.3306419, 0.0314897, 2.645135]]),
    ("nuslerp", "ab", {"weight": [1, 1]}, {"nuslerp_flatten": False, "nuslerp_row_wise": True, "base": False}, CLOSE,
     [[1.140383, -2.43854, 3.156414, -3.222685], [0.5183558, 0.328265, 0.03125162, 2.707055]]),
    ("nuslerp", "ab", {"weight": [1, 1]}, {}, CLOSE,
     [[1.051625, -2.722747, 3.258124, -2.554506], [0.4483752, 0.379062, 0.1331239, 3.032496]]),
    ("multislerp", "abc", {"weight": [1, 1, 2]}, None, CLOSE,
     [[1.209746, -2.169358, 3.000213, -3.617417], [0.5126048, 0.03244745, 0.1510768, 2.055961]]),
    ("karcher", "abc", {}, None, CLOSE,
     [[1.186963, -2.287172, 3.096874, -3.502673], [0.4921875, 0.1351036, 0.1140679, 2.226867]]),
    ("sce", "abc", {}, {}, CLOSE,
     [[1.430518, -2.519966, 3.197483, -3.247615], [0.7799382, -0.25, 0.04013118, 4]]),
    ("sce", "abc", {}, {"select_topk": 0.5}, CLOSE,
     [[1.465054, -2.524833, 3, -3.212], [0.5, 0.25, -0.125, 4]]),
    ("arcee_fusion", "a", {}, {}, EXACT,
     [[1, -2, 3, -4], [0.125, 0.25, -0.125, 1.25]]),
    ("model_stock", "abc", {}, {}, CLOSE,
     [[0.9463098, -1.881881, 3, -4.322142], [0.5, 0.3090593, -0.2431185, 1.860405]]),
    ("model_stock", "abc", {}, {"filter_wise": True}, CLOSE,
     [[1.038365, -2.084403, 3, -3.76981], [0.5, 0.5585637, -0.7421274, 1.270668]]),
    ("nearswap", "a", {}, {"t": 0.25}, EXACT,
     [[1.25, -2.25, 3.0625, -3.75], [0.25, 0.375, 0.0625, 1.75]]),
    ("ram", "ab", {}, {"epsilon": 0.2}, EXACT,
     [[1.03125, -2.4375, 3.25, -3.125], [0.46875, 0.25, -0.125, 2.625]]),
    ("ramplus_tl", "ab", {}, {"epsilon": 0.2, "r": 0.4, "alpha": 0.5}, CLOSE,
     [[1.03125, -2.4375, 3.3, -3.125], [0.46875, 0.25, -0.125, 2.625]]),
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = np.array(BASE, np.float32)
    write_checkpoint("base", {"w": base})
    for name, delta in DELTAS.items():
        write_checkpoint(name, {"w": base + np.array(delta, np.float32)})


@pytest.mark.parametrize(("method", "models", "own", "top", "tolerance", "expected"), CASES)
def test_the_numbers(here, method, models, own, top, tolerance, expected):
    entries = [
        {"model": name, "parameters": {key: values[place] for key, values in own.items()}}
        for place, name in enumerate(models)
    ]
    recipe = {"merge_method": method, "models": entries}
    top = {"base": False} if top is None else top
    recipe["parameters"] = {key: value for key, value in top.items() if key != "base"}
    if top.get("base", True):
        recipe["base_model"] = "base"
    sdmw.merge(recipe, "out", progress=False)
    found = load_file("out/model.safetensors")["w"]
    np.testing.assert_allclose(found, np.array(expected), rtol=tolerance, atol=tolerance)
