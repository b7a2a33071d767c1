"""From a file, a mapping or a `Recipe` built by hand to a recipe that is checked and in its one form."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sdmw.errors import Problem, RecipeError, quoted, shorten
from sdmw.recipes import documents, yaml
from sdmw.recipes.findings import Findings, Path, described, guess
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.models import (
    FILES,
    Entry,
    base_of,
    check_count,
    check_models,
    check_name,
    check_weights,
    entries_of,
    read_references,
    source_of,
    without_base,
)
from sdmw.recipes.recipe import MethodGrammar, ModelEntry, Parameter, Recipe, Setting, Slice
from sdmw.recipes.renames import read_renames
from sdmw.recipes.schema import RecipeShape, shaped
from sdmw.recipes.settings import INT8_MASK, Settings
from sdmw.recipes.slices import FORMS, GivenSlice, check_forms, check_ranges, given_slices, pass_over_ranges
from sdmw.recipes.tree import plain
from sdmw.recipes.vocabulary import FIELDS, read_vocabulary

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

# Files of mergekit that are no recipes of a merge: the field that gives them away, what is said, and the mend.
NO_RECIPES = {
    "experts": (
        "a mixture of experts, which sdmw does not build",
        "Build it with mergekit-moe; its experts can be merged",
    ),
    "genome": (
        "a search for a recipe, which sdmw does not do",
        "Search with mergekit-evolve; its result is a recipe",
    ),
}

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
        The recipe: every setting a tuple of rules, a word or a mapping form, every model an entry, the base not among
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
        text = yaml.read(path)
        return replace(_told(text, path, methods, ignore_unknown), text=text, file=os.path.basename(path))
    raise RecipeError([Problem("recipe", "a path, a mapping or a Recipe", type(source).__name__)])


def _told(text: str, path: str, methods: Mapping[str, MethodGrammar], ignore_unknown: bool) -> Recipe:
    """The recipe that a text is; of several documents the one that is written, with those that it uses."""
    found: list[Recipe] = []
    problems: list[Problem] = []
    for part in documents.parts(text):
        findings = Findings(path)
        try:
            found.append(_composed(yaml.tree(part, findings), methods, findings, ignore_unknown))
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(shorten(problems, path or "recipe"))
    if len(found) == 1:
        return found[0]
    linked = documents.linked(found, path or "recipe")
    if isinstance(linked, list):
        raise RecipeError(linked)
    return linked


def _load_recipe(source: Recipe, methods: Mapping[str, MethodGrammar], ignore_unknown: bool) -> Recipe:
    findings = Findings()
    findings.notes.extend(source.notes)
    data = plain(source, findings)
    recipe = replace(_composed(data, methods, findings, ignore_unknown), documents=source.documents)
    if source.text and _says(source.text, recipe, methods):
        return replace(recipe, text=source.text, file=source.file)
    others = [yaml.written(plain(each, Findings())) for each in source.documents]
    return replace(recipe, text=documents.joined([*others, yaml.written(data)]))


def _says(text: str, recipe: Recipe, methods: Mapping[str, MethodGrammar]) -> bool:
    """Whether the text still is the recipe: after `dataclasses.replace` it may not be, and it is what gets recorded."""
    try:
        told = _told(text, "", methods, ignore_unknown=True)
    except RecipeError:
        return False
    return _less_notes(told) == _less_notes(recipe)


def _less_notes(recipe: Recipe) -> Recipe:
    return replace(recipe, notes=(), documents=tuple(map(_less_notes, recipe.documents)))


def _composed(data: Any, methods: Mapping[str, MethodGrammar], findings: Findings, ignore_unknown: bool) -> Recipe:
    """The recipe that a plain tree is; the tree is changed where it uses a longer form, or a field that is ignored."""
    if not isinstance(data, dict):
        findings.add((), described(data), expected="a mapping with merge_method and models")
        findings.check()
    for name, (found, mend) in NO_RECIPES.items():
        if name in data and "merge_method" not in data:
            findings.add((name,), found, expected="a merge", mend=mend, key=True)
            findings.check()
    for name in (*FIELDS, *FORMS[1:], "rename", "chat_template"):
        if name in data and data[name] is None:
            del data[name]
    given = given_slices(data)
    references = read_references(data, given, findings, ignore_unknown=ignore_unknown)
    pass_over_ranges(given, findings)
    if data.pop("int8_mask", None) is not None:
        findings.note(INT8_MASK)
    method = _method(data.get("merge_method"), methods, findings)
    checked = method or _any(methods)
    names = [parameter.name for parameter in checked.parameters]
    shape = shaped(RecipeShape, data, (), findings, ignore_unknown=ignore_unknown, parameters=names)

    _check_lengths(references, findings)
    for path, model in references.items():
        if path[-1] == "base_model" or path[0] in FIELDS:
            check_name(path, model, findings)
    check_forms(data, findings)
    check_ranges(given, findings)
    base, top = references.get(("base_model",)), data.get("parameters")
    named = list(dict.fromkeys(model for each in given for _, model, _ in entries_of(each, references)))
    files = {name: source_of(name, data, named, base, findings, ignore_unknown) for name in FILES}
    renames = read_renames(data, references, named, base, findings)
    tokenizer = read_vocabulary(data, references, named, findings)
    of_others = MERGEKIT_PARAMETERS if checked.name in MERGEKIT_METHODS else ()
    settings = Settings(checked, findings, ignore_unknown=ignore_unknown, of_others=of_others)
    parameters = settings.read(top, ("parameters",), "top")
    slices = [_slice(each, references, method, top, settings, findings) for each in given]
    settings.check_together(parameters)
    settings.note_idle()
    findings.check()
    assert shape is not None  # else there were findings
    whole = slices[0] if not given[0].ranged else None
    slices = [] if whole else _spelled_once(base, slices)
    return Recipe(
        merge_method=shape.merge_method,
        models=whole.sources if whole else _each_once(slices),
        base_model=base or (whole.base_model if whole else None),
        parameters=_behind(whole.parameters, parameters) if whole else parameters,
        slices=tuple(slices),
        dtype=shape.dtype,
        out_dtype=shape.out_dtype,
        nonfinite=shape.nonfinite,
        missing=shape.missing,
        extra=shape.extra,
        integers=shape.integers,
        rename=renames,
        tokenizer=tokenizer,
        chat_template=files["chat_template"],
        generation_config=files["generation_config"],
        random_seed=shape.random_seed,
        name=shape.name or "",
        notes=tuple(findings.notes),
    )


def _slice(
    given: GivenSlice,
    references: Mapping[Path, ModelRef],
    method: MethodGrammar | None,
    top: Any,
    settings: Settings,
    findings: Findings,
) -> Slice:
    """One slice, checked: its models without the base, its parameters and behind them those of its module."""
    entries, base = entries_of(given, references), None
    check_models(entries, findings)
    place = base_of(given, references)
    if method:
        entries, base = without_base(given, entries, place, top, method, findings)
        if place[1] is not None or not method.needs_base:  # else one of the models may be meant as the base
            check_count(given, entries, place[1], method, findings)
        check_weights(given, entries, top, method, findings)
    levels: Mapping[str, Setting] = {}
    for at, level in given.levels:
        levels = _behind(levels, settings.read(level.get("parameters"), (*at, "parameters"), "slice"))
        if level.get("residual_weight") is not None:
            _note_residual(at, findings)
    said = dict(given.models)
    for at, beside in said.items():
        if given.ranged and beside.get("residual_weight") is not None:
            _note_residual(at, findings)

    def entry(one: Entry) -> ModelEntry:
        at, model, own = one
        beside = said.get(at, {})
        layers, into, part = (beside.get(name) for name in ("layer_range", "into", "part"))
        return ModelEntry(
            model,
            settings.read(own, (*at, "parameters"), "model"),
            (layers[0], layers[1]) if isinstance(layers, list) and _is_range(layers) else None,
            into if isinstance(into, str) else "",
            part if isinstance(part, str) else "",
        )

    for at, beside in given.models:
        if (*at, "model") not in references:  # the model is at fault: its parameters are held against the method too
            settings.read(beside.get("parameters"), (*at, "parameters"), "model")
    own_base = place[1] if place[0] != ("base_model",) else None
    if base and base not in entries:
        base = (base[0], base[1], None)  # a note says that its parameters are ignored
    return Slice(tuple(map(entry, entries)), entry(base) if base else None, levels, own_base)


def _note_residual(at: Path, findings: Findings) -> None:
    findings.note(f"{findings.name((*at, 'residual_weight'))} has no effect, as in mergekit")


def _is_range(layers: list[Any]) -> bool:
    return [type(number) for number in layers] == [int, int]


def _behind(first: Mapping[str, Setting], then: Mapping[str, Setting]) -> dict[str, Setting]:
    """Two levels as one: rules of the second speak where none of the first does; of words the first counts."""
    both = {**then, **first}
    for name in first.keys() & then.keys():
        one, other = first[name], then[name]
        if isinstance(one, tuple) and isinstance(other, tuple):
            both[name] = (*one, *other)
    return both


def _spelled_once(base: ModelRef | None, slices: Sequence[Slice]) -> list[Slice]:
    """Slices in which each model has one name: the base's own, or the first that it has in any."""
    first: dict[tuple[str, ...], ModelRef] = {}
    if base is not None:
        first[base.identity()] = base

    def spelled(entry: ModelEntry) -> ModelEntry:
        return replace(entry, model=first.setdefault(entry.model.identity(), entry.model))

    return [
        replace(each, sources=tuple(map(spelled, each.sources)), base=spelled(each.base) if each.base else None)
        for each in slices
    ]


def _each_once(slices: Sequence[Slice]) -> tuple[ModelEntry, ...]:
    """What slices merge, each model once, without parameters."""
    return tuple(map(ModelEntry, dict.fromkeys(entry.model for each in slices for entry in each.sources)))


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
    findings.add(("merge_method",), f"unknown merge method {quoted(name)}", mend=guess(name.lower(), methods))
    return None
