"""Keys of configs by their effect, and configs that say the same in two spellings."""

import pytest

from sdmw.checkpoints.config_keys import effect_of, on_one_level, plain_keys

BASE = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("key", "effect"),
    [
        ("num_attention_heads", "mathematics"),
        ("text_config.rms_norm_eps", "mathematics"),
        ("rope.factor", "mathematics"),
        ("vision_config.rope.low_freq_factor", "mathematics"),
        ("eos_token_id", "vocabulary"),
        ("image_token_index", "vocabulary"),
        ("text_config.vocab_size", "vocabulary"),
        ("transformers_version", "harmless"),
        ("attention_dropout", "harmless"),
        ("resid_pdrop", "harmless"),
        ("architectures", "harmless"),
        ("a_key_of_tomorrow", "unknown"),
    ],
)
def test_effects(key, effect):
    assert effect_of(key) == effect


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"rope_theta": 10000.0}, {}),
        ({"rope_theta": 5e5, "rope_scaling": None}, {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}),
        (
            {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}},
        ),
        (  # Gemma 3
            {"rope_theta": 1e6, "rope_local_base_freq": 5e3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
            {"rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}},
        ),
        (  # Phi
            {"rope_theta": 5e5, "partial_rotary_factor": 0.5},
            {"rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 0.5, "rope_type": "default"}},
        ),
        (  # GPT-NeoX
            {"rotary_pct": 0.25, "rotary_emb_base": 10000},
            {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.25, "rope_type": "default"}},
        ),
        ({"bos_token_id": 1}, {"bos_token_id": [1]}),
        ({"head_dim": 16, "num_key_value_heads": 4}, {}),
        ({"attention_bias": False, "mlp_bias": None, "quantization": {}, "pruned_heads": []}, {}),
        ({"text_config": {"head_dim": 8, "hidden_size": 32, "num_attention_heads": 4}},
         {"text_config": {"hidden_size": 32, "num_attention_heads": 4}}),
    ],
)  # fmt: skip
def test_two_spellings_of_one_config(one, other):
    assert dict(plain_keys({**BASE, **one})) == dict(plain_keys({**BASE, **other}))


def test_a_language_model_s_keys_on_top_or_in_a_config_of_its_own():
    """Qwen2-VL, as version 4 wrote it and as version 5 does."""
    scaling = {"type": "mrope", "mrope_section": [2, 1, 1]}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e6}
    vision = {"model_type": "qwen2_vl", "vision_config": {"depth": 2}}
    flat = {**vision, "hidden_size": 32, "rope_theta": 1e6, "rope_scaling": scaling}
    nested = {**vision, "text_config": {"model_type": "qwen2_vl_text", "hidden_size": 32, "rope_parameters": rope}}
    for pair in ((flat, nested), (nested, flat)):
        one, other = on_one_level(*pair)
        assert dict(plain_keys(one)) == dict(plain_keys(other))
    assert on_one_level(flat, flat) == (flat, flat)
    another = {**nested, "model_type": "other"}
    assert on_one_level(flat, another) == (flat, another)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"rope_theta": 5e5}, {}),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, {}),
        ({"rotary_pct": 0.25}, {"rotary_pct": 0.5}),
        ({"rope_local_base_freq": 5e3}, {"rope_local_base_freq": 5e4}),
        ({"rope_parameters": {"sliding_attention": {"rope_theta": 5e3}, "full_attention": {"rope_theta": 5e5}}},
         {"rope_parameters": {"sliding_attention": {"rope_theta": 5e5}, "full_attention": {"rope_theta": 5e3}}}),
        ({"rope_parameters": {"sliding_attention": {"factor": 2.0}, "full_attention": {}}},
         {"rope_parameters": {"sliding_attention": {}, "full_attention": {"factor": 2.0}}}),
        ({"head_dim": 32}, {}),
        ({"num_key_value_heads": 2}, {}),
        ({"attention_bias": True}, {}),
        ({"first_k_dense_replace": 0}, {}),  # a number is never nothing
    ],
)  # fmt: skip
def test_two_configs(one, other):
    assert dict(plain_keys({**BASE, **one})) != dict(plain_keys({**BASE, **other}))
