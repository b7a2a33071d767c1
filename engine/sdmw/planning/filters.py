"""Filters that speak of nothing."""

from collections.abc import Iterable, Iterator, Mapping

from sdmw.errors import quoted
from sdmw.recipes.findings import close
from sdmw.recipes.recipe import Recipe, Rule, Setting


def idle(recipe: Recipe, names: Iterable[str]) -> Iterator[str]:
    """A warning for each word of a filter that is part of no name. It may be meant for another architecture.

    Args:
        recipe: as loaded.
        names: of all tensors, in the output and in the inputs.
    """
    known = set(names)
    told = set()
    for rule in _rules(recipe):
        for word in (rule.filter, *rule.exclude):
            if word in (None, "*") or word in told or any(word in name for name in known):
                continue
            told.add(word)
            parts = () if "." in word else sorted({part for name in known for part in name.split(".")})
            guess = close(word, parts)
            said = f"{rule.place}: {quoted(word)} has no effect: no tensor's name contains it"
            yield f"{said}. {guess}" if guess else said


def _rules(recipe: Recipe) -> Iterator[Rule]:
    """All rules of all levels, those of the models first."""
    entries = [*recipe.models, *(entry for part in recipe.slices for entry in part.sources)]
    levels: list[Mapping[str, Setting]] = [entry.parameters for entry in entries]
    levels += [part.parameters for part in recipe.slices]
    for level in (*levels, recipe.parameters):
        for setting in level.values():
            if isinstance(setting, tuple):
                yield from setting
