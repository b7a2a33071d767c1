"""What was decided in each layer, by depth and component: maps, lines, and the table that they draw."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median

from sdmw.methods.method import Facts
from sdmw.reporting.pages import charts
from sdmw.reporting.pages.page import Cell, Chart, Column, Kind, Part, Table
from sdmw.reporting.pages.places import MOST, Place, places_of

NAME = "layers"
SHARE = "kept_share"
MOST_MAPS = 6
_COUNTS = ("nonzero", "kept")  # of which the share follows


def layer_parts(
    models: Sequence[str], layers: Mapping[str, Sequence[Facts]], name: str = NAME, *, of: str = "model"
) -> tuple[Part, ...]:
    """Maps of all numbers that a report has for layers, and their table; nothing without such numbers.

    Args:
        models: names, in order; or of pairs of models.
        layers: by the name of each layer, what is told of each model in it.
        name: of the table.
        of: what each of the models is.
    """
    places = places_of(layers, MOST // max(1, len(models)))
    rows = _rows(models, layers, places)
    if not (fields := _fields(rows)):
        return ()
    folded = any(place.count > 1 for place in places.values())
    columns = (
        Column("model", of),
        Column("depth", "block", "count"),
        Column("component", "component"),
        *((Column("layers", "layers", "count"),) if folded else ()),
        *(Column(field, field.replace("_", " "), kind) for field, kind in fields.items()),
    )
    cells = tuple(
        (
            model,
            place.depth,
            place.component,
            *((place.count,) if folded else ()),
            *(facts.get(field) for field in fields),
        )
        for (model, place), facts in rows.items()
    )
    title = "All layers, alike ones together" if folded else "All layers"
    return (*_maps(places.values(), fields, name, of), Table(name, title, columns, cells, folded=True))


def by_depth(parts: Iterable[Part], field: str) -> tuple[Part, ...]:
    """The median over components of a field of `layer_parts`, as lines over depth; nothing if there is no depth."""
    table = next((part for part in parts if isinstance(part, Table)), None)
    fields = [column.field for column in table.columns] if table else []
    if table is None or field not in fields:
        return ()
    at, found = fields.index(field), dict[tuple[Cell, Cell], list[float]]()
    for row in table.rows:
        if row[1] is not None and isinstance(value := row[at], int | float):
            found.setdefault((row[0], row[1]), []).append(value)
    if len({depth for _, depth in found}) < 2:
        return ()
    column = table.columns[at]
    name, title = f"{field}_by_depth", f"{column.title.capitalize()} by depth, median of the components".capitalize()
    columns = (table.columns[0], Column("depth", "block", "count"), column)
    rows = tuple((model, depth, median(values)) for (model, depth), values in found.items())
    said = f"A line for each {table.columns[0].title}: {column.title} over blocks."
    share = column.kind == "share"
    chart = charts.lines(title, name, "depth", field, said=said, names=("block", column.title), share=share)
    return chart, Table(name, "The same as numbers", columns, rows, folded=True)


def _rows(
    models: Sequence[str], layers: Mapping[str, Sequence[Facts]], places: Mapping[str, Place]
) -> dict[tuple[str, Place], Facts]:
    """Numbers of each model in each place: counts added up, other numbers as their mean."""
    found: dict[tuple[str, Place], list[Facts]] = {}
    for name, told in layers.items():
        for model, facts in zip(_named(models, len(told)), told, strict=True):
            found.setdefault((model, places[name]), []).append(facts)
    names = list(dict.fromkeys((*models, *(model for model, _ in found))))
    ordered = sorted(found, key=lambda key: (names.index(key[0]), key[1].depth is None, key[1].depth or 0))
    return {key: _together(found[key]) for key in ordered}


def _named(models: Sequence[str], count: int) -> Sequence[str]:
    """The models of a layer. A report does not say which of all a slice is made of, only in which order."""
    return models if count == len(models) else [f"model {number} of its slice" for number in range(1, count + 1)]


def _together(told: Sequence[Facts]) -> Facts:
    found: dict[str, float | int] = {}
    for field in dict.fromkeys(name for facts in told for name in facts):
        values = [value for facts in told if isinstance(value := facts.get(field), int | float)]
        if values:
            whole = all(isinstance(value, int) for value in values)
            found[field] = sum(values) if whole else sum(values) / len(values)
    if (nonzero := found.get(_COUNTS[0])) and _COUNTS[1] in found:
        found[SHARE] = found[_COUNTS[1]] / nonzero
    return found


def _fields(rows: Mapping[tuple[str, Place], Facts]) -> dict[str, Kind]:
    """The numbers that are told, each with its kind; the share that is kept first."""
    kinds: dict[str, Kind] = {}
    for facts in rows.values():
        for name, value in facts.items():
            kind: Kind = "share" if name.endswith("share") else "count" if isinstance(value, int) else "number"
            kinds[name] = kind if kinds.get(name, kind) == kind else "number"
    return dict(sorted(kinds.items(), key=lambda item: ("share", "number", "count").index(item[1])))


def _maps(places: Iterable[Place], fields: Mapping[str, Kind], name: str, of: str) -> Iterator[Chart]:
    depths = len({place.depth for place in places if place.depth is not None})
    if depths < 2:
        return
    for field, kind in list(fields.items())[:MOST_MAPS]:
        if field in _COUNTS:  # the size of tensors says more about them than merging does
            continue
        title = field.replace("_", " ")
        said = f"A map for each {of}: {title} by block, from left to right, and component, from top to bottom."
        yield charts.heat_map(
            f"{title.capitalize()} by block and component", name, field, depths=depths, said=said, share=kind == "share"
        )
