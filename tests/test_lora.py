"""`merge_method: lora` against whole NumPy arrays: a model, and an adapter."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from adapters_on_disk import PREFIX, adapter_of, factors, write_adapter
from checkpoints_on_disk import llama_like, write_checkpoint
from command_line import told
from reference import lora, low_rank
from reference.rounding import rounded
from sdmw.errors import NonFiniteError

MODULES = {  # of the world below: the ranks that its two adapters have there
    "model.layers.0.self_attn.q_proj": (4, 4),
    "model.layers.1.self_attn.q_proj": (4, 4),
    "model.layers.0.mlp.up_proj": (4, None),
    "model.layers.1.mlp.up_proj": (4, None),
}
SCALINGS = (low_rank.scaling(8, 4), low_rank.scaling(5, 4, rslora=True))


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    write_checkpoint(tmp_path / "base", base)
    one, two = adapter_of(rng, base), adapter_of(rng, base, modules=("q_proj",), dtype="BF16")
    write_adapter(tmp_path / "one", one)
    write_adapter(tmp_path / "two", two, lora_alpha=5, use_rslora=True)
    return base, one, two


def run(kind, weights=(1.0, 1.0), names=("one", "two"), out="out", dtype=None, **parameters):
    recipe = {
        "merge_method": "lora",
        "base_model": "base",
        "models": [{"model": n, "parameters": {"weight": w}} for n, w in zip(names, weights, strict=True)],
        "parameters": {"combination_type": kind, **parameters},
        **({"out_dtype": dtype} if dtype else {}),
    }
    return sdmw.merge(recipe, out, progress=False)


def of(world, module):
    """What the adapters have of a module."""
    found = []
    for adapter, scaling in zip(world[1:], SCALINGS, strict=True):
        if f"{PREFIX}{module}.lora_A.weight" in adapter:
            found.append((*(adapter[f"{PREFIX}{module}.lora_{x}.weight"] for x in "AB"), scaling))
    return found


def expected(world, kind, weights, rank):
    """A and B of every module, rounded."""
    return {
        m: [x.astype(np.float32) for x in lora.combined(kind, parts, weights[: len(parts)], rank)]
        for m in MODULES
        if (parts := of(world, m))
    }


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.6, -0.4)])
@pytest.mark.parametrize(("kind", "rank"), [("linear", 4), ("cat", 8)])
def test_the_combined_adapter_to_the_bit(world, kind, rank, weights):
    run(kind, weights, output="adapter")
    found = load_file("out/adapter_model.safetensors")
    pairs = expected(world, kind, weights, rank)
    assert set(found) == {f"{PREFIX}{module}.lora_{x}.weight" for module in pairs for x in "AB"}
    for module, (a, b) in pairs.items():
        np.testing.assert_array_equal(found[f"{PREFIX}{module}.lora_A.weight"], a)
        np.testing.assert_array_equal(found[f"{PREFIX}{module}.lora_B.weight"], b)
    config = json.loads(Path("out/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (rank, rank, False)
    assert config["target_modules"] == sorted(MODULES)
    assert config["task_type"] == "CAUSAL_LM"
    assert sorted(os.listdir("out")) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "sdmw_recipe.yaml", "sdmw_report.html",
        "sdmw_report.json",
    ]  # fmt: skip
    assert "library_name: peft" in Path("out/README.md").read_text()
    assert sdmw.verify("out", sample=1).problems == ()


@pytest.mark.parametrize("rank", [1, 3, 8, 20])
def test_svd_is_the_best_of_its_rank(world, rank):
    """Its product is that of NumPy's whole decomposition; beyond the ranks of the deltas it is their sum."""
    run("svd", (0.6, -0.4), output="adapter", svd_rank=rank)
    found = load_file("out/adapter_model.safetensors")
    for module, (a, b) in expected(world, "svd", (0.6, -0.4), rank).items():
        mine_a, mine_b = (found[f"{PREFIX}{module}.lora_{x}.weight"].astype(np.float64) for x in "AB")
        assert (mine_a.shape, mine_b.shape) == (a.shape, b.shape)
        np.testing.assert_allclose(mine_b @ mine_a, b.astype(np.float64) @ a, atol=1e-7)
        kept = np.abs(mine_a).max(axis=1) > 0
        np.testing.assert_allclose(mine_a[kept] @ mine_a[kept].T, np.eye(kept.sum()), atol=1e-6)  # as peft's V


