"""What a config says of layers one by one, where the layers were stacked anew. Source: METHODS.md, section 7."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sdmw.checkpoints.tied_names import LANGUAGE

_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
# Models of two stacks count each apart.
_COUNTS_OF = {
    "encoder": ("encoder_layers", "num_encoder_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers"),
}
_INDICES = (
    "mlp_only_layers", "cross_attention_layers", "attn_layer_indices", "full_attn_idxs", "hybrid_layer_ids",
    "global_attn_idx", "moe_layers",
)  # fmt: skip
_LISTS = ("layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers")  # an entry for each layer
# Lists that may be as long as the layers by chance.
_OTHERS = ("architectures", "pruned_heads", "vision_feature_layer")
_PATTERNS = (
    "max_window_layers", "first_k_dense_replace", "sliding_window_pattern", "decoder_sparse_step", "moe_layer_freq",
    "attn_layer_period", "attn_layer_offset", "expert_layer_period", "expert_layer_offset", "no_rope_layer_interval",
    "full_attention_interval", "global_attn_every_n_layers", "interleave_moe_layer_step", "cross_layer_interval",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Depth:
    """How the layers of an output lie in the model whose config it has.

    Attributes:
        stack: what stands before the number in the names of the layers.
        before: how many layers that model has.
        sources: of each layer of the output, the layer of the slice's first source.
    """

    stack: str
    before: int
    sources: tuple[int, ...]


def restacked(config: Mapping[str, Any], depth: Depth) -> dict[str, Any]:
    """The config with as many layers, and what it lists for each of them in their order; its keys keep their order."""
    changed = {
        key: restacked(value, depth) if key in LANGUAGE and isinstance(value, Mapping) else value
        for key, value in config.items()
    }
    changed |= {key: len(depth.sources) for key in _counts(config, depth)}
    for key, value in config.items():
        if not isinstance(value, list) or key in _OTHERS or "_token" in key:
            continue
        if key in _INDICES:
            changed[key] = [number for number, source in enumerate(depth.sources) if source in value]
        elif len(value) == depth.before and all(source < len(value) for source in depth.sources):
            changed[key] = [value[source] for source in depth.sources]
    return changed


def unfollowed(config: Mapping[str, Any], depth: Depth) -> list[str]:
    """Keys that tell of layers by a pattern or a border, which a new stack may not keep."""
    return list(_unfollowed(config, depth))


def _unfollowed(config: Mapping[str, Any], depth: Depth) -> Iterator[str]:
    for key, value in config.items():
        if key in LANGUAGE and isinstance(value, Mapping):
            yield from (f"{key}.{name}" for name in _unfollowed(value, depth))
        elif key in _PATTERNS and value not in (None, 0, 1, False):
            idle = key == "max_window_layers" and config.get("use_sliding_window") is False
            yield from () if idle else (key,)


def follows(key: str) -> bool:
    """Whether a config's key says how many layers there are, or something of each: it is written anew for a stack."""
    last = key.rsplit(".", 1)[-1]
    return last in (*_COUNTS, *_INDICES, *_LISTS) or any(last in names for names in _COUNTS_OF.values())


def _counts(config: Mapping[str, Any], depth: Depth) -> Iterator[str]:
    """The keys that count the layers of the stack."""
    side = next((side for side in _COUNTS_OF if side in depth.stack.split(".")), None)
    of_stack = _COUNTS_OF[side] if side else ()
    apart = any(key in config for keys in _COUNTS_OF.values() for key in keys)
    # BART counts its encoder's layers twice, T5 counts them as if there were no other.
    names = (*of_stack, *(_COUNTS if side != "decoder" or not apart else ()))
    yield from (key for key in names if config.get(key) == depth.before)
