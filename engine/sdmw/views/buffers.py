"""Tensors that older versions stored and loaders compute anew: some fine-tunes of one base have them, others do not."""

from dataclasses import replace

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.tensors.tensor import Tensor

# By the ends of their names; a causal mask is called like a bias, and has four axes.
_COMPUTED = (
    "rotary_emb.inv_freq", "attn.masked_bias", "attention.masked_bias", "embeddings.position_ids",
    "embed_positions.position_ids",
)  # fmt: skip
_MASKS = ("attn.bias", "attention.bias")
_ENDS = tuple(f".{end}" for end in _COMPUTED)
_ENDS_OF_FOUR_AXES = (*_ENDS, *(f".{end}" for end in _MASKS))


def is_computed(name: str, tensor: Tensor) -> bool:
    """Whether loaders pass a stored tensor by: frequencies of positions, position indices, causal masks."""
    return name == "position_ids" or f".{name}".endswith(_ENDS_OF_FOUR_AXES if len(tensor.shape) == 4 else _ENDS)


def with_computed_as_in(base: Checkpoint, model: Checkpoint) -> Checkpoint:
    """A model that has such tensors where the base has them: it lacks none, and has none more."""
    ours = {name: tensor for name, tensor in base.tensors.items() if is_computed(name, tensor)}
    lacking = {name: tensor for name, tensor in ours.items() if name not in model.tensors}
    more = {n for n, t in model.tensors.items() if n not in base.tensors and is_computed(n, t)}
    if not (lacking or more):
        return model
    kept = {name: tensor for name, tensor in model.tensors.items() if name not in more}
    return replace(model, tensors={**kept, **lacking})
