"""The three forms of what a recipe merges, `models`, `slices` and `modules`, as slices; their places and their ranges.

Source: METHODS.md, section 6.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sdmw.errors import quoted
from sdmw.recipes.findings import Findings, Path, described

FORMS = ("models", "slices", "modules")


@dataclass(frozen=True, slots=True)
class GivenSlice:
    """One slice as the tree has it; `models` are one of all layers.

    Attributes:
        path: where it stands; () where the recipe has `models`.
        models: place and content of each of its models or sources that is a mapping.
        levels: place and content of what stands between them and the top, inner first: the slice, the module.
        ranged: its models have ranges of layers.
    """

    path: Path
    models: tuple[tuple[Path, dict[str, Any]], ...]
    levels: tuple[tuple[Path, dict[str, Any]], ...]
    ranged: bool


def given_slices(data: dict[str, Any]) -> list[GivenSlice]:
    """The slices of a plain tree, without what has not the shape of one: `schema` reports that.

    A text among models becomes an entry with nothing but that model.
    """
    return list(_slices(data, (), ()))


def check_forms(data: Mapping[str, Any], findings: Findings) -> None:
    """Exactly one of the three forms, and of modules exactly one."""
    given = [name for name in FORMS if data.get(name) is not None]
    if not given:
        findings.add(("models",), "missing", mend="Write for instance models: [{model: ./corp}, {model: ./func}]")
    if len(given) > 1:
        findings.add(
            (given[1],), f"{given[1]} beside {given[0]}", expected="one of models, slices and modules", key=True
        )
    modules = data.get("modules")
    if isinstance(modules, dict) and len(modules) > 1:
        mend = "Merge them one after the other, or write one module, which is then the whole model"
        found = f"{len(modules)}: {', '.join(map(quoted, list(modules)[:5]))}"
        findings.add(("modules",), found, expected="one module", mend=mend)
    for name, module in modules.items() if isinstance(modules, dict) else ():
        forms = [form for form in FORMS[:2] if isinstance(module, dict) and module.get(form) is not None]
        if isinstance(module, dict) and len(forms) != 1:
            found = "both" if forms else "neither"
            findings.add(("modules", name), found, expected="either models or slices")


def check_ranges(slices: list[GivenSlice], findings: Findings) -> None:
    """Every source has a range of layers, from low to high, and all of a slice have equally many."""
    for each in slices:
        lengths: dict[int, Path] = {}
        for path, model in each.models if each.ranged else ():
            at = (*path, "layer_range")
            given = model["layer_range"] = _whole_numbers(model.get("layer_range"))
            if given is None:
                mend = "Write for instance layer_range: [0, 16], which are layers 0 to 15"
                findings.add(path, "a source without layer_range", mend=mend)
            elif not isinstance(given, list) or [type(number) for number in given] != [int, int]:
                findings.add(at, described(given), expected="two whole numbers, as [0, 16]")
            elif not 0 <= given[0] < given[1]:
                mend = f"Write [{given[1]}, {given[0]}]" if 0 <= given[1] < given[0] else ""
                found = f"[{given[0]}, {given[1]}]"
                findings.add(at, found, expected="a first layer of at least 0, and an end after it", mend=mend)
            else:
                lengths.setdefault(given[1] - given[0], path)
        (one, first), *others = lengths.items() if lengths else [(0, ())]
        for other, at in others:
            expected = f"{one} layers, as the slice's source {first[-1]}"
            findings.add((*at, "layer_range"), f"{other}", expected=expected)


def _whole_numbers(given: Any) -> Any:
    """A range whose ends are text or floats, as mergekit takes them too, in numbers; else what was given."""
    if not isinstance(given, list) or not all(type(each) in (int, float, str) for each in given):
        return given
    try:
        ends = [float(each) if isinstance(each, str) else each for each in given]
        return [int(each) for each in ends] if all(each == int(each) for each in ends) else given
    except (ValueError, OverflowError):  # no number, NaN, infinity
        return given


def pass_over_ranges(slices: list[GivenSlice], findings: Findings) -> None:
    """Delete ranges that stand among `models`, where mergekit does not look at them; a note."""
    for each in slices:
        for path, model in each.models if not each.ranged else ():
            if model.get("layer_range") is not None:
                where = findings.name((*path, "layer_range"))
                findings.note(f"{where} has no effect: models are merged with all their layers. Write it under slices")
            model.pop("layer_range", None)


def _slices(data: dict[str, Any], path: Path, levels: tuple[tuple[Path, dict[str, Any]], ...]) -> Iterator[GivenSlice]:
    if data.get("models") is not None:
        yield GivenSlice(path, tuple(_mappings(data, "models", path)), levels, ranged=False)
    for at, each in _mappings(data, "slices", path):
        yield GivenSlice(at, tuple(_mappings(each, "sources", at)), ((at, each), *levels), ranged=True)
    modules = data.get("modules")
    for name, module in modules.items() if isinstance(modules, dict) and not path else ():
        at = ("modules", name)
        if isinstance(module, dict):
            yield from _slices(module, at, ((at, module),))


def _mappings(data: dict[str, Any], name: str, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    given = data.get(name)
    if not isinstance(given, list):
        return
    if name != "slices":
        given[:] = [{"model": each} if isinstance(each, str) else each for each in given]
    for index, each in enumerate(given):
        if isinstance(each, dict):
            yield (*path, name, index), each
