"""Tensors stored under one of several names that are one tensor, as `safetensors.torch.save_model` says in a header.

`{"model.embed_tokens.weight": "lm_head.weight"}` in `__metadata__`: the first is the second, which alone is stored.
What is written of tied heads is a matter of views/tied.py.
"""

from collections.abc import Iterator
from dataclasses import replace

from sdmw.checkpoints.checkpoint import Checkpoint


def with_aliases(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint with its tensors under all their names."""
    stored = checkpoint.tensors
    others = {alias: replace(stored[name], name=alias) for alias, name in checkpoint.aliases.items()}
    return replace(checkpoint, tensors={**stored, **others}) if others else checkpoint


def named_as(base: Checkpoint, model: Checkpoint) -> Checkpoint:
    """A model with those of its tensors' names that the base has, of each tensor that either has under several.

    Args:
        base: with its aliases.
        model: with its aliases.
    """
    tensors = dict(model.tensors)
    for names in _groups(model):
        if any(name in base.tensors for name in names):
            for name in names:
                if name not in base.tensors:
                    del tensors[name]
    for names in _groups(base):
        stored = next((name for name in names if name in tensors), None)
        if stored is not None:
            tensors |= {name: replace(tensors[stored], name=name) for name in names if name not in tensors}
    return model if tensors == model.tensors else replace(model, tensors=tensors)


def _groups(checkpoint: Checkpoint) -> Iterator[list[str]]:
    """The names of each tensor that has several, the stored one first."""
    found: dict[str, list[str]] = {}
    for alias, name in checkpoint.aliases.items():
        found.setdefault(name, [name]).append(alias)
    yield from found.values()
