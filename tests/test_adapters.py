"""Merges of adapters against whole NumPy arrays: every way of naming them, every kind of adapter that is taken."""

import json
import os
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import sdmw
from adapters_on_disk import PREFIX, adapter_of, factors, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from reference import low_rank
from reference.linear import linear
from reference.rounding import STORED, rounded
from reference.sdm_w import kept, magnitude, merged, threshold, weights
from reference.task_arithmetic import task_arithmetic
from sdmw.planning import budget

pytestmark = pytest.mark.usefixtures("tiny_tiles")


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    write_checkpoint(tmp_path / "base", base)
    tune = fine_tuned(rng, base)
    write_checkpoint(tmp_path / "corp", tune)
    one, two = adapter_of(rng, base), adapter_of(rng, base, modules=("q_proj",), rank=3, dtype="BF16")
    write_adapter(tmp_path / "one", one)
    write_adapter(tmp_path / "two", two, r=3, lora_alpha=5, use_rslora=True)
    return {"base": base, "corp": tune, "one": (one, 8, False), "two": (two, 5, True)}


def deltas_of(base, adapter):
    """A delta of every tensor, zero where the adapter says nothing."""
    tensors, alpha, rslora = adapter
    found = {}
    for name, weight in base.items():
        a = tensors.get(f"{PREFIX}{name.removesuffix('.weight')}.lora_A.weight")
        b = tensors.get(f"{PREFIX}{name.removesuffix('.weight')}.lora_B.weight")
        found[name] = np.zeros(weight.shape, np.float32) if a is None else low_rank.delta(a, b, alpha, rslora=rslora)
    return found


def wide(tensors):
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def run(method="sdm_w", models=("one", "two"), out="out", **fields):
    recipe = {"merge_method": method, "base_model": "base", "models": [{"model": model} for model in models], **fields}
    report = sdmw.merge(recipe, out, progress=False)
    return load_file(os.path.join(out, "model.safetensors")), report


def assert_same(found, expected, like):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        bits = rounded(values, next(n for n, dtype in STORED.items() if dtype == like[name].dtype))
        assert found[name].dtype == like[name].dtype
        np.testing.assert_array_equal(found[name].view(np.uint8), bits.view(np.uint8), err_msg=name)


@pytest.mark.parametrize("names", [("one", "two"), ("base+one", "./base+./two"), ("one", "base+two")])
def test_sdm_w_takes_the_deltas_as_they_are(world, names):
    """Every way of saying it gives the same bits, by deltas that are never rounded with the base."""
    base = world["base"]
    deltas = [deltas_of(base, world[name]) for name in ("one", "two")]
    all_kept = [{n: kept(d, threshold([d], 10)) for n, d in each.items()} for each in deltas]
    magnitudes = [magnitude(each.values()) for each in all_kept]
    chosen = weights(magnitudes, 1.0)
    expected = {n: merged(w, [each[n] for each in all_kept], chosen, 1) for n, w in wide(base).items()}
    found, report = run(models=names)
    assert_same(found, expected, base)
    assert [model.facts["weight"] for model in report.models] == chosen
    assert [model.facts["magnitude"] for model in report.models] == magnitudes
    assert sdmw.verify("out", sample=1).problems == ()


def test_task_arithmetic(world):
    base = world["base"]
    deltas = [deltas_of(base, world[name]) for name in ("one", "two")]
    found, _ = run("task_arithmetic", parameters={"weight": 0.3})
    expected = {}
    for name, values in wide(base).items():
        total = np.float32(0.3) * deltas[0][name] + np.float32(0.3) * deltas[1][name]
        expected[name] = values + total
    assert_same(found, expected, base)


def test_linear_adds_the_base_in_float32(world):
    base = wide(world["base"])
    sums = [{n: base[n] + d for n, d in deltas_of(base, world[name]).items()} for name in ("one", "two")]
    found, _ = run("linear")
    assert_same(found, {n: linear([each[n] for each in sums], [1, 1], True) for n in base}, world["base"])


def test_an_adapter_beside_a_full_fine_tune_and_on_one(world):
    """On another model than the recipe's base it is that model's values plus the delta, in float32."""
    base, corp = world["base"], wide(world["corp"])
    with_one = {n: corp[n] + d for n, d in deltas_of(base, world["one"]).items()}
    found, report = run("task_arithmetic", models=("corp", "corp+one"), parameters={"weight": 0.5})
    expected = {n: task_arithmetic(wide(base)[n], [corp[n], with_one[n]], [0.5, 0.5], False, 1) for n in corp}
    assert_same(found, expected, base)
    assert report.warnings
    assert "an adapter of 'base', put on 'corp'" in report.warnings[0]


