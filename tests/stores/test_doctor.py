"""The doctor: headers first, evidence from a store of the same inputs, no verdict; exit code 1 for problems alone."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from ruamel.yaml import YAML

import sdmw
from checkpoints_on_disk import fine_tuned, write_checkpoint
from command_line import told
from sdmw.errors import PlanError, StoreError
from sdmw.reporting.diagnosis import CAUTION
from sdmw.reporting.diagnosis_lines import MOST_PAIRS
from sdmw.reporting.findings import _WORDS
from stores.stores_on_disk import RECIPE, measured, recipe_of, write_models


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_models(tmp_path)


def test_headers_alone(models):
    found = sdmw.doctor(RECIPE)
    assert (found.models, found.problems, found.evidence, found.findings) == (("corp", "func"), (), None, ())


def test_problems_come_all_at_once_and_before_the_store(models):
    measured()
    broken = {**RECIPE, "models": [{"model": "nobody"}, {"model": "nothing"}, {"model": "corp"}]}
    found = sdmw.doctor(broken, statistics="store")
    assert {os.path.basename(problem.found.split("'")[1]) for problem in found.problems} == {"nobody", "nothing"}
    assert found.evidence is None
    with pytest.raises(StoreError):
        sdmw.doctor(broken, statistics="base")


def test_warnings_and_notes_are_those_of_the_plan(models):
    with open("func/config.json") as file:
        config = json.load(file)
    with open("func/config.json", "w") as file:
        json.dump({**config, "eos_token_id": 7}, file)
    planned, found = sdmw.plan(RECIPE), sdmw.doctor(RECIPE)
    assert planned.warnings or planned.notes
    assert (found.warnings, found.notes) == (planned.warnings, planned.notes)


@pytest.mark.parametrize("k", [0, 30])
def test_evidence_is_that_of_the_merge(models, k):
    recipe = {**RECIPE, "parameters": {"k": k}}
    found = sdmw.doctor(recipe, statistics=measured(recipe)).evidence
    report = sdmw.merge(recipe, "out", progress=False)
    assert found.own
    for own, model in zip(found.models, report.models, strict=True):
        deltas = [models[own.name][n].astype("f4") - models["base"][n].astype("f4") for n in models["base"]]
        delta = np.concatenate([each.reshape(-1) for each in deltas])
        assert own.norm == pytest.approx(np.linalg.norm(delta.astype("f8")), rel=1e-9)
        assert own.changed == np.count_nonzero(delta) / delta.size
        assert own.weight[0] <= model.facts["weight"] <= own.weight[1]
    assert sum(own.share for own in found.models) == pytest.approx(1)
    (pair,) = found.pairs
    assert (pair.one, pair.other) == ("corp", "func")
    assert 0 < pair.shared < 1


def test_methods_that_a_store_does_not_know_get_the_evidence_too(models):
    store = measured()
    recipe = recipe_of(["corp", "func"], merge_method="ties", parameters={"density": 0.5, "weight": 1})
    found = sdmw.doctor(recipe, statistics=store)
    assert not found.evidence.own
    assert [own.weight for own in found.evidence.models] == [(0.5, 0.5)] * 2


def test_a_store_of_other_inputs_is_refused(models, tmp_path):
    measured()
    with pytest.raises(PlanError, match="the statistics of 'func', 'corp'"):
        sdmw.doctor(recipe_of(["func", "corp"]), statistics="store")
    shutil.rmtree("corp")
    write_checkpoint(tmp_path / "corp", fine_tuned(np.random.default_rng(9), models["base"], scale=1.0))
    with pytest.raises(PlanError, match="the statistics of these files"):
        sdmw.doctor(RECIPE, statistics="store")


SAID = re.compile(r"`((?:lambda|normalization|k|out_dtype|nonfinite): [^`]+)`")


def test_advice_is_in_the_recipe_language(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"model.layers.0.mlp.gate.weight": (4, 8), "model.layers.0.mlp.experts.0.gate_proj.weight": (8, 8)}
    rng = np.random.default_rng(1)
    base = {name: rng.normal(0, 1, shape).astype("f4") for name, shape in names.items()}
    write_checkpoint(tmp_path / "base", base)
    for name in ("corp", "func"):
        write_checkpoint(tmp_path / name, fine_tuned(rng, base))
    fields = [field for each in _WORDS.values() for field in SAID.findall(each.advice)]
    assert len(fields) == 6
    for field in fields:
        given = YAML(typ="safe").load(field)
        own = given if given.keys() & {"out_dtype", "nonfinite"} else {"parameters": given}
        assert sdmw.plan({**RECIPE, **own}).problems == ()
        if "filter" in field:
            reader = sdmw.open({**RECIPE, **own}, progress=False)
            equal = {name for name in names if np.array_equal(reader.get_tensor(name), base[name])}
            assert equal == {"model.layers.0.mlp.gate.weight"}


# The command line


def test_the_command(models, capsys, monkeypatch):
    with open("recipe.yaml", "w") as file:
        json.dump(RECIPE, file)
    first = told(capsys, monkeypatch, "doctor", "recipe.yaml")
    assert first.code == 0
    assert "sdmw measure recipe.yaml STORE, then sdmw doctor recipe.yaml --statistics STORE" in first.out
    measured("recipe.yaml")
    second = told(capsys, monkeypatch, "doctor", "recipe.yaml", "--statistics", "store")
    lines = second.out.splitlines()
    assert second.code == 0
    assert "The merged delta is shorter than the deltas that it combines" in lines
    assert lines[-1] == CAUTION
    assert "store" in next(line for line in lines if line.startswith("evidence"))
    printed = json.loads(told(capsys, monkeypatch, "doctor", "recipe.yaml", "--statistics", "store", "--json").out)
    assert printed == sdmw.doctor("recipe.yaml", statistics="store").to_dict()
    shutil.rmtree("func")
    third = told(capsys, monkeypatch, "doctor", "recipe.yaml", "--statistics", "store")
    assert third.code == 1
    assert "not examined: solve the problems first" in third.out
    assert len(third.errors) == 1


def test_many_pairs_are_cut(models, tmp_path, capsys, monkeypatch):
    names = [f"m{number}" for number in range(8)]
    for name in names:
        write_checkpoint(tmp_path / name, {**models["corp"], "model.norm.weight": models["base"]["model.norm.weight"]})
    with open("recipe.yaml", "w") as file:
        json.dump(recipe_of(names), file)
    measured("recipe.yaml")
    out = told(capsys, monkeypatch, "doctor", "recipe.yaml", "--statistics", "store").out
    assert f"and {8 * 7 // 2 - MOST_PAIRS} more pairs: see --json" in out
    assert "and 23 more: see --json" in out  # of the pairs that changed in the same direction
