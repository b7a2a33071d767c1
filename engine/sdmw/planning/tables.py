"""The inputs of a merge under the output's names: as they are, or stacked anew by slices."""

from collections.abc import Iterator
from types import NoneType

from sdmw.errors import Problem, quoted, some
from sdmw.methods.method import AnyMethod, own_types
from sdmw.planning.inputs import Inputs
from sdmw.planning.rows import completed
from sdmw.recipes.recipe import Recipe
from sdmw.views.stacked import Tables, main_stack, other_stacks, stacked
from sdmw.views.tied import Ties, ties


def tables_of(recipe: Recipe, method: AnyMethod, inputs: Inputs) -> tuple[Ties, Tables | list[Problem]]:
    """The tied heads of the inputs, and these under the output's names, or what is wrong with the slices."""
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
    """Stored heads that slices part from their embeddings, so that they are written."""
    return frozenset(each.head.name for each in tied.stored) if _ends_differ(recipe) else frozenset()


def unsliced(recipe: Recipe, tables: Tables) -> Iterator[str]:
    """A warning where the model has other layers than those that the slices speak of."""
    if recipe.slices and (others := other_stacks(tables.base)):
        yield f"slices are of layers {quoted(main_stack(tables.base))}; all from the first slice: layers {some(others)}"


def unparted(recipe: Recipe, tied: Ties) -> Iterator[str]:
    """A warning where the models of the last slice leave the head to an embedding that the output does not have."""
    if tied.dropped and not tied.stored and _ends_differ(recipe):
        names = ", ".join(quoted(str(entry.model)) for entry in recipe.slices[-1].sources)
        yield (
            "the head is the embedding, as no model stores one: it comes from the first slice, "
            f"while {names} of the last would have its own"
        )


def _ends_differ(recipe: Recipe) -> bool:
    """Whether the last slice, whose the head is, has other models than the first, whose the embedding is."""
    ends = [[entry.model for entry in recipe.slices[place].sources] for place in (0, -1)] if recipe.slices else []
    return bool(ends) and ends[0] != ends[1]