def test_a_base_with_an_adapter_on_it(world):
    base, corp = wide(world["base"]), wide(world["corp"])
    below = {n: base[n] + d for n, d in deltas_of(base, world["one"]).items()}
    found, _ = run("task_arithmetic", models=("corp",), base_model="base+one", parameters={"weight": 0.5})
    expected = {n: task_arithmetic(below[n], [corp[n]], [0.5], False, 1) for n in corp}
    assert_same(found, expected, world["base"])


def test_another_adapter_beside_the_one_of_the_base(world):
    """By itself it is put on the base as it is; with the bare model's name, on that."""
    base = wide(world["base"])
    below = {n: base[n] + d for n, d in deltas_of(base, world["one"]).items()}
    two = deltas_of(base, world["two"])
    found, _ = run("task_arithmetic", models=("two",), base_model="base+one", out="alone", dtype="float32")
    for name in base:
        np.testing.assert_array_equal(found[name], below[name] + two[name])
    found, _ = run("task_arithmetic", models=("base+two",), base_model="base+one", out="bare", dtype="float32")
    for name in base:
        np.testing.assert_array_equal(found[name], below[name] + ((base[name] + two[name]) - below[name]))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    threads=st.integers(1, 3),
    tile=st.sampled_from([64, 200, 1 << 11, 1 << 21]),
    method=st.sampled_from(["sdm_w", "linear", "task_arithmetic"]),
)
def test_any_threads_and_tiles_give_the_same_bits(world, threads, tile, method):
    recipe = {"merge_method": method, "base_model": "base", "models": [{"model": "one"}, {"model": "corp+two"}]}
    for out, options in (("whole", {}), ("tiled", {"threads": threads})):
        with pytest.MonkeyPatch.context() as patched:
            if options:
                patched.setattr(budget, "LARGEST_TILE", tile)
                patched.setattr(budget, "SMALLEST_TILE", tile)
            sdmw.merge(recipe, out, progress=False, overwrite=True, **options)
    assert Path("whole/model.safetensors").read_bytes() == Path("tiled/model.safetensors").read_bytes()


