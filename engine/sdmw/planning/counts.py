"""What a merge fills in and leaves out, counted by model, and what is said of it."""

from collections.abc import Iterator, Mapping, Sequence

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.depth import Depth, unfollowed
from sdmw.errors import quoted
from sdmw.planning.rows import Row
from sdmw.recipes.recipe import Recipe
from sdmw.views.stacked import Tables
from sdmw.views.tied import Ties


def missing(tables: Tables, heads: frozenset[str]) -> tuple[tuple[str, int], ...]:
    """How many of the base's tensors each model lacks, where it lacks any; an absent head is its embedding."""
    lacking: dict[str, int] = dict.fromkeys(tables.models, 0)
    for name in tables.base.tensors.keys() - heads:
        for model in tables.among(name):
            lacking[model] += name not in tables.models[model].tensors
    return tuple((model, count) for model, count in lacking.items() if count)


def taken(wanted: Sequence[Row], tables: Tables) -> tuple[tuple[str, int], ...]:
    """How many tensors that the base lacks are taken from each model."""
    taken = {row.name: tensor for row in wanted if row.base is None for tensor in row.models}
    counts = (
        (model, sum(checkpoint.tensors.get(name) is tensor for name, tensor in taken.items()))
        for model, checkpoint in tables.models.items()
    )
    return tuple((model, count) for model, count in counts if count)


def dropped(recipe: Recipe, tables: Tables, heads: frozenset[str], wanted: Sequence[Row]) -> dict[str, list[str]]:
    """What `extra: drop` leaves out, by model; and what `extra: take` takes from an earlier model."""
    if recipe.extra == "error":
        return {}
    taken = {id(tensor) for row in wanted if row.base is None for tensor in row.models}
    names = {
        model: sorted(
            name
            for name in checkpoint.tensors.keys() - tables.base.tensors.keys() - heads
            if id(checkpoint.tensors[name]) not in taken
        )
        for model, checkpoint in tables.models.items()
    }
    return {model: each for model, each in names.items() if each}


def left_out(recipe: Recipe, dropped: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A warning for each model of which something is left out."""
    why = "an earlier model has these names" if recipe.extra == "take" else "the base lacks these names"
    for model, names in dropped.items():
        rest = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        yield f"model {quoted(model)}: tensors left out, because {why}: {quoted(names[0])}{rest}"


def absent_heads(recipe: Recipe, tied: Ties, wanted: Sequence[Row]) -> tuple[tuple[str, int], ...]:
    """How many of the heads that are written each input lacks, where it lacks any."""
    written = {row.name for row in wanted}
    names = {"": str(recipe.base_model)} if recipe.base_model else {}
    counts = {names.get(model, model): len(written & heads.keys()) for model, heads in tied.absent.items()}
    return tuple((model, count) for model, count in counts.items() if model and count)


def integers(recipe: Recipe, tables: Tables) -> Iterator[str]:
    """How many tensors of each model `integers: base` passes over."""
    if recipe.integers != "base":
        return
    own = {name for name, tensor in tables.base.tensors.items() if tensor.dtype.whole}
    others = {name: each for name, each in tables.models.items() if each.path != tables.base.path}
    counts = {name: len(own & each.tensors.keys()) for name, each in others.items()}
    said = ", ".join(f"{count:,} of {quoted(name)}" for name, count in counts.items() if count)
    if said:
        yield f"tensors that are not merged, such as integers, come from the base (`integers: base`); not read: {said}"


def unfollowed_keys(base: Checkpoint, depth: Depth | None) -> Iterator[str]:
    """A warning on keys of the config that tell of layers by a pattern, where those are stacked anew."""
    keys = unfollowed(base.config or {}, depth) if depth else []
    if keys:
        told = ", ".join(keys)
        yield (
            f"{base.path}: its config.json describes single layers in {told}, and the recipe restacks the "
            "layers: check these keys"
        )
