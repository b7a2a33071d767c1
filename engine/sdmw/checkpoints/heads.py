"""What names and configs tell of heads: tensors that a loader takes the embedding for, whatever is stored."""

from collections.abc import Collection, Mapping
from typing import Any

# The last module in the name of an input embedding; of several in one model the first of these is the one to tie to.
INPUT = ("shared", "embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "embeddings", "embedding")
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
)


def called_like_a_head(name: str) -> bool:
    """Whether a tensor of this name may be tied to the embedding."""
    *_, module, last = ("", *name.split("."))
    return module in _TIED and last == "weight"


def tied_by_config(config: Mapping[str, Any] | None) -> bool | None:
    """What a config says of ties: of the model, or of the language model in it; None where it says nothing."""
    for level in (
        config or {},
        *(v for k, v in (config or {}).items() if k.endswith("config") and isinstance(v, dict)),
    ):
        if isinstance(said := level.get("tie_word_embeddings"), bool):
            return said
    return None


def is_shared(head: str) -> bool:
    """Encoder and decoder share one embedding whatever the config says of the output head (T5, BART)."""
    return head.split(".")[-2] == "embed_tokens"


def may_be_tied(head: str, config: Mapping[str, Any] | None) -> bool:
    """Whether a model that stores no such head can be one whose head is its embedding."""
    return is_shared(head) or tied_by_config(config) is not False


def stands_in(head: str, stored: Collection[str], config: Mapping[str, Any] | None) -> bool:
    """Whether a model lacks a head because its embedding, which it stores, stands for it."""
    embeddings = ("shared",) if called_like_a_head(head) and is_shared(head) else INPUT
    return (
        called_like_a_head(head)
        and may_be_tied(head, config)
        and any(name != head and name.split(".")[-2:] in ([each, "weight"] for each in embeddings) for name in stored)
    )
