"""The inputs of a merge under the output's names: as they are, or stacked anew by slices."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import Problem, quoted, shorten, some
from sdmw.methods.method import AnyMethod
from sdmw.planning.inputs import Inputs
from sdmw.planning.output_tokens import Vocabularies
from sdmw.planning.rows import completed
from sdmw.recipes.recipe import Recipe
from sdmw.views.stacked import Tables, comes_after, main_stack, other_stacks, stacked
from sdmw.views.tied import Ties, ties
from sdmw.views.vocabulary import BASE, Aligned, Tally, aligned


@dataclass(frozen=True, slots=True)
class Viewed:
    """The inputs of a merge as its rows are made from them.

    Attributes:
        tied: their tied heads.
        tables: the inputs under the output's names, or what is wrong with the slices.
        compared: what names, shapes and dtypes are compared of: without heads that are not stored.
        tallies: by input, where the rows of its vocabulary come from, if it does not have them as it is.
        spare: rows of the vocabulary behind those of tokens.
        resized: the base with the output's rows.
    """

    tied: Ties
    tables: Tables | list[Problem]
    compared: Tables
    resized: Checkpoint
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    spare: int = 0


def viewed(recipe: Recipe, method: AnyMethod, inputs: Inputs, vocabularies: Vocabularies | None) -> Viewed:
    """The inputs with the output's tokens, and under its names."""
    tied = ties(inputs.base, {**inputs.models, **inputs.bases})
    found = Aligned(completed(inputs, tied), {})
    if vocabularies is not None:
        found = aligned(vocabularies.rows, found.checkpoints, lambda name: _merged_in(recipe, method, inputs, name))
    whole = found.checkpoints
    tables = _tables(recipe, method, inputs, whole) if not found.problems else shorten(found.problems)
    if recipe.slices and isinstance(tables, Tables):
        return Viewed(tied, tables, tables, whole[BASE], found.tallies, found.spare)
    stored = {name: _less(each, tied.absent[name]) for name, each in whole.items()}
    compared = Tables(stored[BASE], {name: stored[name] for name in inputs.models})
    return Viewed(tied, tables, compared, whole[BASE], found.tallies, found.spare)


def _less(checkpoint: Checkpoint, names: Collection[str]) -> Checkpoint:
    kept = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in names}
    return replace(checkpoint, tensors=kept) if names else checkpoint


def _merged_in(recipe: Recipe, method: AnyMethod, inputs: Inputs, tensor: str) -> tuple[Collection[str], str | None]:
    """The inputs that are merged in a tensor outside the layers, and which of them is the base."""
    if recipe.slices:
        part = recipe.slices[-1 if comes_after(tensor) else 0]
        base = str(part.base.model) if part.base else None
        names = {str(entry.model) for entry in part.sources} | ({base} if base else set())
        # The model whose config the output has is read as the base, under whatever name.
        donor = str(recipe.donor)
        return {BASE if name == donor else name for name in names}, BASE if base == donor else base
    if recipe.base_model is not None and method.takes != "values":
        return (BASE, *inputs.models), BASE
    of_base = (inputs.base.path, inputs.base.written)
    named = inputs.models.items() if recipe.base_model else ()
    return tuple(inputs.models), next((name for name, each in named if (each.path, each.written) == of_base), None)


def _tables(
    recipe: Recipe, method: AnyMethod, inputs: Inputs, whole: Mapping[str, Checkpoint]
) -> Tables | list[Problem]:
    if not recipe.slices:
        return Tables(whole[BASE], {name: whole[name] for name in inputs.models})
    sources = [{entry.model for entry in each.sources} for each in recipe.slices]
    if method.weighs_wholes(recipe.parameters) and any(each != sources[0] for each in sources):
        expected = f"the same models in every slice, as {method.name} weighs whole models"
        mend = "Give every slice the same models, or choose a method that decides each tensor by itself"
        return [Problem("recipe: slices", expected, "different models in some slices", mend)]
    return stacked(recipe.slices, whole[BASE], {**whole, str(recipe.donor): whole[BASE]})


def parted(recipe: Recipe, tied: Ties) -> frozenset[str]:
    """Stored heads that slices part from their embeddings, so that they are written."""
    return frozenset(each.head.name for each in tied.stored) if _ends_differ(recipe) else frozenset()


def unsliced(recipe: Recipe, tables: Tables) -> Iterator[str]:
    """A warning where the model has other layers than those that the slices speak of."""
    if recipe.slices and (others := other_stacks(tables.base)):
        yield (
            f"slices cut layers {quoted(main_stack(tables.base))} alone; layers {some(others)} come from the "
            "first slice"
        )


def unparted(recipe: Recipe, tied: Ties) -> Iterator[str]:
    """A warning where the models of the last slice leave the head to an embedding that the output does not have."""
    if tied.dropped and not tied.stored and _ends_differ(recipe):
        names = ", ".join(quoted(str(entry.model)) for entry in recipe.slices[-1].sources)
        yield (
            "no model stores a head, so the output's head is its embedding, which comes from the first slice; "
            f"the last slice ({names}) would need its own"
        )


def _ends_differ(recipe: Recipe) -> bool:
    """Whether the last slice, whose the head is, has other models than the first, whose the embedding is."""
    ends = [[entry.model for entry in recipe.slices[place].sources] for place in (0, -1)] if recipe.slices else []
    return bool(ends) and ends[0] != ends[1]