class TestKinds:
    """Each kind of tensor that peft saves, by one merge of one adapter whose deltas all count."""

    def alone(self, name):
        return run("task_arithmetic", models=(name,), dtype="float32")[0]

    def test_patterns(self, world, tmp_path):
        base, rng = world["base"], np.random.default_rng(1)
        tensors = {
            **factors(rng, "model.layers.0.self_attn.q_proj", (16, 16), rank=6),
            **factors(rng, "model.layers.1.self_attn.q_proj", (16, 16), rank=4),
            **factors(rng, "model.layers.1.mlp.up_proj", (48, 16), rank=4),
        }
        write_adapter(
            tmp_path / "a", tensors, rank_pattern={"layers.0.self_attn.q_proj": 6}, alpha_pattern={r".*\.mlp\..*": 3}
        )
        found = self.alone("a")
        for module, alpha in (("0.self_attn.q_proj", 8), ("1.self_attn.q_proj", 8), ("1.mlp.up_proj", 3)):
            name = f"model.layers.{module}"
            a, b = tensors[f"{PREFIX}{name}.lora_A.weight"], tensors[f"{PREFIX}{name}.lora_B.weight"]
            expected = base[f"{name}.weight"].astype(np.float32) + low_rank.delta(a, b, alpha)
            np.testing.assert_array_equal(found[f"{name}.weight"], expected)

    def test_values_in_their_place(self, world, tmp_path):
        base, rng = world["base"], np.random.default_rng(1)
        head, norm = rng.normal(0, 1, (40, 16)).astype(np.float32), rng.normal(0, 1, 16).astype(STORED["BF16"])
        tensors = {
            f"{PREFIX}lm_head.weight": head,
            f"{PREFIX}model.norm.modules_to_save.weight": norm,
            **factors(rng, "model.layers.0.self_attn.q_proj", (16, 16)),
        }
        write_adapter(tmp_path / "a", tensors, modules_to_save=["lm_head", "norm"])
        found = self.alone("a")
        below = base["lm_head.weight"].astype(np.float32)
        np.testing.assert_array_equal(found["lm_head.weight"], below + (head - below))
        below = base["model.norm.weight"].astype(np.float32)
        np.testing.assert_array_equal(found["model.norm.weight"], below + (norm.astype(np.float32) - below))

    def test_rslora_takes_the_rank_of_the_pattern(self, world, tmp_path):
        """alpha over the root of the module's own rank, and not of the config's."""
        base, rng = world["base"], np.random.default_rng(1)
        name = "model.layers.0.self_attn.q_proj"
        tensors = factors(rng, name, (16, 16), rank=9)
        write_adapter(tmp_path / "a", tensors, use_rslora=True, rank_pattern={"q_proj": 9})
        a, b = tensors[f"{PREFIX}{name}.lora_A.weight"], tensors[f"{PREFIX}{name}.lora_B.weight"]
        expected = base[f"{name}.weight"].astype(np.float32) + low_rank.delta(a, b, 8, rslora=True)
        np.testing.assert_array_equal(self.alone("a")[f"{name}.weight"], expected)

    def test_what_peft_saves_of_a_module_more_than_once(self, world, tmp_path):
        """The module by its name, the trained copy, which is the same, and the base's own."""
        base, rng = world["base"], np.random.default_rng(1)
        head = rng.normal(0, 1, (40, 16)).astype(np.float32)
        tensors = {
            f"{PREFIX}lm_head.weight": head,
            f"{PREFIX}lm_head.modules_to_save.weight": head,
            f"{PREFIX}lm_head.original_module.weight": head + 1,
            f"{PREFIX}model.norm.modules_to_save.weight": np.ones(16, "f4"),
            f"{PREFIX}model.norm.original_module.weight": np.zeros(16, "f4"),
        }
        write_adapter(tmp_path / "a", tensors, modules_to_save=["lm_head", "norm"])
        found = self.alone("a")
        for name, values in (("lm_head", head), ("model.norm", np.ones(16, "f4"))):
            below = base[f"{name}.weight"].astype(np.float32)
            np.testing.assert_array_equal(found[f"{name}.weight"], below + (values - below))

    @pytest.mark.parametrize("saved", [False, True])
    def test_embeddings(self, world, tmp_path, saved):
        base, rng = world["base"], np.random.default_rng(1)
        a, b = rng.normal(0, 1, (4, 40)).astype(np.float32), rng.normal(0, 1, (16, 4)).astype(np.float32)
        embedding = f"{PREFIX}model.embed_tokens"
        tensors = {f"{embedding}.lora_embedding_A": a, f"{embedding}.lora_embedding_B": b}
        below = base["model.embed_tokens.weight"].astype(np.float32)
        delta = low_rank.delta(a, b, 8, transposed=True)
        if saved:
            tensors[f"{embedding}.base_layer.weight"] = below + 1
            delta = (below + 1 + delta) - below
        write_adapter(tmp_path / "a", tensors, target_modules=["embed_tokens"])
        np.testing.assert_array_equal(self.alone("a")["model.embed_tokens.weight"], below + delta)

    @pytest.mark.parametrize("said", [False, True])
    def test_conv1d_keeps_its_weight_the_other_way_round(self, tmp_path, monkeypatch, said):
        """GPT-2's; and its checkpoint has no prefix that the model has in memory."""
        monkeypatch.chdir(tmp_path)
        rng = np.random.default_rng(1)
        base = {"h.0.attn.c_attn.weight": rng.normal(0, 1, (12, 36)).astype(np.float32), "ln_f.bias": np.ones(12, "f4")}
        write_checkpoint(tmp_path / "base", base)
        tensors = factors(rng, "transformer.h.0.attn.c_attn", (36, 12))
        write_adapter(tmp_path / "a", tensors, fan_in_fan_out=said)
        a, b = (tensors[f"{PREFIX}transformer.h.0.attn.c_attn.lora_{x}.weight"] for x in "AB")
        expected = base["h.0.attn.c_attn.weight"] + low_rank.delta(a, b, 8, transposed=True)
        np.testing.assert_array_equal(self.alone("a")["h.0.attn.c_attn.weight"], expected)

    @pytest.mark.parametrize(("model_type", "transposed"), [("gpt2", True), ("llama", False)])
    def test_of_square_weights_the_module_s_type_says_how_they_lie(self, tmp_path, monkeypatch, model_type, transposed):
        """As in peft, whose config tells the last module's way."""
        monkeypatch.chdir(tmp_path)
        rng = np.random.default_rng(1)
        base = {"h.0.c_proj.weight": rng.normal(0, 1, (12, 12)).astype("f4")}
        write_checkpoint(tmp_path / "base", base, config={"model_type": model_type})
        tensors = factors(rng, "h.0.c_proj", (12, 12))
        write_adapter(tmp_path / "a", tensors, fan_in_fan_out=not transposed)
        a, b = (tensors[f"{PREFIX}h.0.c_proj.lora_{x}.weight"] for x in "AB")
        expected = base["h.0.c_proj.weight"] + low_rank.delta(a, b, 8, transposed=transposed)
        np.testing.assert_array_equal(self.alone("a")["h.0.c_proj.weight"], expected)


