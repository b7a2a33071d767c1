"""Which checkpoint each name of a recipe comes to, those of the Hub cache among them."""

import json
from pathlib import Path

import numpy as np
import pytest

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint

OLD, NEW = "0" * 40, "1" * 40


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A base, a fine-tune and two adapters; the cache has the fine-tune, and both adapters as revisions of one."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    base = llama_like(rng)
    adapters = [adapter_of(rng, base), adapter_of(rng, base)]
    write_checkpoint(tmp_path / "base", base)
    for folder in (tmp_path / "one", snapshot(tmp_path, "org--lora", OLD, "main")):
        write_adapter(folder, adapters[0])
    for folder in (tmp_path / "two", snapshot(tmp_path, "org--lora", NEW, "v2")):
        write_adapter(folder, adapters[1])
    write_checkpoint(snapshot(tmp_path, "org--tune", OLD, "main"), fine_tuned(rng, base))
    return tmp_path


def snapshot(path, name, commit, branch):
    repository = path / "hub" / f"models--{name}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / branch).write_text(commit)
    (repository / "snapshots").mkdir(exist_ok=True)
    return repository / "snapshots" / commit


def recipe(*models, base="base", method="task_arithmetic"):
    weighed = [{"model": model, "parameters": {"weight": 0.5}} for model in models]
    return {"merge_method": method, "base_model": base, "models": weighed}


def problems(*models, **fields):
    return [str(problem) for problem in sdmw.plan(recipe(*models, **fields)).problems]


def test_revisions_of_an_adapter_in_the_cache(world):
    for name, folder in (("org/lora", "one"), ("org/lora@v2", "two"), (f"org/lora@{OLD}", "one")):
        for alone in ("", "base+"):
            sdmw.merge(recipe(f"{alone}{name}"), "cached", progress=False, overwrite=True)
            sdmw.merge(recipe(f"base+{folder}"), "local", progress=False, overwrite=True)
            merged = [(world / out / "model.safetensors").read_bytes() for out in ("cached", "local")]
            assert merged[0] == merged[1]


def test_two_revisions_of_an_adapter_are_two_models(world):
    report = sdmw.merge(recipe("base+org/lora", "base+org/lora@v2"), "out", progress=False)
    assert [model.name for model in report.models] == ["base+org/lora", "base+org/lora@v2"]
    card = (world / "out" / "README.md").read_text()
    assert card.count('- "org/lora"') == 1


@pytest.mark.parametrize("name", ["org/tune", "org/lora", "base+org/lora"])
def test_a_branch_and_its_commit_are_one_model(world, name):
    assert problems(name, f"{name}@{OLD}") == [f"'{name}@{OLD}': expected each model once, found the same as '{name}'"]


def test_an_adapter_on_the_base_s_adapter_is_not_one_on_the_bare_base(world):
    """Two names, of one adapter on two models; these were once taken for one."""
    assert problems("two", "base+two", base="base+one") == []


def test_a_revision_that_is_not_there(world):
    (problem,) = problems("base+org/lora@v3")
    assert problem.startswith("models.0.model: 'org/lora@v3': no directory")


def test_an_extracted_adapter_names_the_revision_of_its_base(world):
    write_checkpoint(world / "corp", llama_like(np.random.default_rng(4)))
    sdmw.extract("org/tune@main", "corp", "out", rank=2, progress=False)
    config = json.loads((world / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tune", "main")
    sdmw.extract("base", "corp", "local", rank=2, progress=False)
    config = json.loads((world / "local" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"
    assert "revision" not in config


def test_an_adapter_of_a_base_that_has_another_on_it(world):
    """The base is the one it was trained on, whatever revision the recipe names and whatever is on it."""
    write_checkpoint(snapshot(world, "org--base", OLD, "v1"), llama_like(np.random.default_rng(3)))
    write_adapter(world / "b", adapter_of(np.random.default_rng(5), llama_like(np.random.default_rng(3))),
                  base_model_name_or_path="org/base")  # fmt: skip
    plan = sdmw.plan(recipe("b", base="org/base@v1+one"))
    assert (plan.problems, [warning for warning in plan.warnings if str(world / "b") in warning]) == ((), [])


def test_every_name_that_is_no_directory_has_its_place_and_its_mend(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("d/base", "d/func"):
        write_checkpoint(tmp_path / name, {"model.norm.weight": np.zeros(4, np.float32)})
    Path("m.gguf").touch()
    Path("r.yaml").write_text(
        "merge_method: sdm_w\nbase_model: d/base\nmodels:\n"
        "  - d/fnuc\n  - model: $HOME/x\n  - {model: m.gguf}\n  - d/func/model.safetensors\n  - ./d/func+d/bsae\n"
    )
    told = [str(problem) for problem in sdmw.plan("r.yaml").problems]
    wanted = [
        ("r.yaml:4:5: models.0.model: 'd/fnuc': ", "Did you mean 'd/func'?"),
        ("r.yaml:5:12: models.1.model: '$HOME/x': ", "$ is not expanded in a recipe: write the path itself"),
        ("r.yaml:6:13: models.2.model: 'm.gguf': a file, not", "name the directory of its safetensors files"),
        ("r.yaml:7:5: models.3.model: 'd/func/model.safetensors': a file, not", "Name the directory: d/func"),
        ("r.yaml:8:5: models.4.model: 'd/bsae': ", "Did you mean 'd/base'?"),
    ]
    for line, (start, end) in zip(told, wanted, strict=True):
        assert line.startswith(start)
        assert line.endswith(end)
        assert "pip install" not in line
    (problem,) = sdmw.plan({"merge_method": "linear", "models": ["./d/fnuc"]}).problems
    assert str(problem).startswith("models.0.model: './d/fnuc': no such directory")
    assert str(problem).endswith("Did you mean './d/func'?")
