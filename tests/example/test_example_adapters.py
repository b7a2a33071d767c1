"""The example's adapters, trained by peft; and the README's recipe, which mixes one with a full fine-tune."""

import json
import re
from pathlib import Path

import pytest

import sdmw

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
ADAPTERS = ["corp-lora", "func-lora"]


@pytest.fixture(autouse=True)
def at_the_top(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", ADAPTERS)
def test_they_fit_the_base(name):
    config = json.loads((DATA / name / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tests/data/base"
    recipe = {"merge_method": "linear", "base_model": "tests/data/base", "models": [{"model": f"tests/data/{name}"}]}
    plan = sdmw.plan(recipe)
    assert plan.problems == ()
    assert plan.warnings == ()
    assert len(sdmw.inspect(DATA / name).tensors) == 56  # A and B of seven weights of each block


def test_the_recipe_of_the_readme(tmp_path):
    (text,) = re.findall(
        r"```yaml\n(merge_method: sdm_w\nbase_model: tests/data/base\n.*?)```",
        (ROOT / "README.md").read_text(),
        re.DOTALL,
    )
    (tmp_path / "recipe.yaml").write_text(text)
    report = sdmw.merge(tmp_path / "recipe.yaml", tmp_path / "out", progress=False)
    assert [model.name for model in report.models] == ["tests/data/corp", "tests/data/func-lora"]
    assert all(model.facts["weight"] > 0.2 for model in report.models)
    assert sdmw.verify(tmp_path / "out", sample=1).problems == ()


@pytest.mark.parametrize("kind", ["linear", "cat", "svd"])
def test_both_combine(tmp_path, kind):
    models = [{"model": f"tests/data/{name}", "parameters": {"weight": 0.5}} for name in ADAPTERS]
    recipe = {"merge_method": "lora", "base_model": "tests/data/base", "models": models}
    parameters = {"combination_type": kind, "output": "adapter"}
    report = sdmw.merge({**recipe, "parameters": parameters}, tmp_path / "out", progress=False)
    assert [model.facts["weight"] for model in report.models] == [0.5, 0.5]
    assert sdmw.verify(tmp_path / "out", sample=1).problems == ()
