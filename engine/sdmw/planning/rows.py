"""The rows of a merge: for every tensor of the output what it is made from, and with which settings."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.methods.method import AnyMethod, Settings
from sdmw.planning.inputs import Inputs
from sdmw.planning.layers import depths
from sdmw.planning.resolve import resolve
from sdmw.recipes.recipe import Recipe
from sdmw.tensors.tensor import Tensor
from sdmw.views.tied import Ties

Action = Literal["merge", "copy", "convert"]


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor of the output before it has a place. Planning looks at nothing else of the inputs.

    Attributes:
        name: the output's.
        like: the tensor whose shape and dtype the output has.
        action: merge by the method; copy where all inputs agree; convert one input's values to the output dtype.
        base: the base's tensor; None where the output comes from models alone.
        models: what each model has in its place, in recipe order: values, a delta, or the base's itself.
        depth: 0 to 1, where gradients are read.
        settings: what the recipe's levels resolve to for it; None where the method has no say.
    """

    name: str
    like: Tensor
    action: Action
    base: Tensor | None
    models: tuple[Tensor, ...]
    depth: float = 0.0
    settings: Settings | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Base and models."""
        return self.models if self.base is None else (self.base, *self.models)


def rows(recipe: Recipe, method: AnyMethod, inputs: Inputs, tied: Ties, untie: Collection[str]) -> list[Row]:
    """A row for every tensor of the base, and for those taken from models, in that order.

    Args:
        recipe: as loaded.
        method: the recipe's.
        inputs: the tables that it names.
        tied: their heads; an input without one gives its embedding.
        untie: heads that are tied and written all the same, because an input's differs from its embedding.
    """
    base, models = completed(inputs, tied)
    left_out = tied.unwritten(untie)
    found = [row for row in _of_base(recipe, base, models) if row.name not in left_out]
    found += _taken(recipe, base, models, left_out)
    depth = depths(row.name for row in found)
    return [
        replace(
            row,
            depth=depth[row.name],
            settings=resolve(recipe, method, row.name, depth[row.name], row.like.elements)
            if row.action == "merge"
            else None,
        )
        for row in found
    ]


def _of_base(recipe: Recipe, base: Checkpoint, models: Mapping[str, Checkpoint]) -> Iterator[Row]:
    """Every tensor of the base. Where a model lacks it, the base's stands in: no delta."""
    for name, tensor in base.tensors.items():
        theirs = tuple(checkpoint.tensors.get(name, tensor) for checkpoint in models.values())
        if tensor.dtype.merges:
            yield Row(name, tensor, "merge", tensor, theirs)
        else:
            others = () if recipe.integers == "base" else (other for other in theirs if other is not tensor)
            yield Row(name, tensor, "copy", tensor, tuple(others))


def completed(inputs: Inputs, tied: Ties) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """The base and the models, each with the heads that it lacks: its own embedding under their names."""

    def with_heads(checkpoint: Checkpoint, name: str) -> Checkpoint:
        lacking = tied.absent[name]
        return replace(checkpoint, tensors={**checkpoint.tensors, **lacking}) if lacking else checkpoint

    return with_heads(inputs.base, ""), {name: with_heads(each, name) for name, each in inputs.models.items()}


def _taken(
    recipe: Recipe, base: Checkpoint, models: Mapping[str, Checkpoint], left_out: Collection[str]
) -> Iterable[Row]:
    """Tensors that the base lacks, each from the first model that has it."""
    if recipe.extra != "take":
        return
    known = {*base.tensors, *left_out}
    for checkpoint in models.values():
        for name, tensor in checkpoint.tensors.items():
            if name not in known:
                known.add(name)
                yield Row(name, tensor, "convert" if tensor.dtype.merges else "copy", None, (tensor,))
