"""The rows of a merge: for every tensor of the output what it is made from, and with which settings."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.methods.method import AnyMethod, Settings
from sdmw.planning.inputs import Inputs
from sdmw.planning.resolve import Asked, resolve
from sdmw.recipes.recipe import Recipe
from sdmw.tensors.tensor import Tensor
from sdmw.views.layers import depths
from sdmw.views.stacked import Tables
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
        models: what each model that takes part has in its place, in recipe order: values, a delta, or the base's.
        among: the numbers of these models among all that are merged.
        depth: 0 to 1, where gradients are read.
        settings: what the recipe's levels resolve to for it; None where the method has no say.
    """

    name: str
    like: Tensor
    action: Action
    base: Tensor | None
    models: tuple[Tensor, ...]
    among: tuple[int, ...] = ()
    depth: float = 0.0
    settings: Settings | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Base and models."""
        return self.models if self.base is None else (self.base, *self.models)


def rows(recipe: Recipe, method: AnyMethod, tables: Tables, left_out: Collection[str]) -> list[Row]:
    """A row for every tensor of the base, and for those taken from models, in that order.

    Args:
        recipe: as loaded.
        method: the recipe's.
        tables: the inputs under the output's names; one without a head has its embedding.
        left_out: heads that are not written.
    """
    found = [row for row in _of_base(recipe, tables) if row.name not in left_out]
    found += _taken(recipe, tables, left_out)
    depth = depths(row.name for row in found) | {name: place.depth for name, place in tables.places.items()}
    return [
        replace(
            row,
            depth=depth[row.name],
            settings=resolve(
                recipe, method, Asked(row.name, depth[row.name], row.like.shape, tables.places.get(row.name))
            )
            if row.action == "merge"
            else None,
        )
        for row in found
    ]


def _of_base(recipe: Recipe, tables: Tables) -> Iterator[Row]:
    """Every tensor of the base. Where a model lacks it, the base's stands in: no delta."""
    numbers = {name: number for number, name in enumerate(tables.models)}
    for name, tensor in tables.base.tensors.items():
        among = tables.among(name)
        theirs = tuple(tables.models[each].tensors.get(name, tensor) for each in among)
        if tensor.dtype.merges:
            yield Row(name, tensor, "merge", tensor, theirs, tuple(numbers[each] for each in among))
        else:
            bases = tensor.dtype.whole and recipe.integers == "base"
            others = () if bases else (other for other in theirs if other is not tensor)
            yield Row(name, tensor, "copy", tensor, tuple(others))


def completed(inputs: Inputs, tied: Ties) -> dict[str, Checkpoint]:
    """All inputs by name, the base's empty, each with the heads that it lacks: its embedding under their names."""

    def with_heads(checkpoint: Checkpoint, name: str) -> Checkpoint:
        lacking = tied.absent[name]
        return replace(checkpoint, tensors={**checkpoint.tensors, **lacking}) if lacking else checkpoint

    return {name: with_heads(each, name) for name, each in {"": inputs.base, **inputs.models, **inputs.bases}.items()}


def _taken(recipe: Recipe, tables: Tables, left_out: Collection[str]) -> Iterable[Row]:
    """Tensors that the base lacks, each from the first model that has it."""
    if recipe.extra != "take":
        return
    known = {*tables.base.tensors, *left_out}
    for checkpoint in tables.models.values():
        for name, tensor in checkpoint.tensors.items():
            if name not in known:
                known.add(name)
                yield Row(name, tensor, "convert" if tensor.dtype.merges else "copy", None, (tensor,))
