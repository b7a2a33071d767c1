"""Adapters and extractions on tiny models of transformers' own classes, against what peft makes of them."""

import json
import warnings

import numpy as np
import pytest

import sdmw
from sdmw.errors import SdmwError

torch = pytest.importorskip("torch", reason="needs the parity extra")
peft = pytest.importorskip("peft", reason="needs the parity extra")
transformers = pytest.importorskip("transformers", reason="needs the parity extra")
from safetensors.torch import load_file, save_file  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
MROPE = {**TEXT, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
EXPERTS = {**TEXT, "moe_intermediate_size": 8, "num_experts_per_tok": 2}
AUDIO = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "vocab_size": 64, "max_source_positions": 8, "max_target_positions": 8,
    "num_mel_bins": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


def tiny(kind):
    """A model with random values, by transformers' name for its class."""
    t = transformers
    configs = {
        "LlamaForCausalLM": lambda: t.LlamaConfig(**TEXT, tie_word_embeddings=True),
        "GPT2LMHeadModel": lambda: t.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=16, vocab_size=64),
        "GPTNeoXForCausalLM": lambda: t.GPTNeoXConfig(**TOWER, vocab_size=64),
        "BloomForCausalLM": lambda: t.BloomConfig(vocab_size=64, hidden_size=16, n_layer=1, n_head=2),
        "OPTForCausalLM": lambda: t.OPTConfig(
            vocab_size=64, hidden_size=16, ffn_dim=24, num_hidden_layers=1, num_attention_heads=2,
            word_embed_proj_dim=16, max_position_embeddings=32,
        ),
        "MambaForCausalLM": lambda: t.MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=1),
        "BertForMaskedLM": lambda: t.BertConfig(**TOWER, vocab_size=64, max_position_embeddings=16),
        "AlbertForMaskedLM": lambda: t.AlbertConfig(**TOWER, vocab_size=64, embedding_size=8),
        "T5ForConditionalGeneration": lambda: t.T5Config(
            d_model=16, d_ff=24, d_kv=8, num_layers=1, num_heads=2, vocab_size=64, decoder_start_token_id=0
        ),
        "WhisperForConditionalGeneration": lambda: t.WhisperConfig(**AUDIO),
        "LlavaForConditionalGeneration": lambda: t.LlavaConfig(
            text_config=t.LlamaConfig(**TEXT), image_token_index=5,
            vision_config=t.CLIPVisionConfig(**TOWER, image_size=8, patch_size=4, projection_dim=16),
        ),
        "Gemma3ForConditionalGeneration": lambda: t.Gemma3Config(
            text_config=t.Gemma3TextConfig(**TEXT), mm_tokens_per_image=4, image_token_index=5,
            vision_config=t.SiglipVisionConfig(**TOWER, image_size=8, patch_size=4),
        ),
        "Mistral3ForConditionalGeneration": lambda: t.Mistral3Config(
            text_config=t.MistralConfig(**TEXT),
            vision_config=t.PixtralVisionConfig(**TOWER, image_size=8, patch_size=4, head_dim=8),
        ),
        "Qwen2VLForConditionalGeneration": lambda: t.Qwen2VLConfig(
            text_config=MROPE,
            vision_config={
                "depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4,
            },
        ),
        "Qwen2_5_VLForConditionalGeneration": lambda: t.Qwen2_5_VLConfig(
            text_config=MROPE,
            vision_config={
                "depth": 1, "hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 16, "num_heads": 2,
                "patch_size": 4, "fullatt_block_indexes": [0],
            },
        ),
        "GptOssForCausalLM": lambda: t.GptOssConfig(**TEXT, num_local_experts=4, num_experts_per_tok=2),
        "Llama4ForCausalLM": lambda: t.Llama4TextConfig(
            **TEXT, intermediate_size_mlp=24, num_local_experts=4, moe_layers=[0]
        ),
        "MixtralForCausalLM": lambda: t.MixtralConfig(**TEXT, num_local_experts=4, num_experts_per_tok=2),
        "Qwen2MoeForCausalLM": lambda: t.Qwen2MoeConfig(
            **EXPERTS, num_experts=4, shared_expert_intermediate_size=8
        ),
        "Qwen3MoeForCausalLM": lambda: t.Qwen3MoeConfig(**EXPERTS, num_experts=4),
        "DeepseekV3ForCausalLM": lambda: t.DeepseekV3Config(
            **{**EXPERTS, "num_hidden_layers": 2, "num_key_value_heads": 2}, n_routed_experts=4, n_group=1,
            topk_group=1, first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4,
            qk_nope_head_dim=4, v_head_dim=8,
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, kind)(configs[kind]()).float().eval()
    disturb(model, 0.3)
    return model


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def disturb(model, scale, trainable=False):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad or not trainable:
                parameter.add_(torch.randn_like(parameter) * scale)


