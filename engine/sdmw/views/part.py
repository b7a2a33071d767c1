"""A model within a model: the language model of one that sees, say, by the prefix that its tensors have there."""

from dataclasses import replace

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.heads import called_like_a_head
from sdmw.checkpoints.wrappers import bare
from sdmw.views.experts import reformed
from sdmw.views.in_memory import in_memory
from sdmw.views.renamed import renaming, under
from sdmw.views.tied import input_embedding


def part_of(model: Checkpoint, prefix: str) -> Checkpoint | None:
    """The tensors below a prefix, and the head of what is below it; None where there is nothing below it.

    Args:
        model: the whole.
        prefix: as the names are stored, or if none is stored so, as they are in memory; a dot at its end may be left
            out.
    """
    memory, wanted = in_memory(model.config, model.tensors), prefix.removesuffix(".") + "."
    below = {name for name in model.tensors if name.startswith(wanted) or bare(name).startswith(wanted)}
    below = below or {name for name in model.tensors if memory(name).startswith(wanted)}
    if not below:
        return None
    heads = {
        name
        for name in model.tensors
        if called_like_a_head(name) and memory(name).count(".") == 1 and _embedding(model, name) in below
    }
    return replace(model, tensors={name: t for name, t in model.tensors.items() if name in below | heads})


def _embedding(model: Checkpoint, head: str) -> str:
    """The name of what a head goes with: it lies beside the language model, and belongs to no other part."""
    embedding = input_embedding(model, head)
    return embedding.name if embedding else ""


def prefixes_of(model: Checkpoint) -> list[str]:
    """The prefixes that a part can have, in memory: modules that hold layers."""
    memory = in_memory(model.config, model.tensors)
    found = dict.fromkeys(_above_layers(memory(name)) for name in model.tensors)
    return [prefix for prefix in found if prefix]


def fitting(whole: Checkpoint, model: Checkpoint) -> str | None:
    """The prefix of the part of a whole that a model is like: its names are that part's, by rule if not as they are.

    Heads may be the embedding, in either of them.
    """
    for prefix in prefixes_of(whole):
        if (part := part_of(whole, prefix)) and _is_like(part, model):
            return prefix
    return None


def _is_like(part: Checkpoint, model: Checkpoint) -> bool:
    alike = reformed(part, model)
    if alike.unlike:
        return False
    named = under(alike.model, renaming(part, alike.model).names).tensors
    common = part.tensors.keys() & named.keys()
    others = part.tensors.keys() ^ named.keys()
    shapes = sum(part.tensors[name].shape == named[name].shape for name in common)
    return all(called_like_a_head(name) for name in others) and 2 * shapes > len(part.tensors)


def _above_layers(name: str) -> str:
    parts = name.split(".")
    place = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: max(0, place - 1)])


def filled(base: Checkpoint, part: Checkpoint, model: Checkpoint) -> Checkpoint:
    """A model that is merged into a part of a base, with the base's tensors outside of that."""
    outside = {name: tensor for name, tensor in base.tensors.items() if name not in part.tensors}
    return replace(model, tensors={**outside, **model.tensors})
