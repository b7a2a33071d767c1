"""Loading in one line, for these tests alone."""

from typing import Any

import pytest

from recipes.grammars import METHODS
from sdmw.errors import RecipeError
from sdmw.recipes.load import load
from sdmw.recipes.recipe import Recipe


def sdm_w(**fields: Any) -> dict[str, Any]:
    """A good recipe with these fields changed; None takes one away."""
    good = {"merge_method": "sdm_w", "base_model": "./base", "models": [{"model": "./corp"}, {"model": "./func"}]}
    return {name: value for name, value in {**good, **fields}.items() if value is not None}


def loaded(source: Any, **options: Any) -> Recipe:
    return load(source, METHODS, **options)


def refused(source: Any, **options: Any) -> list[str]:
    """What the loader has against it, a line a problem."""
    with pytest.raises(RecipeError) as caught:
        load(source, METHODS, **options)
    return [str(problem) for problem in caught.value.problems]
