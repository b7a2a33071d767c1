"""Keys of config.json by what they change, and what an absent one means.

Source: transformers' configuration classes.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

Effect = Literal["mathematics", "vocabulary", "harmless", "unknown"]

# The last component of a key.
_MATHEMATICS = frozenset((
    "model_type", "hidden_act", "hidden_activation", "hidden_function", "activation_function", "feed_forward_proj",
    "act_dim", "hidden_size", "d_model", "n_embd", "dim", "embed_dim", "intermediate_size", "d_ff", "n_inner",
    "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size", "shared_expert_intermediate_size",
    "num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers",
    "num_decoder_layers", "num_attention_heads", "n_head", "num_heads", "encoder_attention_heads",
    "decoder_attention_heads", "num_key_value_heads", "head_dim", "d_kv", "q_lora_rank", "kv_lora_rank",
    "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon",
    "norm_epsilon", "norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq",
    "rope_interleave", "rotary_pct", "rotary_emb_base", "partial_rotary_factor", "rotary_dim", "sliding_window",
    "use_sliding_window", "sliding_window_pattern", "max_window_layers", "layer_types", "attention_bias",
    "mlp_bias", "qkv_bias", "use_bias", "attn_logit_softcapping", "final_logit_softcapping",
    "query_pre_attn_scalar", "attention_multiplier", "embedding_multiplier", "residual_multiplier",
    "logits_scaling", "logit_scale", "scale_embedding", "scale_depth", "dim_model_base", "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx", "parallel_attn", "use_parallel_residual", "alibi",
    "new_decoder_architecture", "multi_query", "qk_layernorm", "use_qk_norm", "num_experts", "num_local_experts",
    "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "norm_topk_prob", "scoring_func", "topk_method",
    "n_group", "topk_group", "routed_scaling_factor", "first_k_dense_replace", "moe_layer_freq",
    "decoder_sparse_step", "mlp_only_layers", "relative_attention_num_buckets", "relative_attention_max_distance",
    "scale_decoder_outputs", "no_rope_layers", "no_rope_layer_interval", "attn_temperature_tuning", "floor_scale",
    "attn_scale", "is_encoder_decoder", "patch_size", "image_size", "spatial_merge_size", "temporal_patch_size",
    "vision_feature_layer", "vision_feature_select_strategy", "projector_hidden_act", "state_size", "conv_kernel",
    "expand", "time_step_rank", "n_groups", "mamba_d_state", "mamba_d_conv", "mamba_expand", "attn_layer_period",
    "attn_layer_offset", "expert_layer_period", "is_decoder", "add_cross_attention", "position_embedding_type",
    "original_max_position_embeddings",
))  # fmt: skip
_VOCABULARY = frozenset(("vocab_size", "pad_vocab_size_multiple"))
_VOCABULARY_ENDS = ("_token_id", "_token_ids", "_token_index", "token_type_ids")
# What no loader computes with, what only training reads, and labels.
_HARMLESS = frozenset((
    "_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "architectures",
    "auto_map", "initializer_range", "initializer_factor", "pretraining_tp", "gradient_checkpointing",
    "output_attentions", "output_hidden_states", "return_dict", "torchscript", "_attn_implementation",
    "_attn_implementation_autoset", "attn_implementation", "tie_word_embeddings", "max_position_embeddings",
    "n_positions", "max_seq_len", "id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params",
    "router_aux_loss_coef", "aux_loss_alpha", "output_router_logits", "router_jitter_noise", "license",
    "use_bfloat16", "chunk_size_feed_forward", "tokenizer_class", "prefix", "_commit_hash", "_from_model_config",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
))  # fmt: skip
_HARMLESS_PARTS = ("dropout", "_drop", "pdrop", "unsloth", "layerdrop", "mask_time", "mask_feature")
_TEXT = "text_config"
_ROPE = "rope"  # above the keys of both spellings
_LENGTH = "max_position_embeddings"
_BY_LENGTH = ("longrope", "su", "dynamic", "yarn")  # kinds of rotations that depend on it


def effect_of(key: str) -> Effect:
    """What a key changes in a model that has it, by its last component.

    Args:
        key: with dots between the levels, as in `text_config.rope_theta`.
    """
    *above, last = key.split(".")
    if _ROPE in above:
        return "mathematics"
    if last in _HARMLESS or any(part in last for part in _HARMLESS_PARTS):
        return "harmless"
    if last in _VOCABULARY or last.endswith(_VOCABULARY_ENDS):
        return "vocabulary"
    return "mathematics" if last in _MATHEMATICS else "unknown"


def on_one_level(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Two configs of one model type, as both have them where version 4 put the language model's keys on top."""
    nested = [isinstance(each.get(_TEXT), Mapping) for each in (one, other)]
    if nested[0] == nested[1] or one.get("model_type") != other.get("model_type"):
        return one, other
    lifted, flat = (one, other) if nested[0] else (other, one)
    lifted = {**lifted[_TEXT], **{key: value for key, value in lifted.items() if key != _TEXT}}
    return (lifted, flat) if nested[0] else (flat, lifted)


