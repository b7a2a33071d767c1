"""Files that come along from the base alone: what the models have otherwise is said, a line for each file."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import CONFIG, write_checkpoint

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 12345\n"
POOLING = "1_Pooling/config.json"
MODULES = [{"idx": 0, "path": "", "type": "T"}, {"idx": 1, "path": "1_Pooling", "type": "P"}]


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    """A base and two fine-tunes, a and b, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "a", "b"):
        write_checkpoint(name, {"w": np.ones(3, np.float32)})


def put(path, content, *folders):
    for folder in folders:
        file = Path(folder, path)
        file.parent.mkdir(exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))


def said():
    plan = sdmw.plan({"merge_method": "linear", "base_model": "base", "models": ["a", "b"]})
    assert plan.problems == ()
    return [warning for warning in plan.warnings if "copied, not merged" not in warning]


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json", "audio_tokenizer_config.json"])
def test_processors_are_compared_by_what_they_say(name):
    put(name, {"hop_length": 160, "processor_class": "Old", "size": {"height": 4}}, "base")
    put(name, {"size": {"height": 4}, "processor_class": "New", "hop_length": 160, "padding": None}, "a")
    put(name, {"hop_length": 320, "size": {"height": 4}}, "b")
    assert said() == [
        f"{name}: model 'b' has one that differs from the base's; the output gets the base's: hop_length 320 "
        "(base: 160)"
    ]


@pytest.mark.parametrize("name", ["LICENSE", "License.txt", "licence.md", "NOTICE"])
def test_terms_that_a_model_alone_has_are_said(name):
    put(name, "Do as you like.\n", "base", "a")
    put(name, "Research only.\n", "b")
    assert said() == [f"{name}: model 'b' has one that differs from the base's; the output gets the base's"]
    Path("base", name).unlink()
    assert said() == [f"{name}: the base has no such file, so the output has none; all models have one"]


def test_what_all_models_agree_on_is_one_warning():
    put("modules.json", MODULES, "base", "a", "b")
    put(POOLING, {"pooling_mode": "mean"}, "base")
    put(POOLING, {"pooling_mode": "cls"}, "a", "b")
    assert said() == [
        f"{POOLING}: all models have one that differs from the base's; the output gets the base's: "
        "pooling_mode 'cls' (base: 'mean')"
    ]
    put(POOLING, {"pooling_mode": "max"}, "b")
    assert said() == [f"{POOLING}: all models have one that differs from the base's; the output gets the base's"]


def test_files_that_the_base_lacks():
    put("modules.json", MODULES, "a")
    put(POOLING, {"pooling_mode": "cls"}, "a")
    put("mm_projector.bin", "x", "a", "b")
    put("value_head.bin", "x", "b")
    none = "the base has no such file, so the output has none"
    assert said() == [
        f"mm_projector.bin: {none}; all models have one",
        f"modules.json: {none}; model 'a' has one",
        f"{POOLING}: {none}; model 'a' has one",
        f"value_head.bin: {none}; model 'b' has one",
    ]


def test_files_that_no_loader_reads_are_none_of_them():
    for name in (
        "notes.txt",
        "eval_results.json",
        "training_args.bin",
        "optimizer.pt",
        "pytorch_model.bin",
        "train.py",
    ):
        put(name, "x", "a")
    put("checkpoint-500/config.json", {}, "a")
    put("3_Other/config.json", {"x": 1}, "a")
    put("spk_dict.pt", "x", "base")
    assert said() == []


def test_modules_that_a_file_says_lie_elsewhere_are_not_looked_for():
    put("x.bin", "x", ".")
    put("modules.json", [{"path": "../"}, {"path": os.getcwd()}, {"path": 3}, 4], "base", "a", "b")
    assert said() == []


def test_weights_of_other_parts_are_compared_by_their_bytes():
    put("spk_dict.pt", "one", "base", "a")
    put("spk_dict.pt", "two", "b")
    assert said() == ["spk_dict.pt: model 'b' has one that differs from the base's; the output gets the base's"]
    put("spk_dict.pt", "three", "a")
    assert said() == ["spk_dict.pt: all models have one that differs from the base's; the output gets the base's"]


def test_large_ones_are_compared_by_a_sample():
    for name in ("base", "a", "b"):
        with open(f"{name}/spk_dict.pt", "wb") as file:
            file.truncate(64 * 2**20 + 1)
    assert [line for line in said() if "not copied" not in line] == []
    with open("b/spk_dict.pt", "r+b") as file:
        file.write(b"x")
    assert [line for line in said() if "not copied" not in line] == [
        "spk_dict.pt: model 'b' has one that differs from the base's; the output gets the base's"
    ]


def test_code_is_compared_where_a_config_names_some():
    put("attention.py", "one", "base", "a")
    put("attention.py", "two", "b")
    assert said() == []
    put("config.json", {**CONFIG, "auto_map": {"AutoModel": "modeling_x.X"}}, "a", "b")
    put("modeling_x.py", "x", "a")
    none = "the base has no such file, so the output has none"
    assert said() == [
        f"attention.py: {none}; all models have one",
        f"modeling_x.py: {none}; model 'a' has one",
    ]
    put("config.json", {**CONFIG, "auto_map": {"AutoModel": "modeling_x.X"}}, "base")
    assert said()[0] == "attention.py: model 'b' has one that differs from the base's; the output gets the base's"


def test_pointers_of_git_lfs_are_not_compared():
    put("tokenizer.json", {"model": {"vocab": {"a": 0}}}, "base", "b")
    put("preprocessor_config.json", {"x": 1}, "base")
    for name in ("tokenizer.json", "preprocessor_config.json", "pytorch_model.bin"):
        put(name, POINTER, "a")
    assert said() == [
        "model 'a': Git LFS pointers instead of files, which are not compared: "
        "'preprocessor_config.json', 'tokenizer.json'"
    ]


def test_a_base_without_a_tokenizer():
    put("tokenizer.json", {"model": {"vocab": {"a": 0}}}, "a")
    assert said() == ["the base has no tokenizer, so the output has none; model 'a' has one: copy its files"]
    put("vocab.txt", "a", "b")
    assert said() == ["the base has no tokenizer, so the output has none; all models have one: copy its files"]
    put("vocab.txt", "a", "base")
    assert said() == []
