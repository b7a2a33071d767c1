"""One model more in a store: as if all had been measured together, or without what only pairs tell."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

import sdmw
from checkpoints_on_disk import fine_tuned, write_checkpoint
from command_line import told
from sdmw.errors import PlanError, RecipeError, StoreError, UsageError
from sdmw.storage.shard import BLOCK
from stores.stores_on_disk import RECIPE, measured, recipe_of, write_models

PAIRS = {"gram", "conflict", "overlap"}
ALL = recipe_of(["corp", "func", "law"])


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_models(tmp_path, names=("corp", "func", "law"))


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A folder that tests only read: models, a store of two and one more, and a store of all three."""
    folder = tmp_path_factory.mktemp("extended")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        write_models(folder, names=("corp", "func", "law"))
        measured()
        add(pairs=False)
        measured(ALL, "whole")
    return folder


@pytest.fixture
def stores(extended, monkeypatch):
    monkeypatch.chdir(extended)
    return sdmw.open_store("store"), sdmw.open_store("whole")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def arrays(folder):
    return {name: array[:] for name, array in zarr.open_group(folder, mode="r").arrays()}


def add(model="law", **others):
    return measured(RECIPE, add=model, **others)


def test_with_pairs_it_is_what_measuring_all_gives(models):
    measured()
    assert add().models == ("corp", "func", "law")
    measured(ALL, "whole")
    assert contents("store") == contents("whole")


def test_without_pairs_all_else_is_the_same(stores):
    store, whole = stores
    assert (store.models, store.tensors, store.fingerprints) == (whole.models, whole.tensors, whole.fingerprints)
    assert store.states == whole.states
    assert store.recipe == whole.recipe
    assert not store.decided
    found, expected = arrays("store"), arrays("whole")
    assert found.keys() == expected.keys()
    for name in expected.keys() - PAIRS:
        np.testing.assert_array_equal(found[name], expected[name])
    unknown = np.zeros((3, 3), bool)
    unknown[2, :2] = unknown[:2, 2] = True
    assert (np.isnan(found["gram"]) == unknown).all()
    assert ((found["conflict"] == -1) == unknown).all()
    assert (found["overlap"] == -1).all()
    for name in ("gram", "conflict"):
        np.testing.assert_array_equal(found[name][:, ~unknown], expected[name][:, ~unknown])


def test_the_other_models_are_not_read(tmp_path, monkeypatch):
    """But samples of their files, which tell whether they are still the same."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    base = {"w": rng.standard_normal((1300, 1024), np.float32)}
    for name in ("base", "corp", "func", "law"):
        write_checkpoint(name, base if name == "base" else fine_tuned(rng, base))
    measured()
    for name in ("corp", "func"):
        status, path = os.stat(f"{name}/model.safetensors"), Path(name, "model.safetensors")
        with path.open("r+b") as file:
            file.seek(BLOCK + BLOCK // 8)  # between the first two blocks of a sample
            file.write(b"\xff" * 64)  # NaN, which nothing may read
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    add(pairs=False)
    shutil.rmtree("store")
    with pytest.raises(sdmw.SdmwError, match="a finite number, found nan"):
        measured()


def test_a_merge_with_it_has_the_same_bits(models):
    measured()
    store = add(pairs=False)
    plain, known = (
        sdmw.merge(ALL, out, progress=False, statistics=given) for out, given in (("a", None), ("b", store))
    )
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()
    assert [layer.decision for layer in plain.layers] == [layer.decision for layer in known.layers]


@pytest.mark.parametrize("scope", ["model", "layer"])
def test_a_sweep_has_the_same_weights_and_wider_norms(stores, scope):
    for one, other in zip(*(sdmw.sweep(each, k=[0, 30], scope=scope).rows for each in ("store", "whole")), strict=True):
        assert {name: one[name] for name in one if name != "merged_norm"} == {
            name: other[name] for name in other if name != "merged_norm"
        }
        low, high = one["merged_norm"]
        assert low <= other["merged_norm"][0] <= other["merged_norm"][1] <= high < 1
    with pytest.raises(UsageError, match="lambda: expected a number, since some pairs of models were not measured"):
        sdmw.sweep("store", lambda_=["preserve_norm", 1])


def test_the_doctor_says_what_is_not_known(stores, capsys, monkeypatch):
    Path("recipe.yaml").write_text(json.dumps(ALL))
    found = sdmw.doctor("recipe.yaml", statistics="store").evidence
    assert not found.paired
    assert [pair.cosine is None for pair in found.pairs] == [False, True, True]
    assert {(pair.conflict, pair.shared) for pair in found.pairs} == {(None, None)}
    out = told(capsys, monkeypatch, "doctor", "recipe.yaml", "--statistics", "store").out
    assert "some were not measured" in next(line for line in out.splitlines() if line.startswith("pairs"))


def test_another_one_and_pairs_again(models, tmp_path):
    measured()
    add(pairs=False)
    write_checkpoint(tmp_path / "more", fine_tuned(np.random.default_rng(5), models["base"]))
    store = measured(ALL, add="more", pairs=False)
    assert store.models == ("corp", "func", "law", "more")
    assert np.isnan(arrays("store")["gram"][0]).sum() == 2 * (2 + 3)
    again = measured(recipe_of(store.models), overwrite=True)
    assert not np.isnan(arrays("store")["gram"]).any()
    assert again.decided


def test_what_cannot_be_added(models, tmp_path):
    with pytest.raises(StoreError, match="no such directory"):
        add()
    measured()
    before = contents("store")
    with pytest.raises(RecipeError, match="add: expected a model that is not in the recipe, found 'base'"):
        add(model="base")
    with pytest.raises(RecipeError, match="add: expected a model that is not in the recipe, found 'func'"):
        add("func")
    with pytest.raises(PlanError, match="the statistics of 'func'"):
        measured(recipe_of(["func"]), add="law")
    with pytest.raises(PlanError, match="nobody"):
        add("nobody", pairs=False)
    with pytest.raises(UsageError, match="pairs: expected True without `add`"):
        measured(RECIPE, "new", pairs=False)
    wider = {**models["law"], "extra.weight": np.ones((4, 4), models["law"]["lm_head.weight"].dtype)}
    write_checkpoint(tmp_path / "wider", wider)
    with pytest.raises(PlanError, match="extra"):
        add("wider", pairs=False)
    assert contents("store") == before


@pytest.mark.parametrize(("name", "value"), [("gram", np.nan), ("conflict", -1)])
def test_pairs_that_are_half_known(models, name, value):
    store = measured()
    array = zarr.open_array(f"store/{name}", mode="r+")
    array[1, 0, 1] = value
    with pytest.raises(StoreError, match="measured only in part"):
        sdmw.sweep(store)


def test_the_command(models, capsys, monkeypatch):
    Path("recipe.yaml").write_text(json.dumps(RECIPE))
    measured("recipe.yaml")
    done = told(capsys, monkeypatch, "measure", "recipe.yaml", "store", "--add", "law", "--no-pairs", "-q")
    assert done.code == 0, done.err
    assert "corp, func, law" in done.out