def test_without_a_rank_svd_keeps_the_largest(world, tmp_path):
    """With the smallest, part of the adapters would be lost."""
    two = adapter_of(np.random.default_rng(3), world[0], modules=("q_proj",), rank=7)
    write_adapter(tmp_path / "three", two, r=7)
    run("svd", names=("one", "three"), output="adapter")
    assert json.loads(Path("out/adapter_config.json").read_text())["r"] == 7
    for name, matrix in load_file("out/adapter_model.safetensors").items():
        assert matrix.shape[0 if "lora_A" in name else 1] == 7


@pytest.mark.parametrize("kind", ["linear", "cat", "svd"])
def test_an_adapter_that_lacks_a_module_leaves_the_others_their_weights(world, kind):
    """The first one lacks half of them here: the second keeps its own weight, and does not get the first one's."""
    run(kind, (0.7, 0.2), ["two", "one"], output="adapter", **({"svd_rank": 8} if kind == "svd" else {}))
    found = load_file("out/adapter_model.safetensors")
    for module in MODULES:
        parts = of(world, module)[::-1]
        rank = {"linear": 4, "cat": 8, "svd": 8}[kind]
        a, b = lora.combined(kind, parts, (0.7, 0.2)[-len(parts) :], rank)
        mine_a, mine_b = (found[f"{PREFIX}{module}.lora_{x}.weight"].astype(np.float64) for x in "AB")
        np.testing.assert_allclose(mine_b @ mine_a, b.astype(np.float64) @ a, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "cat", "svd"])
def test_the_model_is_the_base_with_the_combined_adapter(world, kind):
    """The same bits as the adapter that `output: adapter` writes, put on the base."""
    run(kind, (0.6, 0.4), ["one", "two"], "model")
    run(kind, (0.6, 0.4), output="adapter", out="adapter")
    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": [{"model": "adapter"}]}
    sdmw.merge(recipe, "applied", progress=False)
    model, applied = load_file("model/model.safetensors"), load_file("applied/model.safetensors")
    for name, tensor in model.items():
        np.testing.assert_array_equal(tensor.view(np.uint8), applied[name].view(np.uint8), err_msg=name)
    assert any((model[name] != tensor).any() for name, tensor in world[0].items())
    assert sdmw.verify("model", sample=1).problems == ()


def test_cat_is_the_sum_of_the_deltas(world):
    """Up to the rounding of A: what task_arithmetic adds, by one delta."""
    base = {name: tensor.astype(np.float32) for name, tensor in world[0].items()}
    run("cat", (0.6, 0.4), dtype="float32")
    found = load_file("out/model.safetensors")
    for name in base:
        delta = np.zeros(base[name].shape)
        for (a, b, scaling), weight in zip(of(world, name.removesuffix(".weight")), (0.6, 0.4), strict=False):
            delta += weight * scaling * (b.astype(np.float64) @ a.astype(np.float64))
        np.testing.assert_allclose(found[name], base[name] + delta, rtol=3e-7, atol=3e-9)


def test_an_output_dtype(world):
    run("cat", output="adapter", dtype="bfloat16")
    found = load_file("out/adapter_model.safetensors")
    for module, (a, _) in expected(world, "cat", (1, 1), 8).items():
        expected_bits = rounded(a, "BF16").view(np.uint16)
        np.testing.assert_array_equal(found[f"{PREFIX}{module}.lora_A.weight"].view(np.uint16), expected_bits)


