"""A model within a model: the language model of one that sees, say, by the prefix that its tensors have there."""

from dataclasses import replace

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.heads import called_like_a_head
from sdmw.views.in_memory import in_memory


def part_of(model: Checkpoint, prefix: str) -> Checkpoint | None:
    """The tensors below a prefix, and the head, which lies beside it; None where there is nothing below it.

    Args:
        model: the whole.
        prefix: as the names are stored, or as they are in memory; a dot at its end may be left out.
    """
    memory, wanted = in_memory(model.config, model.tensors), prefix.removesuffix(".") + "."
    below = {name for name in model.tensors if name.startswith(wanted) or memory(name).startswith(wanted)}
    if not below:
        return None
    heads = {name for name in model.tensors if called_like_a_head(name) and memory(name).count(".") == 1}
    return replace(model, tensors={name: t for name, t in model.tensors.items() if name in below | heads})


def prefixes_of(model: Checkpoint) -> list[str]:
    """The prefixes that a part can have: modules that hold layers."""
    found = dict.fromkeys(_above_layers(name) for name in model.tensors)
    return [prefix for prefix in found if prefix]


def _above_layers(name: str) -> str:
    parts = name.split(".")
    place = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: max(0, place - 1)])


def filled(base: Checkpoint, part: Checkpoint, model: Checkpoint) -> Checkpoint:
    """A model that is merged into a part of a base, with the base's tensors outside of that."""
    outside = {name: tensor for name, tensor in base.tensors.items() if name not in part.tensors}
    return replace(model, tensors={**outside, **model.tensors})
