"""Adapters really made by peft, held against its own merge; and combined ones loaded by it."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sdmw
from command_line import everything_in

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

BASE = "tests/data/base"
KINDS = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "rslora and patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "down_proj"],
        "use_rslora": True,
        "rank_pattern": {"layers.0.self_attn.q_proj": 6},
        "alpha_pattern": {r".*down_proj": 3},
    },
    "embeddings": {"r": 3, "target_modules": ["embed_tokens", "o_proj"]},
    "modules to save": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "every linear": {"r": 2, "target_modules": "all-linear"},
}


def base_model():
    with torch.random.fork_rng():
        return transformers.AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)


def adapter(folder, **config):
    """Of the example's base, with random matrices, saved by peft; and the model with it."""
    torch.manual_seed(3)
    model = peft.get_peft_model(base_model(), peft.LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.05 + ("lora" not in name))
    model.save_pretrained(folder)
    return model


def merged(folder, *models, method="linear", **fields):
    recipe = {"merge_method": method, "base_model": BASE, "models": [{"model": str(m)} for m in models], **fields}
    sdmw.merge(recipe, folder / "out", progress=False)
    return load_file(folder / "out" / "model.safetensors")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_on_its_base_is_what_peft_merges(tmp_path, kind):
    """Within the rounding of float32: peft multiplies by BLAS in float32, we sum in float64."""
    model = adapter(tmp_path / "a", **KINDS[kind])
    before = everything_in(tmp_path / "a")
    found = merged(tmp_path, tmp_path / "a", out_dtype="float32")
    expected = {name: tensor.numpy() for name, tensor in model.merge_and_unload().state_dict().items()}
    del expected["lm_head.weight"]  # tied
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-6, atol=2e-6, err_msg=name)
    assert any((found[name] != base).any() for name, base in load_wide().items())
    assert everything_in(tmp_path / "a") == before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases(tmp_path, bias):
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.Qwen2ForCausalLM(config).save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"], bias=bias, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "a")
    models = [{"model": str(tmp_path / "a")}]
    recipe = {"merge_method": "linear", "base_model": str(tmp_path / "base"), "models": models}
    sdmw.merge(recipe, tmp_path / "out", progress=False)
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, values in model.merge_and_unload().state_dict().items():
        np.testing.assert_allclose(found[name], values.numpy(), rtol=2e-6, atol=2e-6, err_msg=name)
    changed = load_file(tmp_path / "base" / "model.safetensors")["model.layers.0.self_attn.q_proj.bias"]
    assert (found["model.layers.0.self_attn.q_proj.bias"] != changed).all()


def load_wide():
    return {name: tensor.numpy() for name, tensor in base_model().state_dict().items() if name != "lm_head.weight"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("config", [{"use_dora": True}, {"lora_bias": True}, {"init_lora_weights": "olora"}])
def test_what_is_no_plain_lora_is_refused_by_name(tmp_path, config):
    adapter(tmp_path / "a", r=4, target_modules=["q_proj"], **config)
    with pytest.raises(sdmw.SdmwError, match=next(iter(config))):
        merged(tmp_path, tmp_path / "a")
    saved = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert {name: saved[name] for name in config} == config


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("weights", [(0.7, 0.4), (1.0, -0.3)])
@pytest.mark.parametrize("kind", ["linear", "cat", "svd"])
def test_combined_adapters_are_what_peft_combines(tmp_path, kind, weights):
    """`add_weighted_adapter`, merged into the base; the plain adapter first, since an rsLoRA one would scale the result
    by the root of its rank there (peft 0.21.2)."""
    adapter(tmp_path / "a", r=4, lora_alpha=8, target_modules=["q_proj", "embed_tokens"])
    adapter(tmp_path / "b", r=4, lora_alpha=3, target_modules=["q_proj", "v_proj"], use_rslora=True)
    strip_base_layers(tmp_path / "a")
    model = peft.PeftModel.from_pretrained(base_model(), tmp_path / "a", adapter_name="a")
    model.load_adapter(tmp_path / "b", "b")
    model.add_weighted_adapter(["a", "b"], list(weights), "both", combination_type=kind, svd_rank=6)
    model.set_adapter("both")
    expected = {
        name: tensor.numpy() for name, tensor in model.merge_and_unload(adapter_names=["both"]).state_dict().items()
    }
    models = [{"model": str(tmp_path / n), "parameters": {"weight": w}} for n, w in zip("ab", weights, strict=True)]
    recipe = {"merge_method": "lora", "base_model": BASE, "models": models, "out_dtype": "float32"}
    parameters = {"combination_type": kind, **({"svd_rank": 6} if kind == "svd" else {})}
    sdmw.merge({**recipe, "parameters": parameters}, tmp_path / "out", progress=False)
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=2e-6, atol=3e-6, err_msg=name)
    # The adapter itself loads in peft and merges to the same.
    sdmw.merge({**recipe, "parameters": {**parameters, "output": "adapter"}}, tmp_path / "adapter", progress=False)
    loaded = peft.PeftModel.from_pretrained(base_model(), tmp_path / "adapter")
    again = loaded.merge_and_unload().state_dict()
    for name, values in found.items():
        np.testing.assert_allclose(again[name].numpy(), values, rtol=2e-6, atol=3e-6, err_msg=name)


def strip_base_layers(folder):
    """peft saves a copy of a targeted embedding beside its matrices; `lora` combines matrices only."""
    path = folder / "adapter_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if "base_layer" not in name}
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.filterwarnings("ignore")
def test_an_extracted_adapter_loads_and_is_as_near_as_reported(tmp_path):
    report = sdmw.extract(BASE, "tests/data/corp", tmp_path / "a", rank=24, progress=False)
    model = peft.PeftModel.from_pretrained(base_model(), tmp_path / "a").merge_and_unload().state_dict()
    base, tune = load_wide(), load_file("tests/data/corp/model.safetensors")
    for weight in report.weights:
        delta = tune[weight.tensor].astype(np.float64) - base[weight.tensor]
        left = delta - (model[weight.tensor].numpy().astype(np.float64) - base[weight.tensor])
        assert np.linalg.norm(left) / np.linalg.norm(delta) == pytest.approx(weight.error, abs=1e-4)
    assert 0 < report.error < 0.9