class TestRefused:
    def problems(self, *models, **fields):
        recipe = {"merge_method": "sdm_w", "base_model": "base", "models": [{"model": m} for m in models], **fields}
        return [str(problem) for problem in sdmw.plan(recipe).problems]

    CONFIGS: ClassVar = {
        "rank 0": ({"r": 0}, "r: expected a rank of at least 1, found 0"),
        "no rank": ({"r": None}, "r: expected a rank of at least 1, found None"),
        "a true rank": ({"r": True}, "r: expected a rank of at least 1, found True"),
        "NaN": ({"lora_alpha": float("nan")}, "'NaN' is not JSON"),
        "text": ({"lora_alpha": "8"}, "lora_alpha: expected a finite number, found '8'"),
        "DoRA": ({"use_dora": True}, "'use_dora': True: sdmw cannot do this exactly"),
        "bias": ({"lora_bias": True}, "'lora_bias': True: sdmw cannot do this exactly"),
        "parameters": ({"target_parameters": ["x"]}, "sdmw cannot do this exactly"),
        "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "which also changed the base"),
        "another kind": ({"peft_type": "IA3"}, "expected a LoRA adapter, peft_type LORA, found peft_type 'IA3'"),
        "another rank": ({"r": 5}, "expected shapes [5, in] and [out, 5], as adapter_config.json says"),
        "a bomb": ({"rank_pattern": {"(a+)+$": 3}}, "which may take forever to match"),
        "alternatives": ({"alpha_pattern": {"(a|a)" * 40 + "b": 3}}, "which may take forever to match"),
        "no name": ({"base_model_name_or_path": "~\0x"}, "base_model_name_or_path: expected text"),
        "a huge rank": ({"r": 100_000}, "expected a rank of at most 65,536"),
        "tomorrow's": ({"use_magic": {"x": 1}}, "'use_magic'"),
    }

    @pytest.mark.parametrize("name", CONFIGS)
    def test_configs(self, world, tmp_path, name):
        config, said = self.CONFIGS[name]
        write_adapter(tmp_path / "a", world["one"][0], **config)
        assert any(said in problem for problem in self.problems("a")), self.problems("a")

    TENSORS: ClassVar = {
        "another base's target": ("model.layers.7.self_attn.q_proj", (16, 16), "expected a matching tensor in"),
        "the tied head": ("x.lm_head", (40, 16), "The model ties its head"),
        "another shape": ("model.layers.0.self_attn.q_proj", (16, 24), "expected shape [16, 16]"),
    }

    @pytest.mark.parametrize("name", TENSORS)
    def test_targets(self, world, tmp_path, name):
        module, shape, said = self.TENSORS[name]
        if name == "the tied head":
            (tmp_path / "base" / "model.safetensors").unlink()
            base = {n: t for n, t in world["base"].items() if n != "lm_head.weight"}
            save_file(base, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
        write_adapter(tmp_path / "a", factors(np.random.default_rng(0), module, shape))
        (problem,) = self.problems("a")
        assert said in problem

    def test_a_name_that_two_tensors_end_with(self, tmp_path, monkeypatch):
        """The delta would land on the wrong weight."""
        monkeypatch.chdir(tmp_path)
        rng = np.random.default_rng(1)
        write_checkpoint(tmp_path / "base", {f"{n}.x.weight": rng.normal(0, 1, (8, 8)).astype("f4") for n in "ab"})
        write_adapter(tmp_path / "a", factors(rng, "x", (8, 8)))
        (problem,) = self.problems("a")
        assert "expected one matching tensor in" in problem
        assert "found several candidates: 'a.x.weight', 'b.x.weight'" in problem

    def test_thousands_of_tensors_without_the_prefix(self, world, tmp_path):
        tensors = {f"layers.{n}.lora_A.weight": np.ones((1, 1), "f4") for n in range(3000)}
        write_adapter(tmp_path / "a", tensors)
        problems = self.problems("a")
        assert len(problems) == 51
        assert problems[-1].endswith("and 2950 more problems of this kind")

    def test_thousands_of_tensors_of_another_model(self, world, tmp_path):
        rng, tensors = np.random.default_rng(0), {}
        for n in range(300):
            tensors |= factors(rng, f"model.layers.{n + 7}.self_attn.q_proj", (2, 2))
        write_adapter(tmp_path / "a", tensors)
        problems = self.problems("a")
        assert len(problems) == 51
        assert problems[-1].endswith("and 250 more problems of this kind")

    @pytest.mark.parametrize(
        ("trained_on", "mend"),
        [
            ("base", "resize that of the base to 48"),
            ("org/base", "resize that of the base to 48"),
            ("org/elsewhere", "if that is another model, put it on that"),
        ],
    )
    def test_the_mend_never_names_the_model_in_use(self, world, tmp_path, trained_on, mend):
        tensors = {f"{PREFIX}{name}.weight": np.ones((48, 16), "f4") for name in ("lm_head", "model.embed_tokens")}
        write_adapter(tmp_path / "a", tensors, base_model_name_or_path=trained_on)
        problems = self.problems("a")
        assert len(problems) == 2
        for problem in problems:
            assert "expected shape [40, 16]" in problem
            assert mend in problem
            assert ("trained on" in problem) == (trained_on == "org/elsewhere")

    def test_half_of_a_pair(self, world, tmp_path):
        tensors = factors(np.random.default_rng(0), "model.layers.0.self_attn.q_proj", (16, 16))
        del tensors[f"{PREFIX}model.layers.0.self_attn.q_proj.lora_B.weight"]
        write_adapter(tmp_path / "a", tensors)
        assert "expected lora_A and lora_B, found lora_A" in self.problems("a")[0]

    @pytest.mark.parametrize("name", ["lora_magnitude_vector", "lora_C.weight"])
    def test_other_tensors(self, world, tmp_path, name):
        tensors = {**world["one"][0], f"{PREFIX}model.layers.0.self_attn.q_proj.{name}": np.ones(3, np.float32)}
        write_adapter(tmp_path / "a", tensors)
        assert "expected LoRA matrices" in self.problems("a")[0]

    def test_two_for_one_tensor(self, world, tmp_path):
        rng = np.random.default_rng(0)
        module = "model.layers.0.self_attn.q_proj"
        write_adapter(tmp_path / "a", {**factors(rng, module, (16, 16)), **factors(rng, module[6:], (16, 16))})
        assert "a model tensor of its own, found the same one as for" in self.problems("a")[0]
        both = {**factors(rng, module, (16, 16)), f"{PREFIX}{module}.weight": np.ones((16, 16), np.float32)}
        write_adapter(tmp_path / "b", both)
        assert "expected matrices or values, found both" in self.problems("b")[0]

    @pytest.mark.parametrize("saved", [np.ones((2, 2), np.float32), np.ones((16, 16), np.int64)])
    def test_a_saved_base_that_does_not_fit(self, world, tmp_path, saved):
        module = "model.layers.0.self_attn.q_proj"
        tensors = factors(np.random.default_rng(0), module, (16, 16))
        write_adapter(tmp_path / "a", {**tensors, f"{PREFIX}{module}.base_layer.weight": saved})
        assert "expected a base_layer of F32, F16 or BF16 [16, 16]" in self.problems("a")[0]

    def test_one_adapter_twice(self, world):
        assert "expected each model once, found the same as 'one'" in self.problems("one", "base+one")[0]

    def test_pickles(self, world, tmp_path):
        write_adapter(tmp_path / "a", {"x": np.ones(1)})
        (tmp_path / "a" / "adapter_model.safetensors").rename(tmp_path / "a" / "adapter_model.bin")
        assert "'adapter_model.bin', which is never opened" in self.problems("a")[0]

    def test_files_without_each_other(self, world, tmp_path):
        write_adapter(tmp_path / "a", world["one"][0])
        (tmp_path / "a" / "adapter_config.json").unlink()
        assert "expected adapter_config.json" in self.problems("a")[0]

    def test_an_adapter_of_another_base(self, world, tmp_path):
        write_checkpoint(tmp_path / "other", llama_like(np.random.default_rng(1), blocks=1))
        write_adapter(tmp_path / "a", world["one"][0], base_model_name_or_path=str(tmp_path / "other"))
        (problem,) = self.problems("a")
        assert f"expected an adapter of 'base', found base_model_name_or_path '{tmp_path / 'other'}'" in problem
        assert self.problems("base+a") == []  # it was meant
        assert any("an adapter of" in warning for warning in self.plan("base+a").warnings)

    def plan(self, *models):
        return sdmw.plan({"merge_method": "sdm_w", "base_model": "base", "models": [{"model": m} for m in models]})

    def test_hub_names(self, world, tmp_path):
        write_adapter(tmp_path / "a", world["one"][0], base_model_name_or_path="org/elsewhere")
        assert "put on 'base'" in self.plan("a").warnings[0]  # nobody can tell whether it is the same
        write_adapter(tmp_path / "b", world["one"][0], base_model_name_or_path="org/base")
        assert self.plan("b").warnings == ()

    def test_in_the_wrong_place(self, world):
        assert "expected an adapter in model+adapter, found a model" in self.problems("base+corp")[0]
        assert "expected a model in model+adapter, found an adapter" in self.problems("one+two")[0]
        assert "expected a model as the base, found an adapter" in self.problems("corp", base_model="one")[0]

    def test_values_that_are_not_finite_name_the_adapter(self, world, tmp_path):
        tensors = dict(world["one"][0])
        name = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight"
        tensors[name] = np.full_like(tensors[name], np.nan)
        write_adapter(tmp_path / "a", tensors)
        with pytest.raises(sdmw.SdmwError, match=re.escape(str(tmp_path / "a"))):
            run(models=("a",))


def test_an_adapter_that_changed_is_not_gone_on_with(world, tmp_path):
    def end(event):
        if getattr(event, "stage", "") == "apply":
            raise KeyboardInterrupt

    recipe = {"merge_method": "sdm_w", "base_model": "base", "models": [{"model": "one"}]}
    with pytest.raises(KeyboardInterrupt):
        sdmw.merge(recipe, "out", progress=end)
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    (tmp_path / "one" / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 9}))
    with pytest.raises(sdmw.errors.ResumeError, match=r"one/adapter_config\.json: lora_alpha: \d+ → 9"):
        sdmw.merge(recipe, "out", progress=False)