def logits(model):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(6, 64, (1, 6), generator=generator)
    inputs = {"input_ids": ids}
    if model.config.model_type == "whisper":
        inputs = {"input_features": torch.randn(1, 4, 16, generator=generator), "decoder_input_ids": ids}
    elif model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    with torch.no_grad():
        return model.eval()(**inputs).logits.numpy()


def adapt(model, folder, **config):
    """An adapter of random values on a model, saved; and the model with it."""
    torch.manual_seed(3)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, **config)).eval()
    disturb(adapted, 0.2, trainable=True)
    adapted.save_pretrained(folder)
    return adapted


def merged(base, adapter, out):
    recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": [{"model": str(adapter)}]}
    sdmw.merge(recipe, out, progress=False)
    return out


def loaded(kind, folder):
    model, said = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not said["unexpected_keys"]
    assert not said["missing_keys"]
    return model


# --- Adapters of whatever names a model has in memory


NAMED = {
    "LlavaForConditionalGeneration": ["q_proj", "fc1"],
    "Gemma3ForConditionalGeneration": ["q_proj", "fc1"],
    "Mistral3ForConditionalGeneration": ["q_proj"],
    "Qwen2VLForConditionalGeneration": ["q_proj", "qkv"],
    "Qwen2_5_VLForConditionalGeneration": ["q_proj", "qkv"],
    "GPTNeoXForCausalLM": ["query_key_value", "lm_head"],
    "BloomForCausalLM": ["query_key_value"],
    "WhisperForConditionalGeneration": ["q_proj"],
    "T5ForConditionalGeneration": ["q", "wo"],
}


@pytest.mark.parametrize("stored", ["as published", "as in memory"])
@pytest.mark.parametrize("kind", NAMED)
def test_an_adapter_finds_its_tensors_whatever_they_are_stored_as(tmp_path, kind, stored):
    as_published = stored == "as published"
    model = tiny(kind)
    model.save_pretrained(tmp_path / "base", save_original_format=as_published)
    model.name_or_path = str(tmp_path / "base")
    expected = adapt(model, tmp_path / "a", target_modules=NAMED[kind]).merge_and_unload()
    merged(tmp_path / "base", tmp_path / "a", tmp_path / "out")
    found, before = (load_file(tmp_path / folder / "model.safetensors") for folder in ("out", "base"))
    expected.save_pretrained(tmp_path / "expected", save_original_format=as_published)
    wanted = load_file(tmp_path / "expected" / "model.safetensors")
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, found[name])}
    deltas = [key for key in load_file(tmp_path / "a" / "adapter_model.safetensors") if "lora_A" in key]
    assert len(changed) == len(deltas)
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor, wanted[name], atol=1e-5, err_msg=name)


def test_the_mend_never_names_the_model_in_use(tmp_path):
    """A classifier's head, and tensors that no model of this kind has, on the model that the adapter names."""
    base = tiny("LlamaForCausalLM")
    base.save_pretrained(tmp_path / "base")
    classifier = transformers.LlamaForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    adapt(classifier, tmp_path / "a", target_modules=["q_proj"], task_type="SEQ_CLS")
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        tmp_path / "base"
    )
    recipe = {
        "merge_method": "linear", "base_model": str(tmp_path / "base"), "models": [{"model": str(tmp_path / "a")}],
    }  # fmt: skip
    (problem,) = sdmw.plan(recipe).problems
    assert "score" in str(problem)
    assert "trained on" not in problem.mend
    assert "Load the base with the class that the adapter was trained with" in problem.mend


# --- Heads that are the embedding


def outcome(kind, base, adapter, folder):
    """Logits of the merge; None where it is refused with what to do about it."""
    recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": [{"model": str(adapter)}]}
    if problems := sdmw.plan(recipe).problems:
        assert [problem for problem in problems if "merge_and_unload" in problem.mend] == list(problems)
        return None
    merged(base, adapter, folder)
    return logits(loaded(kind, folder))


ALONE = {
    "LlamaForCausalLM": (["q_proj"], ["embed_tokens"]),
    "GPT2LMHeadModel": (["c_attn"], ["wte"]),
    "WhisperForConditionalGeneration": (["q_proj"], ["embed_tokens"]),
    "T5ForConditionalGeneration": (["q"], ["shared"]),
    "Gemma3ForConditionalGeneration": (["q_proj"], ["embed_tokens"]),
    "BertForMaskedLM": (["query"], ["word_embeddings"]),
}


