"""From a file, a mapping or a `Recipe` built by hand to a recipe that is checked and in its one form."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sdmw.errors import Problem, RecipeError, quoted
from sdmw.recipes import yaml
from sdmw.recipes.findings import Findings, Path, described, guess
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.models import (
    FILES,
    check_count,
    check_models,
    check_name,
    check_weights,
    entries_of,
    read_references,
    source_of,
    without_base,
)
from sdmw.recipes.recipe import MethodGrammar, ModelEntry, Parameter, Recipe
from sdmw.recipes.schema import UNBUILT, RecipeShape, shaped
from sdmw.recipes.settings import Settings
from sdmw.recipes.tree import plain

# mergekit 0.1.5's.
MERGEKIT_METHODS = (
    "arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della", "della_linear", "karcher",
    "linear", "model_stock", "multislerp", "nearswap", "nuslerp", "passthrough", "ram", "ramplus_tl", "sce", "slerp",
    "task_arithmetic", "ties",
)  # fmt: skip

# The parameters of all its methods: in a recipe of another of them they change nothing there, and are noted here.
MERGEKIT_PARAMETERS = (
    "alpha", "density", "eps", "epsilon", "filter_wise", "gamma", "lambda", "max_iter", "normalize",
    "normalize_weights", "nuslerp_flatten", "nuslerp_row_wise", "r", "rescale", "scale", "select_topk", "t", "tol",
    "weight",
)  # fmt: skip

LONGEST_MODEL = 4096  # characters of a model's name: no path is longer, and to resolve one takes their square
MOST_SLASHES = 10_000  # in the names of all models; each is some 10 microseconds


def load(
    source: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    methods: Mapping[str, MethodGrammar],
    *,
    ignore_unknown: bool = False,
) -> Recipe:
    """Check a recipe and put it in its one form.

    Args:
        source: the path of a YAML file, or its content as a mapping, or a `Recipe`, built by hand or loaded.
        methods: what each merge method takes, by its name.
        ignore_unknown: unknown fields become notes; what is known and not built yet stays an error.

    Returns:
        The recipe: every setting a tuple of rules, a word or `{power: p}`, every model an entry, the base not among
        them where the method takes deltas from it. Loading it again gives an equal one.

    Raises:
        RecipeError: all that is wrong, each problem at its line and column where there is a file.
    """
    if isinstance(source, Recipe):
        return _load_recipe(source, methods, ignore_unknown)
    if isinstance(source, Mapping):
        findings = Findings()
        data = plain(source, findings)
        recipe = _composed(data, methods, findings, ignore_unknown)
        return replace(recipe, text=yaml.written(data))
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        findings = Findings(path)
        text = yaml.read(path)
        recipe = _composed(yaml.tree(text, findings), methods, findings, ignore_unknown)
        return replace(recipe, text=text, file=os.path.basename(path))
    raise RecipeError([Problem("recipe", "a path, a mapping or a Recipe", type(source).__name__)])


def _load_recipe(source: Recipe, methods: Mapping[str, MethodGrammar], ignore_unknown: bool) -> Recipe:
    findings = Findings()
    findings.notes.extend(source.notes)
    data = plain(source, findings)
    recipe = _composed(data, methods, findings, ignore_unknown)
    if source.text and _says(source.text, recipe, methods):
        return replace(recipe, text=source.text, file=source.file)
    return replace(recipe, text=yaml.written(data))


def _says(text: str, recipe: Recipe, methods: Mapping[str, MethodGrammar]) -> bool:
    """Whether the text still is the recipe: after `dataclasses.replace` it may not be, and it is what gets recorded."""
    try:
        told = _composed(yaml.tree(text, Findings()), methods, Findings(), ignore_unknown=True)
    except RecipeError:
        return False
    return replace(told, notes=()) == replace(recipe, notes=())


def _composed(data: Any, methods: Mapping[str, MethodGrammar], findings: Findings, ignore_unknown: bool) -> Recipe:
    """The recipe that a plain tree is; the tree is changed where it uses a longer form, or a field that is ignored."""
    if not isinstance(data, dict):
        findings.add((), described(data), expected="a mapping with merge_method and models")
        findings.check()
    for name in UNBUILT:
        if name in data and data[name] is None:
            del data[name]
    references = read_references(data, findings, ignore_unknown=ignore_unknown)
    method = _method(data.get("merge_method"), methods, findings)
    checked = method or _any(methods)
    names = [parameter.name for parameter in checked.parameters]
    shape = shaped(RecipeShape, data, (), findings, ignore_unknown=ignore_unknown, parameters=names)

    base, entries = references.get(("base_model",)), entries_of(data, references)
    _check_lengths(references, findings)
    if base is not None:
        check_name(("base_model",), base, findings)
    check_models(entries, findings)
    named = [model for _, model, _ in entries]
    sources = {name: source_of(name, data, named, base, findings, ignore_unknown) for name in FILES}
    if method:
        entries = without_base(entries, base, method, findings)
        check_count(entries, method, findings)
        check_weights(entries, data.get("parameters"), method, findings)
    of_others = MERGEKIT_PARAMETERS if checked.name in MERGEKIT_METHODS else ()
    settings = Settings(checked, findings, ignore_unknown=ignore_unknown, of_others=of_others)
    top = settings.read(data.get("parameters"), ("parameters",), under_model=False)
    models: list[ModelEntry] = []
    for index, model, given in entries:
        path = ("models", index, "parameters")
        models.append(ModelEntry(model, settings.read(given, path, under_model=True)))
    findings.check()
    assert shape is not None  # else there were findings
    return Recipe(
        merge_method=shape.merge_method,
        models=tuple(models),
        base_model=base,
        parameters=top,
        dtype=shape.dtype,
        out_dtype=shape.out_dtype,
        nonfinite=shape.nonfinite,
        missing=shape.missing,
        extra=shape.extra,
        integers=shape.integers,
        **sources,
        random_seed=shape.random_seed,
        notes=tuple(findings.notes),
    )


def _check_lengths(references: Mapping[Path, ModelRef], findings: Findings) -> None:
    """Raises where the models have names that no file has: each part of a path costs a look at the file system."""
    named = {path: str(model) for path, model in references.items()}
    too_long = {path: name for path, name in named.items() if len(name) > LONGEST_MODEL}
    for path, name in too_long.items():
        findings.add(path, str(len(name)), expected=f"at most {LONGEST_MODEL} characters")
    slashes = sum(name.count("/") for name in named.values())
    if slashes > MOST_SLASHES and not too_long:
        findings.add(("models",), str(slashes), expected=f"names of models with at most {MOST_SLASHES} slashes in all")
    if too_long or slashes > MOST_SLASHES:
        findings.check()


@dataclass(frozen=True, slots=True)
class _AnyMethod:
    """What is checked where the method is not known: parameters that no method has, and values that none takes."""

    parameters: tuple[Parameter, ...]
    name: str = "any method"
    needs_base: bool = False
    takes: str = "values"
    fewest: int = 1
    most: int | None = None


def _any(methods: Mapping[str, MethodGrammar]) -> MethodGrammar:
    """All parameters of all methods, each as the first method has it; of mergekit's others nothing is known."""
    parameters: dict[str, Parameter] = {}
    for method in methods.values():
        for each in method.parameters:
            parameters.setdefault(each.name, each)
    return _AnyMethod(tuple(parameters.values()))


def _method(name: Any, methods: Mapping[str, MethodGrammar], findings: Findings) -> MethodGrammar | None:
    if not isinstance(name, str):
        return None  # told by the shape
    if name in methods:
        return methods[name]
    findings.add(("merge_method",), f"unknown merge method {quoted(name)}", mend=guess(name, methods))
    return None