def test_an_inspection_tells_what_is_stored(world):
    found = sdmw.inspect("one")
    assert found.architecture == "LoRA adapter of 'base'"
    assert found.total.tensors == len(world["one"][0])
    assert found.total.parameters == sum(tensor.size for tensor in world["one"][0].values())


class TestTiedHeads:
    """Adapters on a base whose head is its embedding."""

    CONFIG: ClassVar = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True}

    @pytest.fixture
    def tied(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        base = llama_like(np.random.default_rng(8), dtype="F32")
        del base["lm_head.weight"]
        write_checkpoint(tmp_path / "base", base, config=self.CONFIG)
        return base

    def stored(self, folder, base):
        save_file(
            {**base, "lm_head.weight": base["model.embed_tokens.weight"]}, f"{folder}/model.safetensors",
            metadata={"format": "pt"},
        )  # fmt: skip

    def is_tied(self):
        return json.loads(Path("out/config.json").read_text())["tie_word_embeddings"]

    @pytest.mark.parametrize("stored", [False, True])
    @pytest.mark.parametrize("trained", ["model.embed_tokens", "lm_head"])
    def test_one_of_the_two_alone(self, tied, tmp_path, trained, stored):
        """As peft's copy: the other one keeps the base's values, and the config says that they are two."""
        if stored:
            self.stored("base", tied)
        values = np.random.default_rng(1).normal(0, 1, (40, 16)).astype("f4")
        write_adapter(tmp_path / "a", {f"{PREFIX}{trained}.weight": values})
        found, report = run("task_arithmetic", models=("a",))
        below = tied["model.embed_tokens.weight"]
        other = {"model.embed_tokens": "lm_head", "lm_head": "model.embed_tokens"}[trained]
        np.testing.assert_array_equal(found[f"{trained}.weight"], below + (values - below))
        np.testing.assert_array_equal(found[f"{other}.weight"], below)
        assert self.is_tied() is False
        assert any(f"it replaces '{trained}.weight' but not '{other}.weight'" in each for each in report.warnings)
        assert sdmw.verify("out", sample=1).problems == ()

    def test_a_fine_tune_beside_it_keeps_its_own_embedding_as_head(self, tied, tmp_path):
        rng = np.random.default_rng(1)
        tune = fine_tuned(rng, tied)
        write_checkpoint(tmp_path / "tune", tune, config=self.CONFIG)
        values = rng.normal(0, 1, (40, 16)).astype("f4")
        write_adapter(tmp_path / "a", {f"{PREFIX}model.embed_tokens.weight": values})
        found, _ = run("task_arithmetic", models=("a", "tune"), parameters={"weight": 0.5})
        name = "model.embed_tokens.weight"
        below = tied[name]
        assert self.is_tied() is False
        np.testing.assert_allclose(found["lm_head.weight"], below + 0.5 * (tune[name] - below), atol=1e-7)
        np.testing.assert_allclose(
            found[name], below + 0.5 * (values - below) + 0.5 * (tune[name] - below), atol=1e-6
        )  # fmt: skip

    def test_both_with_equal_bits_stay_one(self, tied, tmp_path):
        values = np.random.default_rng(1).normal(0, 1, (40, 16)).astype("f4")
        write_adapter(tmp_path / "a", {f"{PREFIX}{n}.weight": values for n in ("model.embed_tokens", "lm_head")})
        found, _ = run("task_arithmetic", models=("a",))
        assert "lm_head.weight" not in found
        assert self.is_tied() is True

    @pytest.mark.parametrize("stored", [False, True])
    def test_a_low_rank_delta_changes_both(self, tied, tmp_path, stored):
        """As peft's merge."""
        if stored:
            self.stored("base", tied)
        rng = np.random.default_rng(1)
        a, b = rng.normal(0, 1, (4, 40)).astype("f4"), rng.normal(0, 1, (16, 4)).astype("f4")
        embedding = f"{PREFIX}model.embed_tokens"
        write_adapter(tmp_path / "a", {f"{embedding}.lora_embedding_A": a, f"{embedding}.lora_embedding_B": b})
        found, report = run("task_arithmetic", models=("a",))
        expected = tied["model.embed_tokens.weight"] + low_rank.delta(a, b, 8, transposed=True)
        np.testing.assert_array_equal(found["model.embed_tokens.weight"], expected)
        assert "lm_head.weight" not in found
        assert self.is_tied() is True
        assert any("is also the output head" in warning for warning in report.warnings)

    def test_an_adapter_that_is_made_of_such_deltas_has_each_once(self, tied, tmp_path):
        self.stored("base", tied)
        rng = np.random.default_rng(1)
        embedding = f"{PREFIX}model.embed_tokens"
        for name in ("a", "b"):
            a, b = rng.normal(0, 1, (4, 40)).astype("f4"), rng.normal(0, 1, (16, 4)).astype("f4")
            write_adapter(
                tmp_path / name, {f"{embedding}.lora_embedding_A": a, f"{embedding}.lora_embedding_B": b}
            )  # fmt: skip
        recipe = {"merge_method": "lora", "base_model": "base", "models": [{"model": "a"}, {"model": "b"}]}
        sdmw.merge({**recipe, "parameters": {"output": "adapter"}}, "out", progress=False)
        found = load_file("out/adapter_model.safetensors")
        assert set(found) == {f"{embedding}.lora_embedding_A", f"{embedding}.lora_embedding_B"}

    @pytest.mark.parametrize("ensured", [False, True])
    def test_the_head_s_matrices_count_only_where_it_is_trained_by_itself(self, tied, tmp_path, ensured):
        """peft saves the embedding's again, transposed, as the head's where `ensure_weight_tying` shares them."""
        rng = np.random.default_rng(1)
        a, b = rng.normal(0, 1, (4, 40)).astype("f4"), rng.normal(0, 1, (16, 4)).astype("f4")
        embedding, head = f"{PREFIX}model.embed_tokens", f"{PREFIX}lm_head"
        tensors = {
            f"{embedding}.lora_embedding_A": a, f"{embedding}.lora_embedding_B": b,
            f"{head}.lora_A.weight": np.ascontiguousarray(b.T), f"{head}.lora_B.weight": np.ascontiguousarray(a.T),
        }  # fmt: skip
        write_adapter(tmp_path / "a", tensors, ensure_weight_tying=ensured)
        recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": [{"model": "a"}]}
        problems = sdmw.plan(recipe).problems
        if not ensured:
            (problem,) = problems
            assert "The model ties its head to its embedding: untie it first" in problem.mend
            return
        found, _ = run("task_arithmetic", models=("a",))
        expected = tied["model.embed_tokens.weight"] + low_rank.delta(a, b, 8, transposed=True)
        np.testing.assert_array_equal(found["model.embed_tokens.weight"], expected)
        assert "lm_head.weight" not in found

    def test_where_a_config_cannot_say_it_one_alone_is_refused(self, tmp_path, monkeypatch):
        """T5's field scales the decoder's output as well."""
        monkeypatch.chdir(tmp_path)
        base = {"shared.weight": np.ones((40, 16), "f4"), "x.weight": np.ones((4, 4), "f4")}
        config = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "tie_word_embeddings": True}
        write_checkpoint(tmp_path / "base", base, config=config)
        write_adapter(tmp_path / "a", {f"{PREFIX}shared.weight": np.zeros((40, 16), "f4")})
        recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": [{"model": "a"}]}
        (problem,) = sdmw.plan(recipe).problems
        assert "expected embedding and head changed together" in str(problem)
        assert "merge_and_unload" in problem.mend

    @pytest.mark.parametrize(
        ("model_type", "embedding", "head"),
        [
            ("git", "git.embeddings.word_embeddings", "output.weight"),
            ("kosmos-2", "text_model.model.embed_tokens", "text_model.lm_head.weight"),
            ("xlnet", "transformer.word_embedding", "lm_loss.weight"),
            ("xlm", "transformer.embeddings", "pred_layer.proj.weight"),
            ("openai-gpt", "transformer.tokens_embed", "lm_head.weight"),
            ("ctrl", "transformer.w", "lm_head.weight"),
            ("llava", "language_model.model.embed_tokens", "language_model.lm_head.weight"),
            ("qwen2_vl", "model.language_model.embed_tokens", "lm_head.weight"),
            ("blip", "text_decoder.bert.embeddings.word_embeddings", "text_decoder.cls.predictions.decoder.weight"),
            ("t5gemma", "model.decoder.embed_tokens", "lm_head.out_proj.weight"),
            ("gpt2", "wte", "lm_head.weight"),
            ("bert", "bert.embeddings.word_embeddings", "cls.predictions.decoder.weight"),
            ("of_nobody", "model.embed_tokens", None),
            ("of_nobody", "inner.model.embed_tokens", None),
        ],
    )
    def test_a_head_is_written_under_the_name_that_loaders_know_and_else_refused(
        self, tmp_path, monkeypatch, model_type, embedding, head
    ):
        monkeypatch.chdir(tmp_path)
        base = {f"{embedding}.weight": np.ones((40, 16), "f4"), "x.weight": np.ones((4, 4), "f4")}
        config = {"model_type": model_type, "architectures": ["SomeForCausalLM"], "tie_word_embeddings": True}
        write_checkpoint(tmp_path / "base", base, config=config)
        write_adapter(tmp_path / "a", {f"{PREFIX}{embedding}.weight": np.zeros((40, 16), "f4")})
        if head is None:
            recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": [{"model": "a"}]}
            (problem,) = sdmw.plan(recipe).problems
            assert "such a model's head has no name here" in problem.mend
            return
        found, _ = run("task_arithmetic", models=("a",))
        assert set(found) == {*base, head}
        np.testing.assert_array_equal(found[head], base[f"{embedding}.weight"])

    @pytest.mark.parametrize("trained", ["model.shared", "lm_head"])
    def test_bart_s_encoder_and_decoder_have_modules_of_their_own(self, tmp_path, monkeypatch, trained):
        """A copy of the shared embedding is read by neither; a head of its own unties both, which are then written."""
        monkeypatch.chdir(tmp_path)
        base = {"model.shared.weight": np.ones((40, 16), "f4"), "model.encoder.x.weight": np.ones((4, 4), "f4")}
        config = {"model_type": "bart", "architectures": ["BartForConditionalGeneration"], "tie_word_embeddings": True}
        write_checkpoint(tmp_path / "base", base, config=config)
        write_adapter(tmp_path / "a", {f"{PREFIX}{trained}.weight": np.zeros((40, 16), "f4")})
        recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": [{"model": "a"}]}
        if trained == "model.shared":
            (problem,) = sdmw.plan(recipe).problems
            assert "peft trains a copy of it, which neither of them reads" in str(problem)
            return
        found, _ = run("task_arithmetic", models=("a",))
        assert not found["lm_head.weight"].any()
        for side in ("encoder", "decoder"):
            np.testing.assert_array_equal(found[f"model.{side}.embed_tokens.weight"], base["model.shared.weight"])
        assert self.is_tied() is False

    def test_a_model_without_a_head_has_none_to_keep(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        base = {"embed_tokens.weight": np.ones((40, 16), "f4")}
        config = {"model_type": "qwen3", "architectures": ["Qwen3Model"], "tie_word_embeddings": True}
        write_checkpoint(tmp_path / "base", base, config=config)
        write_adapter(tmp_path / "a", {f"{PREFIX}embed_tokens.weight": np.zeros((40, 16), "f4")})
        found, _ = run("task_arithmetic", models=("a",))
        assert set(found) == {"embed_tokens.weight"}
        assert self.is_tied() is True
