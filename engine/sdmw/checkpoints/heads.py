"""What names and configs tell of heads: tensors that a loader takes the embedding for, whatever is stored."""

from collections.abc import Collection, Mapping
from typing import Any

from sdmw.checkpoints.tied_names import LANGUAGE, tied_names

# The last module in the name of an input embedding; of several in one model the first of these is the one to tie to.
_INPUT = (
    "shared", "embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "embeddings", "embedding",
    "tokens_embed", "word_embedding",
)  # fmt: skip
_INPUT_OF = {"ctrl": ("w",)}  # names that elsewhere mean anything
# The last module in the name of what transformers ties to the input embedding: output heads, and the
# embeddings of encoder and decoder.
_TIED = (
    "lm_head",
    "embed_out",
    "output",
    "proj_out",
    "decoder",
    "embed_tokens",
    "output_projection",
    "vocab_projector",
    "generator_lm_head",
    "lm_loss",
)
_TIED_IN = (("pred_layer", "proj"),)  # the last two, where the last alone means anything
# Encoder and decoder share one embedding whatever the config says; it says there whether the output is scaled.
_ALWAYS_SHARED = frozenset(("t5", "mt5", "umt5", "longt5", "pop2piano", "udop"))
# Here transformers 5 ties where either config says so: older versions wrote it into the language model's alone.
_TIED_FROM_BELOW = frozenset(
    (
        "fast_vlm", "glm4v", "glm4v_moe", "glm_ocr", "hunyuan_vl", "llava", "llava_next_video", "llava_onevision",
        "minimax_m3_vl", "paddleocr_vl", "perception_lm", "qwen2_5_vl", "qwen2_vl", "shieldgemma2", "vibevoice",
        "video_llama_3",
    )
)  # fmt: skip


def called_like_a_head(name: str) -> bool:
    """Whether a tensor of this name may be tied to the embedding."""
    *_, above, module, last = ("", "", *name.split("."))
    return last == "weight" and (module in _TIED or (above, module) in _TIED_IN)


def inputs_of(config: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The last module in the name of an input embedding, in a model of this config; the first is the one to tie to."""
    return (*_INPUT, *_INPUT_OF.get(str((config or {}).get("model_type")), ()))


def tied_by_config(config: Mapping[str, Any] | None) -> bool | None:
    """What a config says of ties: of the model, or of the language model in it; None where it says nothing."""
    config = config or {}
    levels = [config, *(level for name in LANGUAGE if isinstance(level := config.get(name), Mapping))]
    said = [tie for level in levels if isinstance(tie := level.get("tie_word_embeddings"), bool)]
    if config.get("model_type") in _TIED_FROM_BELOW and any(said):
        return True
    return said[0] if said else None


def is_shared(head: str) -> bool:
    """Whether this is an encoder's or a decoder's own embedding, and no output head (T5, BART)."""
    return head.split(".")[-2:] == ["embed_tokens", "weight"]


def always_shared(head: str, config: Mapping[str, Any] | None) -> bool:
    """Whether a loader takes the shared embedding for this one of encoder or decoder whatever the config says."""
    return is_shared(head) and (config or {}).get("model_type") in _ALWAYS_SHARED


def shared_if_tied(embedding: str, config: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Names of the embeddings that encoder and decoder have beside the shared one where nothing ties them."""
    if embedding.split(".")[-2:] != ["shared", "weight"] or (config or {}).get("model_type") in _ALWAYS_SHARED:
        return ()
    return tuple(filter(is_shared, tied_names(config, {embedding}).sources))


def may_be_tied(head: str, config: Mapping[str, Any] | None) -> bool:
    """Whether a model that stores no such head can be one whose head is its embedding."""
    return is_shared(head) or tied_by_config(config) is not False


def stands_in(head: str, stored: Collection[str], config: Mapping[str, Any] | None) -> bool:
    """Whether a model lacks a head because its embedding, which it stores, stands for it."""
    if not may_be_tied(head, config):
        return False
    known = tied_names(config, stored)
    if head in known.sources or known.whole:
        return head in known.sources
    embeddings = ("shared",) if called_like_a_head(head) and is_shared(head) else inputs_of(config)
    return called_like_a_head(head) and any(
        name != head and name.split(".")[-2:] in ([each, "weight"] for each in embeddings) for name in stored
    )