def test_embeddings_and_conv1d(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    base = {
        "wte.weight": rng.normal(0, 1, (30, 12)).astype("f4"),
        "h.0.c_attn.weight": rng.normal(0, 1, (12, 36)).astype("f4"),
    }
    write_checkpoint(tmp_path / "base", base)
    for name in ("one", "two"):
        tensors = factors(rng, "transformer.h.0.c_attn", (36, 12))
        tensors[f"{PREFIX}transformer.wte.lora_embedding_A"] = rng.normal(0, 1, (4, 30)).astype("f4")
        tensors[f"{PREFIX}transformer.wte.lora_embedding_B"] = rng.normal(0, 1, (12, 4)).astype("f4")
        write_adapter(tmp_path / name, tensors, fan_in_fan_out=True)
    run("cat", out="model", dtype="float32")
    run("cat", out="adapter", output="adapter")
    assert set(load_file("adapter/adapter_model.safetensors")) == set(load_file("one/adapter_model.safetensors"))
    assert json.loads(Path("adapter/adapter_config.json").read_text())["fan_in_fan_out"] is True
    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": [{"model": "adapter"}]}
    sdmw.merge({**recipe, "out_dtype": "float32"}, "applied", progress=False)
    model, applied = load_file("model/model.safetensors"), load_file("applied/model.safetensors")
    for name in base:
        np.testing.assert_array_equal(model[name], applied[name])
        assert (model[name] != base[name]).any()


def test_what_was_decomposed_is_not_believed_of_another_adapter(world, tmp_path):
    """Two runs in one process, the second with other data in files of the same names and shapes."""
    for seed in (1, 2):
        shutil.rmtree(tmp_path / "one")
        world = (world[0], adapter_of(np.random.default_rng(seed), world[0]), world[2])
        write_adapter(tmp_path / "one", world[1])
        run("svd", output="adapter", svd_rank=8, out=f"out-{seed}")
        found = load_file(f"out-{seed}/adapter_model.safetensors")
        for module, (a, b) in expected(world, "svd", (1, 1), 8).items():
            mine_a, mine_b = (found[f"{PREFIX}{module}.lora_{x}.weight"].astype(np.float64) for x in "AB")
            np.testing.assert_allclose(mine_b @ mine_a, b.astype(np.float64) @ a, atol=1e-7)


@pytest.mark.parametrize("kind", ["cat", "svd"])
def test_what_is_not_finite_is_named(world, tmp_path, kind):
    two = {name: np.full_like(tensor, np.nan) for name, tensor in world[2].items()}
    write_adapter(tmp_path / "bad", two)
    with pytest.raises(NonFiniteError, match=r"bad/adapter_model\.safetensors"):
        run(kind, names=("one", "bad"))


class TestRefused:
    def problems(self, kind="cat", names=("one", "two"), **parameters):
        recipe = {"merge_method": "lora", "base_model": "base", "models": [{"model": n} for n in names]}
        return [str(p) for p in sdmw.plan({**recipe, "parameters": {"combination_type": kind, **parameters}}).problems]

    def test_other_ranks_for_linear(self, world, tmp_path):
        write_adapter(tmp_path / "three", adapter_of(np.random.default_rng(0), world[0], rank=3), r=3)
        assert "expected adapters of one rank for linear, found 3 and 4" in self.problems("linear", ("one", "three"))[0]
        assert self.problems("svd", ("one", "three")) == []

    def test_matrices_that_lie_both_ways(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_checkpoint("base", {"h.0.w.weight": np.ones((4, 4), np.float32)}, config={})  # of no known module
        for name, transposed in (("one", False), ("two", True)):
            tensors = factors(np.random.default_rng(0), "h.0.w", (4, 4))
            write_adapter(tmp_path / name, tensors, fan_in_fan_out=transposed)
        (problem,) = self.problems()
        expected = "tensor 'h.0.w.weight': expected adapters that store it in one orientation, found both orientations"
        assert expected in problem

    def test_a_model(self, world):
        write_checkpoint("corp", world[0])
        (problem, *_) = self.problems(names=("corp",))
        assert "expected low-rank matrices, which are what lora combines, found values" in problem

    def test_no_whole_rank(self, world):
        assert "svd_rank 2.5 is not a whole number" in self.problems("svd", svd_rank=2.5)[0]

    def test_words(self, world):
        with pytest.raises(sdmw.SdmwError, match="expected linear, cat or svd, found 'ties'"):
            self.problems("ties")


def test_the_command_says_how_to_load_it(world, tmp_path, capsys, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(
        "merge_method: lora\nbase_model: base\nmodels: [{model: one}, {model: two}]\n"
        "parameters: {combination_type: cat, output: adapter}\n"
    )
    said = told(capsys, monkeypatch, "merge", "recipe.yaml", "out")
    assert said.code == 0, said
    assert "PeftModel.from_pretrained(base, 'out')" in said.out
