"""What one tensor of a merge is made from, and which line of the recipe gave each value of a parameter."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sdmw import codec
from sdmw.errors import PlanError, Problem, quoted
from sdmw.methods.method import AnyMethod
from sdmw.planning.inputs import Inputs
from sdmw.planning.output_tokens import Vocabularies
from sdmw.planning.rows import Row, rows
from sdmw.planning.tables import parted, viewed
from sdmw.recipes.findings import close
from sdmw.recipes.recipe import Parameter, Recipe, Setting, rule_for
from sdmw.views.stacked import Tables

DEFAULT = "default"  # where no level says anything


@dataclass(frozen=True, slots=True)
class Told:
    """One value.

    Attributes:
        parameter: its name.
        model: whose it is; None where it is for all.
        value: the value; None where the method finds its own.
        place: where the recipe says it, or `default`.
    """

    parameter: str
    model: str | None
    value: Any
    place: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The inputs and values of one tensor.

    Attributes:
        tensor: its name in the output.
        shape, dtype: of the base's.
        action: merge by the method, copy, or convert.
        method: the merge method.
        depth: 0 to 1, where gradients are read.
        read_from: model, name there and file of each input, the base's first.
        values: of every parameter.
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    action: str
    method: str
    depth: float
    read_from: tuple[tuple[str, str, str], ...]
    values: tuple[Told, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return cast("dict[str, Any]", codec.encode(self))


def explain(
    recipe: Recipe, method: AnyMethod, inputs: Inputs, vocabularies: Vocabularies | None, tensor: str
) -> Explanation:
    """What a tensor of the output is made from.

    Raises:
        PlanError: there is no such tensor, or what is wrong with the slices.
    """
    view = viewed(recipe, method, inputs, vocabularies)
    tied, tables = view.tied, view.tables
    if isinstance(tables, list):
        raise PlanError(tables)
    wanted = rows(recipe, method, tables, tied.unwritten(parted(recipe, tied)))
    row = next((row for row in wanted if row.name == tensor), None)
    if row is None and tensor in tied.heads:
        found = "a head that is tied to its embedding, and is written only if an input has a different one"
        raise PlanError([Problem(quoted(tensor), "a tensor of the output", found)])
    if row is None:
        mend = close(tensor, [row.name for row in wanted])
        raise PlanError([Problem(quoted(tensor), "a tensor of the output", "no such tensor", mend)])
    return Explanation(
        tensor=tensor,
        shape=row.like.shape,
        dtype=row.like.dtype.name,
        action=row.action,
        method=method.name,
        depth=row.depth,
        read_from=tuple(_read_from(recipe, method, inputs, tables, row)),
        values=tuple(_values(recipe, method, tables, row)) if row.action == "merge" else (),
    )


def _read_from(
    recipe: Recipe, method: AnyMethod, inputs: Inputs, tables: Tables, row: Row
) -> Iterator[tuple[str, str, str]]:
    if row.base is not None and (method.needs_base or row.action != "merge"):
        yield str(_base_of(recipe, tables, row)), row.base.name, row.base.origin
    names = [list(tables.models)[number] for number in row.among] if row.among else [*tables.models]
    for name, each in zip(names, row.models, strict=False):
        yield name, inputs.own.get(name, {}).get(each.name, each.name), each.origin


def _base_of(recipe: Recipe, tables: Tables, row: Row) -> object:
    place = tables.places.get(row.name)
    base = recipe.slices[place.number].base if place else None
    return base.model if base else recipe.donor


def _values(recipe: Recipe, method: AnyMethod, tables: Tables, row: Row) -> Iterator[Told]:
    place = tables.places.get(row.name)
    part = recipe.slices[place.number] if place else None
    levels = (part.parameters, recipe.parameters) if part else (recipe.parameters,)
    assert row.settings is not None  # the method has a say in what is merged
    for parameter in method.parameters:
        if not parameter.by_model:
            value = row.settings.top[parameter.name]
            yield Told(parameter.name, None, value, _place(parameter, levels, row.name))
            continue
        entries = part.sources if part else recipe.models
        for entry, own in zip(entries, row.settings.by_model[parameter.name], strict=True):
            name = str(entry.model)
            called = place.names.get(name, row.name) if place else row.name
            yield Told(parameter.name, name, own, _place(parameter, (entry.parameters, *levels), called))


def _place(parameter: Parameter, levels: Sequence[Mapping[str, Setting]], name: str) -> str:
    """Where the first level stands that says something."""
    for level in levels:
        setting = level.get(parameter.name)
        if isinstance(setting, str | Mapping):
            return f"parameters.{parameter.name}"
        if rule := rule_for(setting, name):
            return rule.place
    return DEFAULT
