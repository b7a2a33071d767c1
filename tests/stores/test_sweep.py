"""A sweep against merges: what a row says is what the report of that merge says."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import write_checkpoint
from command_line import told
from sdmw.errors import StoreError, UsageError
from sdmw.stores.grid import MOST_SETTINGS
from stores.stores_on_disk import RECIPE, measured, recipe_of, write_models


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_models(tmp_path)


def merged(name, **parameters):
    return sdmw.merge({**RECIPE, "parameters": parameters}, name, progress=False)


def norm_of_a_merge(models, row):
    """Of what a merge with the settings of a row adds to the base."""
    law = {"power": row["power"], "norm": row["norm"], "scope": row["scope"]}
    parameters = {"k": row["k"], "lambda": row["lambda"], "granularity": row["granularity"], "normalization": law}
    reader = sdmw.open({**RECIPE, "parameters": parameters, "out_dtype": "float32"}, progress=False)
    added = (reader.get_tensor(name).astype("f8") - base.astype("f8") for name, base in models["base"].items())
    return np.sqrt(sum(float(np.square(each).sum()) for each in added))


@pytest.mark.parametrize("granularity", ["tensor", "module", "block", "component", "model"])
@pytest.mark.parametrize("k", [0, 10, 62.5, 100])
def test_a_row_is_what_a_merge_reports(models, granularity, k):
    (row,) = sdmw.sweep(measured(), k=k, power=2, granularity=granularity).rows
    report = merged("out", k=k, granularity=granularity, normalization="square")
    for number, model in enumerate(report.models):
        facts = model.facts
        for name, fact in (("weights", "weight"), ("magnitudes", "magnitude"), ("kept", "kept")):
            low, high = row[name][number]
            assert low <= facts[fact] <= high
            assert low == facts[fact] or not row["exact"]
        assert row["nonzero"][number] == facts["nonzero"]
    assert row["exact"] or k not in (0, 100)


def test_thresholds_are_what_a_merge_decides(models):
    thresholds = measured().thresholds(k=10)
    report = merged("out", k=10)
    assert {layer.name for layer in report.layers} == thresholds.keys()
    for layer in report.layers:
        for (low, high), facts in zip(thresholds[layer.name], layer.facts, strict=True):
            assert low <= facts["threshold"] <= high


def test_the_norm_of_a_merge_lies_within_its_bounds(models):
    rows = sdmw.sweep(measured(), k=[0, 30], lambda_=[1, 2.5]).rows
    for row in rows:
        low, high = row["merged_norm"]
        assert low * (1 - 1e-5) <= norm_of_a_merge(models, row) <= high * (1 + 1e-5)
        assert (low == high) == (row["k"] == 0)


def test_squares_weigh_as_plain_numpy_has_it(models):
    rows = sdmw.sweep(measured(), k=0, norm=2, power=[1, 2, -2]).rows
    squares = []
    for name in ("corp", "func"):
        deltas = [models[name][key].astype(np.float32) - models["base"][key] for key in models["base"]]
        squares.append(sum(float(np.square(each.astype(np.float64)).sum()) for each in deltas))
    for row in rows:
        powers = [each ** (row["power"] / 2) for each in squares]
        expected = [each / sum(powers) for each in powers]
        assert [low for low, _ in row["weights"]] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("k", "norm", "granularity"), [(0, 1, "tensor"), (30, 1, "block"), (30, 2, "tensor")])
def test_weights_of_layers_are_those_of_a_merge(models, k, norm, granularity):
    (row,) = sdmw.sweep(measured(), k=k, power=2, norm=norm, granularity=granularity, scope="layer").rows
    law = {"power": 2, "norm": norm, "scope": "layer"}
    report = merged("out", k=k, granularity=granularity, normalization=law)
    for (low, high), model in zip(row["weights"], report.models, strict=True):
        assert low * (1 - 1e-12) <= model.facts["mean_weight"] <= high * (1 + 1e-12)
    assert row["exact"] or k
    low, high = row["merged_norm"]
    assert low * (1 - 1e-5) <= norm_of_a_merge(models, row) <= high * (1 + 1e-5)
    assert (low == high) == (k == 0)


@pytest.mark.parametrize(("k", "scope"), [(0, "model"), (30, "model"), (30, "layer")])
def test_preserve_norm_is_what_a_merge_finds(models, k, scope):
    (row,) = sdmw.sweep(measured(), k=k, lambda_="preserve_norm", scope=scope).rows
    law = {"power": 1, "scope": scope}
    report = merged("out", k=k, normalization=law, **{"lambda": "preserve_norm"})
    low, high = row["scale"]
    assert low <= report.facts["lambda"] <= high
    assert (low == high == report.facts["lambda"]) or not row["exact"]
    assert high - low < 1e-2
    low, high = row["merged_norm"]
    assert low * (1 - 1e-5) <= norm_of_a_merge(models, row) <= high * (1 + 1e-5)


def test_models_that_cancel(models, tmp_path):
    opposed = {
        name: (2 * base.astype("f4") - models["corp"][name].astype("f4")) for name, base in models["base"].items()
    }
    write_checkpoint(tmp_path / "opposed", opposed)
    store = measured({**RECIPE, "models": [{"model": "corp"}, {"model": "opposed"}]})
    first, second = sdmw.sweep(store, k=[0, 30], lambda_="preserve_norm").rows
    assert first["scale"] == (1.0, 1.0)
    assert second["scale"][0] == 1.0


def test_every_combination_is_a_row(models):
    sweep = sdmw.sweep(measured(), k=[0, 10], power=[1, 2], norm=[1, 2], lambda_=[1, 3])
    settings = [(row["k"], row["power"], row["norm"], row["lambda"]) for row in sweep.rows]
    assert len(set(settings)) == len(settings) == 16
    assert sdmw.sweep("store", k=range(0, 101, 50)).rows[1]["k"] == 50.0


def test_as_text(models):
    sweep = sdmw.sweep(measured(), k=[0, 10])
    assert json.loads(sweep.to_json()) == sweep.to_dict()
    lines = list(csv.DictReader(io.StringIO(sweep.to_csv())))
    assert [float(line["weights func high"]) for line in lines] == [row["weights"][1][1] for row in sweep.rows]


def test_models_that_change_nothing(models, tmp_path):
    write_checkpoint(tmp_path / "same", models["base"])
    store = measured({**RECIPE, "models": [{"model": "same"}, {"model": "corp"}]})
    for row in sdmw.sweep(store, k=[0, 50], power=[-1, 0, 1], norm=[1, 2]).rows:
        assert row["weights"] == ((0.0, 0.0), (1.0, 1.0))
        assert row["kept"][0] == (0, 0)


# Grids that there are not


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"k": [-1]}, "k: expected a number from 0 to 100, found -1"),
        ({"k": [float("nan")]}, "k: expected"),
        ({"k": [True]}, "k: expected"),
        ({"k": ["10"]}, "k: expected"),
        ({"power": [1e9]}, "power: expected"),
        ({"norm": [3]}, "norm: expected 1 or 2"),
        ({"granularity": ["head"]}, "granularity: expected tensor, module"),
        ({"lambda_": [float("inf")]}, "lambda: expected"),
        ({"lambda_": "keep_norm"}, "lambda: expected a number that float32 holds, or preserve_norm, found 'keep_norm'"),
        ({"scope": ["block"]}, "scope: expected model, layer, found 'block'"),
        ({"k": []}, "found 0 "),
        ({"k": range(10**9), "power": range(100)}, r"found 100,000,000,000 \(1,000,000,000 k × 100 power × 1 norm"),
        ({"k": range(MOST_SETTINGS + 1)}, "1 to 10,000 settings"),
    ],
)
def test_grids_that_are_refused(models, grid, said):
    measured()
    with pytest.raises(UsageError, match=said):
        sdmw.sweep("store", **grid)


def test_what_is_no_store(models):
    with pytest.raises(StoreError):
        sdmw.sweep("base")


# The command line


def test_a_sweep_on_a_narrow_terminal(models, capsys, monkeypatch):
    for old, new in (("corp", "[bold]corp"), ("func", "a" * 20)):
        shutil.copytree(old, new)
    measured(recipe_of(["./[bold]corp", "a" * 20]))
    wide = told(capsys, monkeypatch, "sweep", "store", "--lambda", "1,preserve_norm").out.splitlines()
    assert "kept ./[bold]corp" in wide[0]
    for name, value in {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    narrow = re.sub(
        r"\x1b\[[0-9;]*m", "", told(capsys, monkeypatch, "sweep", "store", "--lambda", "1,preserve_norm").out
    )
    head, *rows = (line.split() for line in narrow.splitlines())
    assert head == ["lambda", "norm", "model", "weight", "kept"]
    assert [row[-3] for row in rows] == ["./[bold]corp", "a" * 20] * 2
    assert all(word in narrow for line in wide[1:] for word in line.split())


def test_the_commands(models, capsys, monkeypatch):
    with open("recipe.yaml", "w") as file:
        json.dump(RECIPE, file)
    assert told(capsys, monkeypatch, "measure", "recipe.yaml", "store", "-q").code == 0
    printed = told(capsys, monkeypatch, "sweep", "store", "--k", "0,10", "--power", "1,2").out.splitlines()
    assert printed[0].split()[:2] == ["k", "power"]
    assert len(printed) == 5
    found = json.loads(told(capsys, monkeypatch, "sweep", "store", "--k", "0,10", "--json").out)
    assert found == sdmw.sweep("store", k=[0, 10]).to_dict()
    assert told(capsys, monkeypatch, "sweep", "store", "--csv").out == sdmw.sweep("store").to_csv()
    failed = told(capsys, monkeypatch, "sweep", "store", "--k", "ten")
    assert (failed.code, failed.errors) == (2, ["k: expected numbers between commas, such as 0,10,50, found 'ten'"])
