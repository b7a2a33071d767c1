"""`sdmw extract` against NumPy's whole decomposition; what it leaves out; what comes back from the adapter."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import told
from reference.rounding import STORED
from sdmw.errors import CheckpointError, InputChangedError, NonFiniteError, PlanError, UsageError
from sdmw.running import decomposition, left_out
from sdmw.running.events import Progress

pytestmark = pytest.mark.usefixtures("tiny_tiles")


@pytest.fixture(params=[None, 100], ids=["whole", "by blocks"])
def world(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if request.param:
        monkeypatch.setattr(decomposition, "ROWS", request.param)
        monkeypatch.setattr(left_out, "TILE", request.param)
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


def test_a_model_is_no_fine_tune_of_itself(world):
    with pytest.raises(PlanError, match=r"expected a fine-tune, found the base itself\. Give two different models"):
        sdmw.extract("base", "./base/", "adapter", progress=False)
    assert not os.path.exists("adapter")


def test_tensors_under_another_name_are_found(world):
    sdmw.extract("base", "tune", "expected", progress=False)
    names = {name: name.replace(".mlp.", ".mlp._orig_mod.") for name in world[1]}
    save_file({f"module.{names[name]}": tensor for name, tensor in world[1].items()}, "tune/model.safetensors")
    report = sdmw.extract("base", "tune", "adapter", progress=False)
    assert report.notes == (
        "the fine-tune: all 9 names agree: 7 once 'module.' is left out, "
        "2 once 'module.' and '_orig_mod.' are left out",
    )
    found, expected = (load_file(f"{name}/adapter_model.safetensors") for name in ("adapter", "expected"))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_modules_of_a_base_within_a_wrapper_are_those_in_memory(world):
    """A loader of it builds no wrapper, so that peft would find none of its modules."""
    sdmw.extract("base", "tune", "expected", progress=False)
    save_file({f"module.{name}": tensor for name, tensor in world[0].items()}, "base/model.safetensors")
    sdmw.extract("base", "tune", "adapter", progress=False)
    found, expected = (load_file(f"{name}/adapter_model.safetensors") for name in ("adapter", "expected"))
    assert found.keys() == expected.keys()
    configs = [json.loads(Path(f"{name}/adapter_config.json").read_text()) for name in ("adapter", "expected")]
    assert configs[0]["target_modules"] == configs[1]["target_modules"]


def test_a_peft_model_as_a_whole_is_told(world):
    save_file({**world[1], "a.lora_A.default.weight": world[1]["model.norm.weight"]}, "tune/model.safetensors")
    with pytest.raises(PlanError, match="a PEFT model with an adapter that is not merged"):
        sdmw.extract("base", "tune", "adapter", progress=False)


def test_what_is_no_merge_is_called_what_it_is(world):
    sdmw.extract("base", "tune", "adapter", rank=2, progress=False)
    with pytest.raises(
        CheckpointError, match="the report of an extraction, which states its own error and is not verified"
    ):
        sdmw.verify("adapter", progress=False)
    sdmw.pack("base", "tune", "archive", progress=False)
    with pytest.raises(CheckpointError, match="found a delta archive, which sdmw apply checks while it reads it"):
        sdmw.verify("archive", progress=False)
    with pytest.raises(CheckpointError, match="expected a model, found a delta archive of sdmw pack"):
        sdmw.inspect("archive")


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
    matrices = ("embed_out.weight", "shared.weight", "decoder.embed_positions.weight")
    base = {n: rng.normal(0, 1, (6, 8)).astype("f4") for n in matrices}
    base |= {"norm.bias": np.ones(8, "f4"), "scale": np.ones((2, 2)), "ids": np.arange(4)}
    write_checkpoint("base", base)
    tune = {**base, "norm.bias": np.zeros(8, "f4"), "scale": np.zeros((2, 2)), "head.weight": np.ones((2, 2), "f4")}
    tune[matrices[2]] = tune[matrices[2]] + np.float32(1)
    write_checkpoint("tune", tune)
    report = sdmw.extract("base", "tune", "out", rank=2, progress=False)
    assert {each.tensor for each in report.left_out} == {"norm.bias", "scale", "head.weight", matrices[2]}
    names = {name.removeprefix("base_model.model.") for name in load_file("out/adapter_model.safetensors")}
    assert {"embed_out.lora_A.weight", "shared.lora_embedding_A"} <= names


def extracted(base, changed, config, rank=4, **options):
    """The report of a fine-tune that changed some tensors by 0.1, and what the adapter has, by module."""
    write_checkpoint("base", base, config=config)
    tune = {name: tensor + (np.float32(0.1) if name in changed else np.float32(0)) for name, tensor in base.items()}
    write_checkpoint("tune", tune | options.get("added", {}), config=config)
    report = sdmw.extract("base", "tune", "out", rank=rank, progress=False)
    saved = load_file("out/adapter_model.safetensors")
    return report, {name.removeprefix("base_model.model.").split(".lora_")[0] for name in saved}


class TestLeftOut:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_the_share_of_the_whole_delta(self):
        """Experts in one tensor hold 24 times as many elements as the one matrix: nearly all of the delta."""
        base = {
            "model.layers.0.self_attn.q_proj.weight": np.ones((8, 8), "f4"),
            "model.layers.0.mlp.experts.down_proj": np.ones((24, 8, 8), "f4"),
            "model.layers.0.mlp.router.weight": np.ones((24, 8), "f4"),
        }
        report, modules = extracted(base, base, {"model_type": "gpt_oss"})
        assert modules == {"model.layers.0.self_attn.q_proj"}
        assert report.error < 1e-6
        elements = {name: tensor.size for name, tensor in base.items()}
        left = elements["model.layers.0.mlp.experts.down_proj"] + elements["model.layers.0.mlp.router.weight"]
        assert report.left_out_share == pytest.approx(np.sqrt(left / sum(elements.values())))
        assert report.whole_error == pytest.approx(report.left_out_share)
        assert {each.tensor.split(".")[4]: each.why for each in report.left_out} == {
            "experts": "experts in one tensor", "router": "routers, which peft does not support",
        }  # fmt: skip
        norms = {each.tensor: each.norm for each in report.left_out}
        for name, norm in norms.items():
            assert norm == pytest.approx(0.1 * np.sqrt(base[name].size), rel=1e-5)
        saved = json.loads(Path("out/sdmw_report.json").read_text())
        assert saved["left_out_share"] == report.left_out_share
        assert saved["left_out"][0].keys() == {"tensor", "norm", "why"}

    def test_the_rank_and_what_is_left_out_add_up(self):
        rng = np.random.default_rng(0)
        base = {"a.weight": np.zeros((8, 8), "f4"), "b": np.zeros(64, "f4")}
        tune = {name: rng.normal(0, 1, tensor.shape).astype("f4") for name, tensor in base.items()}
        for folder, tensors in (("base", base), ("tune", tune)):
            write_checkpoint(folder, tensors, config={})
        report = sdmw.extract("base", "tune", "out", rank=3, progress=False)
        of_a, of_b = (np.square(tune[name].astype(np.float64)).sum() for name in ("a.weight", "b"))
        lost = report.error**2 * of_a
        assert 0.1 < report.error < 0.9
        assert report.left_out_share == pytest.approx(np.sqrt(of_b / (of_a + of_b)))
        assert report.whole_error == pytest.approx(np.sqrt((lost + of_b) / (of_a + of_b)))

    def test_values_of_every_dtype(self):
        base = {
            "a.weight": np.ones((4, 4), "f4"), "f64": np.ones(4), "ids": np.arange(4), "flag": np.array([True]),
            "inf": np.array([np.inf, 1], "f4"), "same": np.ones(3, "f4"), "zero": np.zeros(2, "f4"),
        }  # fmt: skip
        write_checkpoint("base", base, config={})
        new = {"f64": np.full(4, 3.0), "ids": np.arange(4) + 1, "flag": np.array([False]), "zero": -np.zeros(2, "f4")}
        tune = {**base, **new, "inf": np.array([np.inf, 3], "f4"), "more": np.full(4, 2, "f4")}
        write_checkpoint("tune", tune, config={})
        report = sdmw.extract("base", "tune", "out", rank=2, progress=False)
        assert {each.tensor: each.norm for each in report.left_out} == {
            "f64": 4.0, "ids": 0.0, "flag": 0.0, "inf": 2.0, "zero": 0.0, "more": 4.0,
        }  # fmt: skip

    def test_a_change_that_is_not_finite_is_named(self):
        base = {"a.weight": np.ones((4, 4), "f4"), "b": np.ones(4, "f4")}
        write_checkpoint("base", base, config={})
        write_checkpoint("tune", {**base, "b": np.array([1, np.nan, 1, 1], "f4")}, config={})
        with pytest.raises(NonFiniteError, match="tensor 'b'"):
            sdmw.extract("base", "tune", "out", rank=2, progress=False)

    EXPERTS = tuple(f"model.layers.0.mlp.experts.{n}.{kind}_proj.weight" for n in (0, 1) for kind in ("gate", "up"))
    MIXTURE = (
        *EXPERTS, "model.layers.0.mlp.gate.weight", "model.layers.0.mlp.shared_expert.gate_proj.weight",
        "model.layers.0.self_attn.q_proj.weight",
    )  # fmt: skip

    @pytest.mark.parametrize(
        ("model_type", "kept"),
        [
            # peft puts these experts and their router together, and takes every gate_proj for one of them.
            ("qwen3_moe", {*EXPERTS, "model.layers.0.mlp.gate.weight", "model.layers.0.self_attn.q_proj.weight"}),
            ("qwen2_moe", {MIXTURE[-1], MIXTURE[-2]}),
            ("jamba", {MIXTURE[-1], MIXTURE[-2]}),
        ],
    )
    def test_experts_as_peft_takes_them(self, model_type, kept):
        base = {name: np.ones((8, 8), "f4") for name in self.MIXTURE}
        report, modules = extracted(base, base, {"model_type": model_type})
        assert {f"{module}.weight" for module in modules} == kept
        assert {each.tensor for each in report.left_out} == set(self.MIXTURE) - kept

    def test_a_matrix_is_an_embedding_only_if_it_is_one(self):
        looked_up = ("model.embed_tokens", "wpe", "a.relative_attention_bias", "b.tok_embeddings", "c.my_embed")
        linear = ("lm_head", "x.embed_out", "y.patch_embedding", "z.embeddings_project", "embedder.dense")
        neither = ("q.token_embedder", "w.quantize.embedding")
        base = {f"{name}.weight": np.ones((8, 4), "f4") for name in (*looked_up, *linear, *neither)}
        base["c.my_embed.weight"] = np.ones((50, 4), "f4")  # a row for each word
        report, _ = extracted(base, base, {"vocab_size": 50, "model_type": "mine", "tie_word_embeddings": False})
        names = {name.removeprefix("base_model.model.") for name in load_file("out/adapter_model.safetensors")}
        assert {name.removesuffix(".lora_embedding_A") for name in names if name.endswith("_A")} == set(looked_up)
        assert {name.removesuffix(".lora_A.weight") for name in names if name.endswith("lora_A.weight")} == set(linear)
        assert {each.tensor for each in report.left_out} == {f"{name}.weight" for name in neither}

    def test_modules_of_one_model_type_that_peft_refuses(self):
        base = {f"backbone.layers.0.mixer.{name}.weight": np.ones((8, 8), "f4") for name in ("in_proj", "out_proj")}
        _, modules = extracted(base, base, {"model_type": "mamba"})
        assert modules == {"backbone.layers.0.mixer.in_proj"}

    @pytest.mark.parametrize("stored", ["model.language_model.layers.0.q.weight", "model.layers.0.q.weight"])
    def test_names_are_those_in_memory(self, stored):
        config = {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}
        _, modules = extracted(
            {stored: np.ones((8, 8), "f4"), "visual.x.weight": np.ones((8, 8), "f4")}, stored, config
        )
        assert modules == {"model.language_model.layers.0.q", "model.visual.x"}
        # And the adapter finds its way back.
        recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": [{"model": "out"}]}
        sdmw.merge(recipe, "merged", progress=False)
        tune = load_file("tune/model.safetensors")
        for name, values in load_file("merged/model.safetensors").items():
            np.testing.assert_allclose(values, tune[name], atol=1e-6)

    def test_a_head_that_the_base_ties(self):
        """Once merged it follows the embedding: lost is what it differs by."""
        name = "model.embed_tokens.weight"
        config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
        base = {name: np.ones((8, 4), "f4"), "a.weight": np.ones((4, 4), "f4")}
        report, _ = extracted(base, base, config, added={"lm_head.weight": base[name] + np.float32(0.1)})
        assert report.left_out == ()
        assert "is also the output head" in report.notes[0]
        assert report.follows
        assert (
            "PeftModel.from_pretrained(base, 'path/to/this/folder').merge_and_unload()"
            in Path("out/README.md").read_text()
        )
        shutil.rmtree("out")
        write_checkpoint("other", {**base, "lm_head.weight": base[name] + 2}, config=config)
        report = sdmw.extract("base", "other", "out", rank=4, progress=False)
        assert [(each.tensor, each.norm) for each in report.left_out] == [("lm_head.weight", 2 * np.sqrt(32))]

    def test_a_bias_that_the_base_ties(self):
        """Older files of BERT store it under both names: equal, nothing is lost."""
        bias = {"cls.predictions.bias": np.ones(8, "f4")}
        base = {"bert.embeddings.word_embeddings.weight": np.ones((8, 4), "f4"), "a.weight": np.ones((4, 4), "f4")}
        config = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "tie_word_embeddings": True}
        again = {"cls.predictions.decoder.bias": bias["cls.predictions.bias"]}
        report, _ = extracted(base | bias, base, config, added=again)
        assert report.left_out == ()

    def test_a_model_that_transformers_builds_otherwise_is_refused(self):
        base = {"vit.encoder.layer.0.attention.attention.query.weight": np.ones((8, 8), "f4")}
        with pytest.raises(
            PlanError,
            match=r"model_type 'vit', for which transformers and the checkpoint name "
            r"modules differently",
        ):
            extracted(base, base, {"model_type": "vit"})


@pytest.mark.parametrize("changed", ["base", "tune"])
def test_an_input_that_changed_meanwhile_ends_it(world, changed):
    def touch(event):
        if isinstance(event, Progress):
            os.utime(f"{changed}/model.safetensors")

    with pytest.raises(InputChangedError, match=f"{changed}/model.safetensors"):
        sdmw.extract("base", "tune", "out", rank=2, progress=touch)
    assert sorted(os.listdir(".")) == ["base", "tune"]


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
        assert "'model.layers.1.mlp.up_proj.weight': expected this tensor, as in" in said

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


def test_licences_that_differ_and_what_is_overwritten_are_told(world):
    for folder, licence in (("base", "mit"), ("tune", "apache-2.0")):
        Path(folder, "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    (said,) = sdmw.extract("base", "tune", "out", rank=2, progress=False).warnings
    here = os.getcwd()
    assert said.startswith(
        f"the inputs have different licences: 'mit' of '{here}/base'; 'apache-2.0' of '{here}/tune'."
    )
    Path("out/mine.txt").touch()
    _, said = sdmw.extract("base", "tune", "out", rank=2, progress=False, overwrite=True).warnings
    assert said == "out: it is overwritten, and these files in it are lost: 'mine.txt'"


def test_the_command(world, capsys, monkeypatch):
    said = told(capsys, monkeypatch, "extract", "base", "tune", "out", "--rank", "2")
    assert said.code == 0, said
    assert "model.layers.0.mlp.up_proj.weight" in said.out
    assert "of the whole delta, in 3 changed tensors (3 vectors)" in said.out
    assert "PeftModel.from_pretrained(base, 'out')" in said.out
