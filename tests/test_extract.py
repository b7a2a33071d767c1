"""`sdmw extract` against NumPy's whole decomposition; what it leaves out; what comes back from the adapter."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import told
from reference.rounding import STORED
from sdmw.errors import NonFiniteError, PlanError, UsageError
from sdmw.running import extraction


@pytest.fixture(params=[None, 100], ids=["whole", "by blocks"])
def world(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if request.param:
        monkeypatch.setattr(extraction, "ROWS", request.param)
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    tune = fine_tuned(rng, base, scale=0.02)
    low = rng.normal(0, 0.3, (48, 2)) @ rng.normal(0, 0.3, (2, 16))  # of rank 2, but for bfloat16's rounding
    name = "model.layers.0.mlp.up_proj.weight"
    tune[name] = (base[name].astype(np.float32) + low.astype(np.float32)).astype(STORED["BF16"])
    tune["model.layers.1.mlp.up_proj.weight"] = base["model.layers.1.mlp.up_proj.weight"]
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "tune", tune)
    return base, tune


def best_error(delta, rank):
    """Of the best approximation of a rank: Eckart, Young."""
    values = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
    return np.sqrt(np.square(values[rank:]).sum() / np.square(values).sum())


@pytest.mark.parametrize("rank", [1, 4, 16, 20])
def test_nearly_the_best_of_its_rank_and_the_error_is_true(world, rank):
    base, tune = world
    report = sdmw.extract("base", "tune", "out", rank=rank, progress=False)
    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": [{"model": "out"}]}
    sdmw.merge({**recipe, "out_dtype": "float32"}, "merged", progress=False)
    merged = load_file("merged/model.safetensors")
    for weight in report.weights:
        below, above = (each[weight.tensor].astype(np.float32) for each in (base, tune))
        delta = above - below
        assert weight.norm == pytest.approx(np.linalg.norm(delta.astype(np.float64)))
        if not weight.norm:
            assert weight.error == 0
            continue
        assert best_error(delta, rank) - 1e-6 <= weight.error <= 1.02 * best_error(delta, rank) + 1e-6
        left = np.linalg.norm((above - merged[weight.tensor]).astype(np.float64)) / weight.norm
        assert weight.error == pytest.approx(left, abs=1e-5)
    assert {weight.tensor for weight in report.weights} == {n for n, t in base.items() if t.ndim == 2}
    assert {each.tensor for each in report.left_out} == {n for n, t in base.items() if t.ndim == 1}
    saved = json.loads(Path("out/sdmw_report.json").read_text())
    assert saved["error"] == report.error


def test_the_same_again(world):
    for out in ("one", "two"):
        sdmw.extract("base", "tune", out, rank=3, progress=False)
    one, two = (Path(out, "adapter_model.safetensors") for out in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_conv1d_and_embeddings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    base = {
        n: rng.normal(0, 1, s).astype("f4") for n, s in {"wte.weight": (30, 12), "h.0.c_attn.weight": (12, 36)}.items()
    }
    tune = {n: t + rng.normal(0, 1, t.shape).astype("f4") for n, t in base.items()}
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    write_checkpoint("base", base, config=config)
    write_checkpoint("tune", tune, config=config)
    report = sdmw.extract("base", "tune", "out", rank=12, progress=False)
    assert report.error < 1e-6  # of full rank
    names = set(load_file("out/adapter_model.safetensors"))
    assert "base_model.model.transformer.wte.lora_embedding_A" in names  # as peft looks for it
    written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (written["fan_in_fan_out"], written["task_type"]) == (True, "CAUSAL_LM")
    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": [{"model": "out"}]}
    sdmw.merge(recipe, "merged", progress=False)
    for name, values in load_file("merged/model.safetensors").items():
        np.testing.assert_allclose(values, tune[name], atol=1e-5)


def test_what_an_adapter_cannot_say_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    base = {n: rng.normal(0, 1, (6, 8)).astype("f4") for n in ("embed_out.weight", "shared.weight")}
    base |= {"norm.bias": np.ones(8, "f4"), "scale": np.ones((2, 2)), "ids": np.arange(4)}
    write_checkpoint("base", base)
    tune = {**base, "norm.bias": np.zeros(8, "f4"), "scale": np.zeros((2, 2)), "head.weight": np.ones((2, 2), "f4")}
    write_checkpoint("tune", tune)
    report = sdmw.extract("base", "tune", "out", rank=2, progress=False)
    assert {each.tensor for each in report.left_out} == {"norm.bias", "scale", "head.weight"}
    names = {name.removeprefix("base_model.model.") for name in load_file("out/adapter_model.safetensors")}
    assert {"embed_out.lora_A.weight", "shared.lora_embedding_A"} <= names


class TestRefused:
    def test_ranks(self, world):
        for rank in (0, -1, True, 1.5, 5000):
            with pytest.raises(UsageError, match="rank"):
                sdmw.extract("base", "tune", "out", rank=rank, progress=False)

    def test_other_shapes_and_names(self, world, tmp_path):
        other = llama_like(np.random.default_rng(1), blocks=1, width=8)
        write_checkpoint("other", other)
        with pytest.raises(PlanError) as caught:
            sdmw.extract("base", "other", "out", progress=False)
        said = str(caught.value)
        assert "expected shape [40, 16]" in said
        assert "'model.layers.1.mlp.up_proj.weight': expected a tensor of each name" in said

    def test_an_adapter(self, world):
        sdmw.extract("base", "tune", "out", rank=2, progress=False)
        with pytest.raises(PlanError, match="expected a model, found an adapter"):
            sdmw.extract("base", "out", "again", progress=False)

    def test_what_is_not_finite(self, world, tmp_path):
        _, tune = world
        tune["lm_head.weight"][3, 3] = np.inf
        write_checkpoint("bad", tune)
        with pytest.raises(NonFiniteError, match=r"lm_head\.weight"):
            sdmw.extract("base", "bad", "out", rank=2, progress=False)
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / ".out.sdmw").exists()


def test_the_command(world, capsys, monkeypatch):
    said = told(capsys, monkeypatch, "extract", "base", "tune", "out", "--rank", "2")
    assert said.code == 0, said
    assert "model.layers.0.mlp.up_proj.weight" in said.out
    assert "of the whole delta, in 3 changed tensors (3 vectors)" in said.out
    assert "PeftModel.from_pretrained(base, 'out')" in said.out