@pytest.mark.parametrize("kind", ALONE)
def test_an_embedding_that_is_saved_alone_leaves_the_head_as_it_was(tmp_path, kind):
    """What peft computes; where a config cannot say it, a refusal."""
    tiny(kind).save_pretrained(tmp_path / "base")
    targets, saved = ALONE[kind]
    with_adapter = adapt(loaded(kind, tmp_path / "base"), tmp_path / "a", target_modules=targets, modules_to_save=saved)
    found = outcome(kind, tmp_path / "base", tmp_path / "a", tmp_path / "out")
    assert (found is None) == (kind == "T5ForConditionalGeneration")
    if found is not None:
        np.testing.assert_allclose(found, logits(with_adapter), atol=1e-4)


@pytest.mark.parametrize("saved", [["lm_head"], ["embed_tokens", "lm_head"]])
def test_a_head_that_is_saved_is_no_longer_the_embedding(tmp_path, saved):
    kind = "LlamaForCausalLM"
    tiny(kind).save_pretrained(tmp_path / "base")
    base = loaded(kind, tmp_path / "base")
    with_adapter = adapt(base, tmp_path / "a", target_modules=["q_proj"], modules_to_save=saved)
    found = outcome(kind, tmp_path / "base", tmp_path / "a", tmp_path / "out")
    np.testing.assert_allclose(found, logits(with_adapter), atol=1e-4)


def test_on_an_untied_copy_of_the_base_the_head_stays_too(tmp_path):
    """The same from a base that stores its head."""
    kind = "LlamaForCausalLM"
    tiny(kind).save_pretrained(tmp_path / "base")
    with_adapter = adapt(
        loaded(kind, tmp_path / "base"), tmp_path / "a", target_modules=["q_proj"], modules_to_save=["embed_tokens"]
    )
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    merged(tmp_path / "base", tmp_path / "a", tmp_path / "out")
    np.testing.assert_allclose(logits(loaded(kind, tmp_path / "out")), logits(with_adapter), atol=1e-4)


def test_a_stored_head_under_a_config_that_says_tied_is_told(tmp_path):
    kind = "LlamaForCausalLM"
    tiny(kind).save_pretrained(tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with_adapter = adapt(
        loaded(kind, tmp_path / "base"), tmp_path / "a", target_modules=["q_proj"], modules_to_save=["embed_tokens"]
    )
    recipe = {
        "merge_method": "linear", "base_model": str(tmp_path / "base"), "models": [{"model": str(tmp_path / "a")}],
    }  # fmt: skip
    assert any("but not 'lm_head.weight'" in warning for warning in sdmw.plan(recipe).warnings)
    found = outcome(kind, tmp_path / "base", tmp_path / "a", tmp_path / "out")
    np.testing.assert_allclose(found, logits(with_adapter), atol=1e-4)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


TOGETHER = {
    "saved embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "matrices": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.mark.parametrize("how", TOGETHER)
def test_a_tie_that_the_adapter_keeps_is_kept(tmp_path, how):
    kind = "LlamaForCausalLM"
    tiny(kind).save_pretrained(tmp_path / "base")
    base = loaded(kind, tmp_path / "base")
    with_adapter = adapt(base, tmp_path / "a", ensure_weight_tying=True, **TOGETHER[how])
    assert any("lm_head" in name for name in load_file(tmp_path / "a" / "adapter_model.safetensors"))
    merged(tmp_path / "base", tmp_path / "a", tmp_path / "out")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_allclose(logits(loaded(kind, tmp_path / "out")), logits(with_adapter), atol=2e-4)


# --- Resized vocabularies


@pytest.mark.parametrize("saved", [None, ["lm_head"], ["embed_tokens", "lm_head"]])
@pytest.mark.parametrize("tied", [False, True])
def test_a_resized_vocabulary(tmp_path, tied, saved):
    if tied and saved == ["lm_head"]:
        pytest.skip("head and embedding are two then: the test above")
    kind = "LlamaForCausalLM"
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT, tie_word_embeddings=tied)).save_pretrained(
        tmp_path / "base"
    )
    resized = loaded(kind, tmp_path / "base")
    resized.resize_token_embeddings(72)
    resized.save_pretrained(tmp_path / "resized")
    extra = {"ensure_weight_tying": True} if tied and saved else {}
    with_adapter = adapt(resized, tmp_path / "a", target_modules=["q_proj"], modules_to_save=saved, **extra)
    names = set(load_file(tmp_path / "a" / "adapter_model.safetensors"))
    assert "base_model.model.lm_head.weight" in names
    assert ("base_model.model.lm_head.original_module.weight" in names) == bool(saved)
    merged(tmp_path / "resized", f"{tmp_path / 'resized'}+{tmp_path / 'a'}", tmp_path / "out")
    np.testing.assert_allclose(logits(loaded(kind, tmp_path / "out")), logits(with_adapter), atol=1e-4)
    recipe = {
        "merge_method": "linear", "base_model": str(tmp_path / "base"), "models": [{"model": str(tmp_path / "a")}],
    }  # fmt: skip
    problems = sdmw.plan(recipe).problems
    assert problems
    for problem in problems:
        assert "resize that of the base to 72" in problem.mend
        assert "trained on" not in problem.mend