def plain_keys(config: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a config with its value: of nested configs with dots, of all versions of transformers alike.

    Version 5 writes `rope_parameters`; version 4 `rope_theta` and `rope_scaling`. The keys of a config that stand for
    what is the default in any case are left out.
    """
    rope = _rope(config)
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    usual = {
        "rope_theta": 10000.0, "rope_local_base_freq": 10000.0, "partial_rotary_factor": 1.0,
        "num_key_value_heads": heads, "position_embedding_type": "absolute",
    }  # fmt: skip
    if type(hidden) is int and type(heads) is int and heads > 0:
        usual["head_dim"] = hidden // heads
    for key, value in {**config, **rope}.items():
        if key in ("rope_scaling", "rope_parameters", "rotary_pct", "rotary_emb_base"):
            continue
        if key.endswith("config") and isinstance(value, Mapping):
            yield from plain_keys(value, f"{at}{key}.")
        elif not (_is_nothing(value) or (key in usual and value == usual[key])):
            yield f"{at}{key}", value[0] if _is_one_token(key, value) else value


def _is_one_token(key: str, value: Any) -> bool:
    """Whether a list of tokens says the same as its only one."""
    return key.endswith("_token_id") and isinstance(value, list) and len(value) == 1


def _is_nothing(value: Any) -> bool:
    """Whether a config that lacks the key says the same."""
    return value is None or value is False or value == {} or value == []


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """What turns positions into rotations, by the keys of version 4, and the rest under `rope.…`.

    Version 5 may have it apart for each kind of layers (Gemma 3); GPT-NeoX has names of its own.
    """
    given = config.get("rope_parameters") or config.get("rope_scaling")
    kinds = given if isinstance(given, Mapping) else {}
    if not (kinds and all(isinstance(each, Mapping) for each in kinds.values())):
        kinds = {"full_attention": kinds}
    usual = {
        "rope_theta": config.get("rope_theta", config.get("rotary_emb_base")),
        "partial_rotary_factor": config.get("partial_rotary_factor", config.get("rotary_pct")),
    }
    rest: dict[str, Any] = {}
    for kind, values in kinds.items():
        found = {"rope_type" if key == "type" else key: value for key, value in values.items()}
        if found.get("rope_type") in ("default", "mrope"):  # the sections alone tell of the second
            del found["rope_type"]
        if kind == "full_attention":
            usual |= {key: found.pop(key) for key in tuple(usual) if key in found}
        elif kind == "sliding_attention" and "rope_theta" in found:
            usual["rope_local_base_freq"] = found.pop("rope_theta")
        if found.get("rope_type") in _BY_LENGTH:
            found.setdefault(_LENGTH, config.get(_LENGTH))
        at = _ROPE if kind == "full_attention" else f"{_ROPE}.{kind}"
        rest |= {f"{at}.{key}": value for key, value in found.items()}
    return {key: value for key, value in usual.items() if value is not None} | rest
