"""Documents of a recipe that are written as checkpoints of their own, from which those after them read.

Source: METHODS.md, section 9.
"""

import os
from collections.abc import Iterator, Mapping

from sdmw.addresses import is_remote
from sdmw.errors import Problem, RecipeError, SdmwError, quoted
from sdmw.methods import all_methods
from sdmw.planning.inputs import Inputs
from sdmw.planning.prepared import Prepared
from sdmw.recipes.documents import reading
from sdmw.recipes.load import load
from sdmw.recipes.recipe import Recipe
from sdmw.version import __version__


def places_of(recipe: Recipe, out: str | None, folder: str | None) -> dict[str, str]:
    """Where documents are written, by their names, in order; empty where none is, but computed wherever it is read.

    Args:
        recipe: with its documents.
        out: where the result is asked for; None where only a plan is.
        folder: where documents are; None where nobody asked for them.

    Raises:
        RecipeError: a name that no folder can have, or no folder of this machine.
    """
    place = folder if folder is not None else out if _all_named(recipe) else None
    if place is None:
        return {}
    if is_remote(place):
        mend = "Write to a folder of this machine, and copy the result there"
        raise RecipeError([Problem("documents", "a folder of this machine to write them to", quoted(place), mend)])
    names = [each.name for each in recipe.documents]
    odd = [name for name in (*names, recipe.name) if name and (name in (".", "..") or "/" in name or "\0" in name)]
    if odd:
        raise RecipeError([Problem("name", "a valid folder name", quoted(name)) for name in odd])
    return {name: _plainly(os.path.join(place, name)) for name in names}


def target_of(recipe: Recipe, out: str | None, folder: str | None) -> str | None:
    """Where the result is written: in a folder called as its document, beside those of the others, where all are so."""
    return os.path.join(out, recipe.name) if out is not None and folder is None and _all_named(recipe) else out


def notes_on(recipe: Recipe, places: Mapping[str, str]) -> Iterator[str]:
    """What becomes of each document."""
    for name in (each.name for each in recipe.documents):
        written = f"is written to {quoted(places[name])}, and read from there" if places else ""
        yield f"document {quoted(name)} {written or 'is not written: it is computed each time it is read'}"


def alone(recipe: Recipe, places: Mapping[str, str]) -> Recipe:
    """A document as a recipe by itself, once those that it uses are written."""
    return load(reading(recipe, places), all_methods())


def is_made(prepared: Prepared) -> bool:
    """Whether its target already has the result of the same recipe, inputs and version."""
    from sdmw.checkpoints import formats
    from sdmw.reporting.reading import fingerprints_of, read_report, recipe_of
    from sdmw.running.verification import check_configs, check_inputs

    target, inputs = prepared.options.target, prepared.inputs
    if target is None or not isinstance(inputs, Inputs):
        return False
    try:
        report = read_report(target)
        formats.read(target, prepared.access)
        with open(recipe_of(target), encoding="utf-8") as file:
            same = file.read() == prepared.recipe.text and report.version == __version__
        check_inputs(inputs.sources, fingerprints_of(report))
        check_configs(inputs.sources, report.configs)
    except (SdmwError, OSError, UnicodeDecodeError):
        return False
    return same


def _all_named(recipe: Recipe) -> bool:
    return bool(recipe.name and recipe.documents)


def _plainly(path: str) -> str:
    """A path that nobody takes for a name on the Hub."""
    return path if path.startswith((".", "/", "~")) else f"./{path}"
