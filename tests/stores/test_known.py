"""A merge with the statistics of a store has the same bits, and reads less."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import write_checkpoint
from command_line import told
from sdmw.errors import PlanError, StoreError
from sdmw.stores.sources import store_of
from stores.stores_on_disk import RECIPE, measured, recipe_of, write_models
from vocabularies_on_disk import tokenizer, write_model

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
    measured({**RECIPE, "parameters": {"k": 33}})
    plain, known = (
        merged(out, store, granularity=granularity, **others) for out, store in (("a", None), ("b", "store"))
    )
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()
    assert [layer.decision for layer in plain.layers] == [layer.decision for layer in known.layers]
    assert known.run.bytes_read <= plain.run.bytes_read
    if models == "few bits" or "percentile" in others:
        assert known.run.bytes_read < 0.6 * plain.run.bytes_read


@pytest.mark.parametrize(
    ("models", "parameters"),
    [
        ("few bits", {}),
        ("all bits", {"k": 62.5, "granularity": "block"}),
        ("all bits", {"normalization": {"power": 2, "norm": 2, "scope": "layer"}}),
        ("few bits", {"lambda": "preserve_norm", "granularity": "model"}),
    ],
    indirect=["models"],
    ids=str,
)
def test_the_recipe_of_a_store_measures_nothing(models, parameters):
    recipe = {**RECIPE, "parameters": parameters}
    store = measured(recipe)
    assert store.decided
    plain, known = merged("a", **parameters), merged("b", "store", **parameters)
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()
    assert [layer.decision for layer in plain.layers] == [layer.decision for layer in known.layers]
    assert plain.facts == known.facts
    planned = sdmw.plan(recipe, statistics="store")
    assert known.run.bytes_read == planned.bytes_read == planned.applied_bytes
    assert (planned.spared, planned.read_again) == (planned.measured_bytes, 0)
    sdmw.verify("b")
    typed = sdmw.merge({**recipe, "out_dtype": "bfloat16"}, "c", progress=False, statistics=store)
    assert typed.run.bytes_read == planned.applied_bytes  # a dtype decides nothing


def test_the_plan_counts_what_is_spared(models, capsys, monkeypatch):
    recipe = {**RECIPE, "parameters": {"k": 30}}
    store = measured()
    planned, report = sdmw.plan(recipe, statistics=store), merged("out", store, k=30)
    assert planned.bytes_read == report.run.bytes_read
    large = sum(tensor.read * tensor.elements for tensor in planned.tensors if tensor.elements > 4096)
    assert planned.spared == large
    assert planned.read_again == (0 if models == "few bits" else large)
    assert planned.to_dict()["bytes_spared"] == planned.spared
    Path("recipe.yaml").write_text(json.dumps(recipe))
    line = next(
        line
        for line in told(capsys, monkeypatch, "plan", "recipe.yaml", "--statistics", "store").out.splitlines()
        if line.startswith("statistics")
    )
    assert ("must still be read" in line) == (models == "all bits")
    assert "save" in line


@pytest.mark.parametrize("models", ["few bits"], indirect=True)
def test_a_plan_says_that_a_store_does_not_fit(models):
    store = measured()
    for recipe in (recipe_of(["corp"]), recipe_of(["corp", "func"], merge_method="ties", parameters={"weight": 1})):
        (problem,) = sdmw.plan(recipe, statistics=store).problems
        assert problem.where in ("statistics", "store")


@pytest.mark.parametrize("models", ["few bits"], indirect=True)
def test_other_settings_are_not_those_of_the_store(models, monkeypatch):
    store = measured()
    for others in ({"k": 20}, {"normalization": "square"}):
        plain, known = merged(f"a{others}", **others), merged(f"b{others}", store, **others)
        assert [layer.decision for layer in plain.layers] == [layer.decision for layer in known.layers]
        assert known.run.bytes_read > sdmw.plan({**RECIPE, "parameters": others}).applied_bytes
    later = replace(store, version="9.9")
    assert merged("c", later).run.bytes_read > merged("d", store).run.bytes_read


@pytest.mark.parametrize("models", ["few bits"], indirect=True)
def test_a_method_with_other_decisions_keeps_none(models):
    assert not measured(recipe_of(["corp", "func"], merge_method="ties", parameters={"weight": 1})).decided


@pytest.mark.parametrize("models", ["few bits"], indirect=True)
def test_damaged_decisions(models):
    store, path = measured(), Path("store/decisions.json")
    whole = json.loads(path.read_text())
    for damaged in (
        {**whole, "version": "9"},
        {**whole, "layers": whole["layers"][1:]},
        {**whole, "layers": [{**each, "decision": each["decision"][:1]} for each in whole["layers"]]},
        {**whole, "layers": [{**each, "decision": "x"} for each in whole["layers"]]},
        [],
    ):
        path.write_text(json.dumps(damaged))
        with pytest.raises(StoreError, match="as sdmw measure writes it"):
            merged("out", store)
    path.write_text("{")
    with pytest.raises(StoreError):
        merged("out", store)
    changed = json.dumps(whole).replace(
        '"magnitude": {"model.layers.mlp.up.weight": ', '"magnitude": {"model.layers.mlp.up.weight": 1', 1
    )
    assert changed != json.dumps(whole)
    path.write_text(changed)
    with pytest.raises(StoreError, match="another checksum"):
        merged("out", store)
    path.unlink()
    assert not sdmw.open_store("store").decided
    merged("out", sdmw.open_store("store"))


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
    with pytest.raises(PlanError, match="the statistics of these files, found those of other files: 'corp'"):
        merged("out", store)
    assert not os.path.exists("out")


def test_values_that_are_not_finite_are_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_models(tmp_path)
    measured({**RECIPE, "nonfinite": "pass"})
    Path("recipe.yaml").write_text('{"merge_method": "sdm_w", "base_model": base, "models": [corp, func]}')
    assert told(capsys, monkeypatch, "merge", "recipe.yaml", "out", "--statistics", "store", "-q").code == 0


# What changes deltas and lies in no shard


def test_a_store_of_an_adapter_with_another_scale_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matrices = adapter_of(np.random.default_rng(1), write_models(tmp_path)["base"])
    write_adapter("tuned", matrices)
    recipe = recipe_of(["tuned", "func"])
    store = measured(recipe)
    sdmw.merge(recipe, "out", progress=False, statistics=store)
    config = Path("tuned/adapter_config.json")
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    with pytest.raises(PlanError, match="the statistics of these files, found those of other files: 'tuned'"):
        sdmw.merge(recipe, "other", progress=False, statistics=store)


def test_a_store_of_other_tokens_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "corp", "func")):
        write_model(name, ["<unk>", "a", "b"], seed=seed)
    aligned, plain = recipe_of(["corp", "func"], tokenizer_source="base"), recipe_of(["corp", "func"])
    store = measured(aligned)
    by_numbers = measured(plain, "by numbers")
    sdmw.merge(aligned, "out", progress=False, statistics=store)
    Path("corp/tokenizer.json").write_text(json.dumps(tokenizer(["<unk>", "b", "a"])))
    with pytest.raises(PlanError, match="the statistics of these files, found those of other files: 'corp'"):
        sdmw.merge(aligned, "other", progress=False, statistics=store)
    sdmw.merge(plain, "other", progress=False, statistics=by_numbers)


def test_a_store_that_was_measured_with_other_rows_for_a_token_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "corp", "func")):
        write_model(name, ["<unk>", "dtype", "b"], seed=seed)
    asked = [
        recipe_of(["corp", "func"], tokenizer={"source": "base", "tokens": {"dtype": {"source": model, "force": True}}})
        for model in ("corp", "func")
    ]
    with pytest.raises(PlanError, match="a recipe with the same deltas"):
        sdmw.merge(asked[1], "out", progress=False, statistics=measured(asked[0]))


def test_a_store_of_another_document_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_models(tmp_path)
    recipes = []
    for weight in (0.25, 0.75):
        recipes.append(f"{weight}.yaml")
        Path(recipes[-1]).write_text(
            "{name: mean, merge_method: linear, models: [corp, func], parameters: {normalize: false, "
            f"weight: [{{filter: mlp, value: {weight}}}, {{value: 1}}]}}}}\n---\n"
            "{merge_method: sdm_w, base_model: base, models: [mean, func]}"
        )
    store = measured(recipes[0])
    sdmw.merge(recipes[0], "out", progress=False, statistics=store)
    assert not sdmw.doctor(recipes[0], statistics=store).problems
    with pytest.raises(PlanError, match="a recipe with the same deltas"):
        sdmw.merge(recipes[1], "other", progress=False, statistics=store)


def test_models_whose_files_are_of_one_time_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_models(tmp_path)
    for name in ("base", "corp", "func"):
        os.utime(f"{name}/model.safetensors", ns=(1, 1))
    store = measured()
    merged("out", store)
    for old, new in (("corp", "once"), ("func", "corp"), ("once", "func")):
        os.rename(old, new)
    with pytest.raises(PlanError, match="the statistics of these files, found those of other files: 'corp', 'func'"):
        merged("other", store)


def test_another_version_of_an_object_is_another_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_models(tmp_path)
    planned = sdmw.plan(RECIPE)

    def told(version):
        """Of the plan with all shards as objects of a version."""
        sources = (
            (name, replace(each, shards=tuple(replace(shard, version=version) for shard in each.shards)))
            for name, each in planned.sources
        )
        return store_of(replace(planned, sources=tuple(sources)), "store").states

    assert told("one") == told("one")
    assert all(one != two for one, two in zip(told("one").values(), told("two").values(), strict=True))


def test_a_store_that_the_output_would_replace(models):
    store = measured()
    for path in ("store", "./store/"):
        with pytest.raises(PlanError, match="which the output would replace"):
            sdmw.merge(RECIPE, path, overwrite=True, progress=False, statistics="store")
    assert sdmw.plan(RECIPE, "store", overwrite=True, statistics=store).problems
    assert sdmw.open_store("store").models == store.models
