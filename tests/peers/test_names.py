"""Names by rule, against transformers' classes: in memory and as saved, with and without a head, in a larger one."""

import numpy as np
import pytest

import sdmw
from faults.worlds import ALL
from peers.test_in_memory import built, classes, conversion, revert_weight_conversion
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.tensors.dtype import DType
from sdmw.tensors.stored import Stored
from sdmw.views.in_memory import is_rebuilt
from sdmw.views.renamed import renaming

torch = pytest.importorskip("torch", reason="needs the parity extra")
transformers = pytest.importorskip("transformers", reason="needs the parity extra")

pytestmark = pytest.mark.filterwarnings("ignore")


def checkpoint(values, config):
    stored = {name: Stored(name, DType.F32, tuple(tensor.shape), "f", 0) for name, tensor in values.items()}
    return Checkpoint("/x", (), stored, config)


def names(config, base, model):
    """What each name of a model becomes."""
    found = renaming(checkpoint(base, config), checkpoint(model, config)).names
    return {name: found.get(name, name) for name in model}


SOME = (
    "bert", "gemma3", "gpt2", "gpt_neox", "llama", "llava", "mixtral", "mllama", "qwen2_5_vl", "qwen2_vl", "t5",
    "whisper",
)  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "name"), [each for each in classes() if ALL or each[0] in SOME], ids=lambda part: part
)
def test_what_lies_in_memory_is_what_was_saved(model_type, name):
    """A checkpoint whose names are those of `state_dict()`, as trainers of all kinds write them, in both directions."""
    model = built(model_type, name)
    if model is None:
        pytest.skip("its default config builds nothing")
    config = {"model_type": model_type, "architectures": [name]}
    model._weight_conversions = conversion.get_model_conversion_mapping(model, add_legacy=False)
    values = {key: torch.empty(tensor.shape, device="meta") for key, tensor in model.state_dict().items()}
    saved = revert_weight_conversion(model, dict(values))
    by_tensor = {id(tensor): key for key, tensor in saved.items()}
    if is_rebuilt(config) or not all(id(tensor) in by_tensor for tensor in values.values()):
        pytest.skip("stored in other pieces than it has in memory")
    there = {key: by_tensor[id(tensor)] for key, tensor in values.items()}
    assert names(config, saved, values) == there
    assert names(config, values, saved) == {old: key for key, old in there.items()}


HEADLESS = {
    "LlamaForCausalLM": "LlamaModel", "Qwen2ForCausalLM": "Qwen2Model", "Qwen3ForCausalLM": "Qwen3Model",
    "Gemma3ForCausalLM": "Gemma3TextModel", "Phi3ForCausalLM": "Phi3Model", "MixtralForCausalLM": "MixtralModel",
    "GPT2LMHeadModel": "GPT2Model", "BertForMaskedLM": "BertModel", "BertForSequenceClassification": "BertModel",
    "T5ForConditionalGeneration": "T5Model", "WhisperForConditionalGeneration": "WhisperModel",
}  # fmt: skip


@pytest.mark.parametrize("whole", HEADLESS)
def test_a_model_without_its_head_has_the_names_of_one_with_it(whole):
    above = getattr(transformers, whole)
    config = above.config_class()
    for name in ("num_hidden_layers", "num_layers", "n_layer", "encoder_layers", "decoder_layers"):
        if hasattr(config, name):
            setattr(config, name, 2)
    with torch.device("meta"):
        models = [above(config), getattr(transformers, HEADLESS[whole])(config)]
    long, short = (dict(model.state_dict().items()) for model in models)
    found = names({"model_type": config.model_type, "architectures": [whole]}, long, short)
    prefix = f"{above.base_model_prefix}."
    expected = {key: key if key in long else prefix + key for key in short}
    assert {key: new for key, new in found.items() if new in long} == {
        key: new for key, new in expected.items() if new in long
    }


TEXT = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": False,
}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 8, "patch_size": 4}  # fmt: skip


def gemma():
    text = transformers.Gemma3TextConfig(**TEXT)
    whole = transformers.Gemma3Config(text_config=text.to_dict(), vision_config=VISION, mm_tokens_per_image=4,
                                      tie_word_embeddings=False)  # fmt: skip
    return transformers.Gemma3ForCausalLM(text), transformers.Gemma3ForConditionalGeneration(whole)


def qwen():
    text = transformers.Qwen2Config(**TEXT)
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 1, "patch_size": 4}
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 10000.0}
    whole = transformers.Qwen2VLConfig(text_config={**text.to_dict(), "rope_parameters": rope}, vision_config=vision,
                                       tie_word_embeddings=False)  # fmt: skip
    return transformers.Qwen2ForCausalLM(text), transformers.Qwen2VLForConditionalGeneration(whole)


def llava():
    text = transformers.LlamaConfig(**TEXT)
    whole = transformers.LlavaConfig(text_config=text.to_dict(), tie_word_embeddings=False,
                                     vision_config={"model_type": "clip_vision_model", **VISION})  # fmt: skip
    return transformers.LlamaForCausalLM(text), transformers.LlavaForConditionalGeneration(whole)


FAMILIES = {"gemma3": gemma, "qwen2_vl": qwen, "llava": llava}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_language_model_merged_into_one_that_sees_is_the_twin_in_torch(tmp_path, monkeypatch, family):
    """The language part is the mean of both, whatever else there is stays; and back, that part as a model."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    text, whole = FAMILIES[family]()
    text.save_pretrained("text")
    whole.save_pretrained("whole")
    recipe = {"merge_method": "linear", "base_model": "whole",
              "models": ["whole", {"model": "text", "into": "model.language_model"}]}  # fmt: skip
    assert sdmw.plan(recipe).problems == ()
    sdmw.merge(recipe, "out", progress=False)
    found = type(whole).from_pretrained("out").state_dict()
    language = text.state_dict()
    for name, tensor in whole.state_dict().items():
        other = language.get(name.replace("model.language_model.", "model."))
        expected = tensor if other is None or "visual" in name or "vision" in name else (tensor + other) / 2
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-7, err_msg=name)

    back = {"merge_method": "linear", "base_model": "text",
            "models": ["text", {"model": "whole", "part": "model.language_model"}]}  # fmt: skip
    sdmw.merge(back, "back", progress=False)
    found = type(text).from_pretrained("back").state_dict()
    large = whole.state_dict()
    for name, tensor in language.items():
        inside = name if name.startswith("lm_head") else name.replace("model.", "model.language_model.", 1)
        np.testing.assert_allclose(found[name], (tensor + large[inside]) / 2, rtol=0, atol=1e-7, err_msg=name)
