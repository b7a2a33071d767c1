"""A recipe with one model more."""

from dataclasses import replace

from sdmw.errors import Problem, RecipeError, quoted
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import ModelEntry, Recipe


def extended(recipe: Recipe, model: str) -> Recipe:
    """The recipe with a model behind those that it has.

    Args:
        recipe: as loaded.
        model: as recipes name it.

    Raises:
        RecipeError: it has slices, or has this model, be it as its base.
    """
    reference = ModelRef.parse(model)
    if recipe.slices:
        raise RecipeError([Problem("add", "a recipe with models", "one with slices")])
    if reference in {recipe.base_model, *(entry.model for entry in recipe.models)}:
        raise RecipeError([Problem("add", "a model that is not in the recipe", quoted(model))])
    return replace(recipe, models=(*recipe.models, ModelEntry(reference)))