# --- Extraction


WHOLE = ["LlamaForCausalLM", "GPT2LMHeadModel", "T5ForConditionalGeneration"]
POSITIONS = "tables of positions, which do not work with an adapter"
EXTRACTED = {
    # What of each stays out of an adapter, by what the report calls it.
    "LlamaForCausalLM": {"vectors"},
    "GPT2LMHeadModel": {"vectors"},
    "GPTNeoXForCausalLM": {"vectors"},
    "BloomForCausalLM": {"vectors"},
    "OPTForCausalLM": {"vectors", POSITIONS},
    "T5ForConditionalGeneration": {"vectors"},
    "BertForMaskedLM": {"vectors"},
    "AlbertForMaskedLM": {"vectors"},
    "WhisperForConditionalGeneration": {"vectors", "tensors of more than two axes", POSITIONS},
    "MambaForCausalLM": {
        "vectors", "tensors of more than two axes", "parameters of modules that peft does not support",
        "modules that peft does not support in this model type",
    },
    "LlavaForConditionalGeneration": {"vectors", "tensors of more than two axes"},
    "Gemma3ForConditionalGeneration": {
        "vectors", "tensors of more than two axes", "parameters of modules that peft does not support",
    },
    "Mistral3ForConditionalGeneration": {"vectors", "tensors of more than two axes"},
    "Qwen2VLForConditionalGeneration": {"vectors", "tensors of more than two axes"},
    "Qwen2_5_VLForConditionalGeneration": {"vectors", "tensors of more than two axes"},
    "GptOssForCausalLM": {
        "vectors", "routers, which peft does not support", "experts in one tensor",
        "parameters of modules that peft does not support",
    },
    "Llama4ForCausalLM": {"vectors", "routers, which peft does not support", "experts in one tensor"},
    "MixtralForCausalLM": {"vectors"},
    "Qwen3MoeForCausalLM": {"vectors"},
    "Qwen2MoeForCausalLM": {
        "vectors", "routers, which peft does not support", "experts, which are one tensor in memory",
    },
    "DeepseekV3ForCausalLM": {"vectors", "modules that peft mistakes for experts because of their names"},
}  # fmt: skip


@pytest.mark.parametrize("kind", EXTRACTED)
def test_an_extracted_adapter_loads_whole_and_lacks_what_the_report_says(tmp_path, kind):
    model = tiny(kind)
    model.save_pretrained(tmp_path / "base")
    disturb(model, 0.05)
    model.save_pretrained(tmp_path / "tune")
    report = sdmw.extract(tmp_path / "base", tmp_path / "tune", tmp_path / "a", rank=64, progress=False)
    assert {each.why for each in report.left_out} <= EXTRACTED[kind]
    assert {each.why for each in report.left_out} >= EXTRACTED[kind] - {
        "parameters of modules that peft does not support"
    }
    base = loaded(kind, tmp_path / "base")
    before = {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*adapter keys")
        with_adapter = peft.PeftModel.from_pretrained(base, tmp_path / "a")
    with_adapter.merge_and_unload()
    whole = lost = 0.0
    after, tune = dict(base.named_parameters()), dict(loaded(kind, tmp_path / "tune").named_parameters())
    for name, values in before.items():
        whole += float((tune[name] - values).double().square().sum())
        lost += float((tune[name] - after[name]).double().square().sum())
    assert report.error < 1e-5  # of full rank
    assert report.whole_error == pytest.approx(np.sqrt(lost / whole), rel=1e-3)
    assert report.left_out_share == pytest.approx(report.whole_error, rel=1e-3)


def test_a_model_of_other_modules_than_it_is_stored_as_is_refused(tmp_path):
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**TOWER, image_size=8, patch_size=4))
    model.save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "tune")
    with pytest.raises(SdmwError, match="for which transformers and the checkpoint name modules differently"):
        sdmw.extract(tmp_path / "base", tmp_path / "tune", tmp_path / "a", progress=False)
