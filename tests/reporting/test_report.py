"""What the report and its table say where there is no one number to say."""

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from sdmw.reporting.as_json import as_json
from sdmw.reporting.terminal import print_report


@pytest.fixture
def merged(tmp_path, monkeypatch):
    """Merges two fine-tunes; the second is the base itself."""
    monkeypatch.chdir(tmp_path)
    base = llama_like(np.random.default_rng(2))
    write_checkpoint("base", base)
    write_checkpoint("corp", fine_tuned(np.random.default_rng(3), base))
    write_checkpoint("same", base)

    def merge(**recipe):
        models = [{"model": "corp"}, {"model": "same"}]
        given = {"merge_method": "sdm_w", "base_model": "base", "models": models, **recipe}
        return sdmw.merge(given, "out", progress=False)

    return merge


def rows(report, capsys):
    print_report(report)
    return [line.split("  ") for line in capsys.readouterr().out.splitlines()[1:3]]


def cells(report, capsys):
    return [[cell.strip() for cell in row if cell.strip()] for row in rows(report, capsys)]


def test_a_model_that_changed_nothing_has_no_share(merged, capsys):
    report = merged()
    corp, same = report.models
    assert same.facts == {
        "weight": 0, "magnitude": 0, "nonzero": 0, "kept": 0, "kept_share": None,
        "magnitude_by_component": dict.fromkeys(corp.facts["magnitude_by_component"], 0),
    }  # fmt: skip
    assert 0.89 < corp.facts["kept_share"] <= 1
    assert corp.facts["kept_share"] == corp.facts["kept"] / corp.facts["nonzero"]
    assert all(layer.facts[1]["threshold"] is None for layer in report.layers)
    assert cells(report, capsys)[1] == ["same", "0", "0.0000", "–"]


def test_weights_that_differ_between_tensors(merged, capsys):
    weight = [{"filter": "mlp", "value": 0.5}, {"value": 0.25}]
    report = merged(parameters={"weight": weight})
    assert [model.facts["weight"] for model in report.models] == [None, None]
    assert report.models[0].facts["magnitude"] > 0
    assert [row[2] for row in cells(report, capsys)] == ["–", "–"]


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_methods_that_measure_nothing(merged, capsys, method):
    models = [{"model": name, "parameters": {"weight": 0.5}} for name in ("corp", "same")]
    report = merged(merge_method=method, models=models)
    assert report.facts == {}
    assert report.run.bytes_read_again == 0
    assert [model.facts for model in report.models] == [{"weight": 0.5}, {"weight": 0.5}]
    assert all(layer.facts == () and layer.decision is None for layer in report.layers)
    assert cells(report, capsys) == [["corp", "0.5000"], ["same", "0.5000"]]


def test_layers_that_are_not_measured_beside_others_that_are(merged):
    report = merged(parameters={"weight": 1, "k": [{"filter": "mlp", "value": 50}, {"value": 0}]})
    for layer in report.layers:
        measured = "mlp" in layer.name
        assert (layer.facts[0]["nonzero"] is not None) == measured
        assert (layer.facts[0]["threshold"] is not None) == measured
    assert report.models[0].facts["magnitude"] is None


def test_json_holds_what_utf_8_cannot():
    assert as_json({"é": "Модель"}) == '{\n  "é": "Модель"\n}\n'
    assert as_json({"é": "\udcff"}) == '{\n  "\\u00e9": "\\udcff"\n}\n'
