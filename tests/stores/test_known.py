"""A merge with the statistics of a store has the same bits, and reads less."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import write_checkpoint
from command_line import told
from sdmw.errors import PlanError
from stores.stores_on_disk import RECIPE, measured, recipe_of, write_models

SHAPE = (80, 100)  # not small, so that it is measured by bins


@pytest.fixture(params=["few bits", "all bits"])
def models(request, tmp_path, monkeypatch):
    """Large tensors in two layers beside small ones."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    base = {
        f"model.layers.{n}.mlp.{part}.weight": rng.normal(0, 0.02, SHAPE) for n in (0, 1) for part in ("up", "down")
    }
    base["model.norm.weight"] = rng.normal(0, 0.02, (100,))
    for name in ("base", "corp", "func"):
        moved = {key: each + (rng.normal(0, 0.001, each.shape) if name != "base" else 0) for key, each in base.items()}
        write_checkpoint(tmp_path / name, {key: cut(each, request.param) for key, each in moved.items()})
    return request.param


def cut(array, kind):
    """Numbers whose differences have no low bits, so that bins decide everything; or any."""
    return (np.round(array * 2**14) / 2**14 if kind == "few bits" else array).astype(np.float32)


def merged(out, statistics=None, **parameters):
    return sdmw.merge({**RECIPE, "parameters": parameters}, out, progress=False, statistics=statistics)


@pytest.mark.parametrize("granularity", ["tensor", "block", "component", "model"])
@pytest.mark.parametrize("others", [{}, {"k": 62.5}, {"k": 0}, {"percentile": "approximate"}])
def test_the_bits_are_the_same(models, granularity, others):
    measured()
    plain, known = (
        merged(out, store, granularity=granularity, **others) for out, store in (("a", None), ("b", "store"))
    )
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()
    assert [layer.decision for layer in plain.layers] == [layer.decision for layer in known.layers]
    assert known.run.bytes_read <= plain.run.bytes_read
    if models == "few bits" or "percentile" in others:
        assert known.run.bytes_read < 0.6 * plain.run.bytes_read


def test_what_a_store_has_of_other_models_is_refused(models):
    store = measured()
    with pytest.raises(PlanError, match=r"expected the statistics of 'corp', found 'corp', 'func'"):
        sdmw.merge(recipe_of(["corp"]), "out", progress=False, statistics=store)
    with pytest.raises(PlanError, match="a recipe of sdm_w, found ties"):
        sdmw.merge(
            recipe_of(["corp", "func"], merge_method="ties", parameters={"weight": 1}),
            "out",
            progress=False,
            statistics=store,
        )
    recipe = recipe_of(["corp", "func"], missing="base")
    with pytest.raises(PlanError, match="a recipe with the same deltas"):
        sdmw.merge(recipe, "out", progress=False, statistics=store)
    shutil.copytree("corp", "old")
    tensors = load_file("corp/model.safetensors")
    shutil.rmtree("corp")
    write_checkpoint(Path("corp"), tensors)
    with pytest.raises(PlanError, match="the statistics of these files, found others, of 'corp'"):
        merged("out", store)
    assert not os.path.exists("out")


def test_values_that_are_not_finite_are_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_models(tmp_path)
    measured({**RECIPE, "nonfinite": "pass"})
    Path("recipe.yaml").write_text('{"merge_method": "sdm_w", "base_model": base, "models": [corp, func]}')
    assert told(capsys, monkeypatch, "merge", "recipe.yaml", "out", "--statistics", "store", "-q").code == 0
