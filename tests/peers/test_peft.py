"""Adapters really made by peft, held against its own merge; and combined ones loaded by it."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

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
