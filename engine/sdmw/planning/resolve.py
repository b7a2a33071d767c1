"""What the recipe's levels come to for each tensor. Source: DESIGN.md, the recipe language; mergekit's precedence."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from sdmw.errors import Problem, quoted
from sdmw.methods.method import AnyMethod, Chosen, Settings
from sdmw.recipes.recipe import Parameter, Recipe, Setting, value_of
from sdmw.views.stacked import Place

ROUNDING = 1e-12  # how far a gradient between two values of a range may lead out of it. Source: METHODS.md, section 6


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the recipe's levels: one tensor.

    Attributes:
        name: in the output.
        depth: 0 to 1, where gradients are read.
        shape: of the tensor.
        place: where it comes from, where there are slices.
    """

    name: str
    depth: float
    shape: tuple[int, ...]
    place: Place | None = None


def resolve(recipe: Recipe, method: AnyMethod, asked: Asked) -> Settings:
    """The value of each of the method's parameters for one tensor: model, slice, top, then the method's default.

    What each model has its own of is filtered by the tensor's name there, on every level; all else by its name in the
    output.
    """
    part = None if asked.place is None else recipe.slices[asked.place.number]
    entries = recipe.models if part is None else part.sources
    names = {} if asked.place is None else asked.place.names
    levels = (recipe.parameters,) if part is None else (part.parameters, recipe.parameters)
    top: dict[str, Chosen] = {}
    by_model: dict[str, tuple[float | None, ...]] = {}
    for parameter in method.parameters:
        if not parameter.by_model:
            top[parameter.name] = _first(levels, parameter, asked.name, asked.depth)
            continue
        own = []
        for entry in entries:
            name = names.get(str(entry.model), asked.name)
            value = _first((entry.parameters, *levels), parameter, name, asked.depth)
            own.append(cast("float | None", value))
        by_model[parameter.name] = tuple(own)
    base = recipe.base_model if part is None else part.base
    return Settings(
        models=len(entries),
        base=base is not None,
        elements=math.prod(asked.shape),
        rows=math.prod(asked.shape[:-1]),
        seed=recipe.random_seed,
        top=top,
        by_model=by_model,
    )


def _first(levels: Sequence[Mapping[str, Setting]], parameter: Parameter, name: str, depth: float) -> Chosen:
    """What the first level says that says something of a tensor; words stand at the last, the top, alone."""
    word = levels[-1].get(parameter.name)
    if parameter.kind == "choice" or isinstance(word, str | Mapping):
        return parameter.default if word is None else cast("str | Mapping[str, float | str]", word)
    for level in levels:
        if (value := value_of(level.get(parameter.name), name, depth)) is not None:
            return _bounded(parameter, value)
    return parameter.default


def _bounded(parameter: Parameter, value: float | bool | None) -> float | bool | None:
    """The value, or the bound that a gradient's rounding has led beyond: of two 100s, say, to 100.00000000000001."""
    low, high = parameter.minimum, parameter.maximum
    if value is None or isinstance(value, bool):
        return value
    if low is not None and low - ROUNDING < value < low:
        return low
    return high if high is not None and high < value < high + ROUNDING else value


def check_settings(
    recipe: Recipe, method: AnyMethod, layers: Mapping[str, Iterable[str]], values: Mapping[str, Settings]
) -> list[Problem]:
    """Problems that only a tensor's resolved values show.

    Args:
        recipe: as loaded.
        method: the recipe's.
        layers: names of the tensors in each layer.
        values: of each tensor.
    """
    problems = []
    same = method.same_within_layer(recipe.parameters)
    for parameter in method.parameters:
        if parameter.by_model and parameter.default is None and not parameter.required:
            problems += _check_all_or_none(recipe, parameter, values)
        if parameter.required:
            problems += _check_given(parameter, values)
        if parameter.name in same:
            for layer, tensors in layers.items():
                problems += _check_same(recipe, parameter, layer, list(tensors), values)
    return problems


def _check_all_or_none(recipe: Recipe, parameter: Parameter, values: Mapping[str, Settings]) -> list[Problem]:
    """A parameter that is computed where it is not given is given for all models and tensors, or for none."""
    gaps = [
        (tensor, str(entry.model))
        for tensor, resolved in values.items()
        for entry, value in zip(recipe.models, resolved.by_model[parameter.name], strict=True)
        if value is None
    ]
    if len(gaps) in (0, len(values) * len(recipe.models)):
        return []
    tensor, model = gaps[0]
    found = f"none for tensor {quoted(tensor)} of model {quoted(model)}, some for others"
    mend = f"Add a rule without a filter, or leave {parameter.name} out everywhere"
    return [Problem(f"recipe: {parameter.name}", "a value for all models and tensors, or for none", found, mend)]


def _check_given(parameter: Parameter, values: Mapping[str, Settings]) -> list[Problem]:
    """A parameter without a default is given for every tensor."""
    lacking = [tensor for tensor, resolved in values.items() if None in _values_of(parameter, resolved)]
    if not lacking:
        return []
    found = f"none for {len(lacking):,} of {len(values):,} tensors, such as {quoted(lacking[0])}"
    mend = f"Write {parameter.name} under parameters; a rule without a filter applies to tensors that no filter matches"
    return [Problem(f"recipe: {parameter.name}", "a value for every tensor", found, mend)]


def _check_same(
    recipe: Recipe, parameter: Parameter, layer: str, tensors: list[str], values: Mapping[str, Settings]
) -> list[Problem]:
    problems = []
    first = tensors[0]
    owners = [f" of model {quoted(str(entry.model))}" for entry in recipe.models] if parameter.by_model else [""]
    for place, owner in enumerate(owners):
        expected = _values_of(parameter, values[first])[place]
        for tensor in tensors[1:]:
            found = _values_of(parameter, values[tensor])[place]
            if found != expected:
                where = f"recipe: {parameter.name}{owner} in layer {quoted(layer)}"
                wanted = f"one value, {_said(expected)} as for {quoted(first)}"
                mend = "Let filters and gradients follow the layers, or choose a finer granularity"
                problems.append(Problem(where, wanted, f"{_said(found)} for {quoted(tensor)}", mend))
                break
    return problems


def _values_of(parameter: Parameter, resolved: Settings) -> tuple[Chosen, ...]:
    """The value for each model, or the one that stands at the top."""
    return resolved.by_model[parameter.name] if parameter.by_model else (resolved.top[parameter.name],)


def _said(value: Chosen) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
