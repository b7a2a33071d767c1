"""The inputs of a merge under the output's names: as they are, or stacked anew by slices."""

from collections.abc import Iterator
from dataclasses import replace
from types import NoneType

from sdmw.errors import Problem, quoted
from sdmw.methods.method import AnyMethod, own_types
from sdmw.planning.inputs import Inputs
from sdmw.planning.rows import completed
from sdmw.recipes.recipe import Recipe
from sdmw.views.stacked import Tables, stacked
from sdmw.views.tied import Ties, ties
from sdmw.views.tied_adapter import tie_of, with_head


def tables_of(recipe: Recipe, method: AnyMethod, inputs: Inputs) -> tuple[Ties, Tables | list[Problem]]:
    """The tied heads of the inputs, and these under the output's names, or what is wrong with the slices."""
    if _ends_differ(recipe):
        inputs = _with_heads(inputs)
    tied = ties(inputs.base, {**inputs.models, **inputs.bases})
    whole = completed(inputs, tied)
    if not recipe.slices:
        return tied, Tables(whole[""], {name: whole[name] for name in inputs.models})
    sources = [{entry.model for entry in each.sources} for each in recipe.slices]
    if own_types(method)[2] is not NoneType and any(each != sources[0] for each in sources):
        expected = f"the same models in all, which {method.name} weighs as wholes"
        mend = "Give every slice the same models, or choose a method that decides each tensor by itself"
        return tied, [Problem("recipe: slices", expected, "others in some slices", mend)]
    return tied, stacked(recipe.slices, whole[""], {**whole, str(recipe.donor): whole[""]})


def parted(recipe: Recipe, tied: Ties) -> frozenset[str]:
    """Heads that slices part from their embeddings, so that they are written."""
    return tied.heads if _ends_differ(recipe) else frozenset()


def _ends_differ(recipe: Recipe) -> bool:
    """Whether the last slice, whose the head is, has other models than the first, whose the embedding is."""
    ends = [[entry.model for entry in recipe.slices[place].sources] for place in (0, -1)] if recipe.slices else []
    return bool(ends) and ends[0] != ends[1]


def nameless_head(recipe: Recipe, inputs: Inputs) -> Iterator[Problem]:
    """What is wrong where the head will be another than the embedding, and is not known by name."""
    tie = tie_of(inputs.base) if _ends_differ(recipe) else None
    if tie is not None and not tie.stored and not tie.head:
        mend = "Store the head in the first model, or let the first and the last slice have the same models"
        found = f"{quoted(tie.embedding)} for both, in a model type whose head has no name here"
        yield Problem(
            f"{inputs.base.path}: head", "a head apart from the embedding, since slices part them", found, mend
        )


def _with_heads(inputs: Inputs) -> Inputs:
    """The inputs with heads of their own, where all leave them to the embedding, which will be another."""
    tie = tie_of(inputs.base)
    if tie is None or not tie.head:
        return inputs
    models, bases = (
        {name: with_head(each, tie) if tie.embedding in each.tensors else each for name, each in group.items()}
        for group in (inputs.models, inputs.bases)
    )
    return replace(inputs, base=with_head(inputs.base, tie), models=models, bases=bases)
