"""A recipe as a plain tree: dicts with text keys, lists, text, numbers, flags, None. What Python gives, made so."""

import numbers
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sdmw.errors import quoted
from sdmw.recipes.findings import Findings, Path
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import ModelEntry, Recipe, Rename, Rule, Slice, TokenRow, Vocabulary

DEEPEST = 20  # levels; a recipe has eight
MOST_NODES = 10_000  # keys and values, aliases counted as often as they are used; a recipe with a rule a tensor fits

_ABOUT = ("documents", "text", "file", "notes")  # fields of a Recipe that are about it, not of it


class Bounds:
    """Counts what a recipe holds while it is walked, and stops where that is no recipe any more."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._nodes = 0

    def enter(self, path: Path) -> None:
        """Count one value.

        Raises:
            RecipeError: too many values, or too deep.
        """
        self._nodes += 1
        if len(path) > DEEPEST:
            self._findings.add(path[:DEEPEST], f"more than {DEEPEST} levels", mend="Is this a recipe?")
            self._findings.check()
        if self._nodes > MOST_NODES:
            self._findings.add((), f"more than {MOST_NODES} values", mend="Is this a recipe?")
            self._findings.check()


def plain(source: Recipe | Mapping[Any, Any], findings: Findings) -> dict[str, Any]:
    """A recipe that Python gives as a plain tree: mappings and sequences copied, the recipe's types spelled out.

    Raises:
        RecipeError: it is too large or too deep; anything else is left in `findings`.
    """
    given = _as_mapping(source) if isinstance(source, Recipe) else source
    return _mapping(given, (), findings, Bounds(findings))


def _plain(value: Any, path: Path, findings: Findings, bounds: Bounds) -> Any:
    bounds.enter(path)
    match value:
        case None | bool():
            return value
        case str():
            return _text(str.__str__(value), path, findings)
        case os.PathLike():
            return _text(os.fsdecode(value), path, findings)
        case numbers.Real():
            return _number(value, path, findings)
        case (Rule(filter=None, value=alone, exclude=()),):  # what the loader makes of a plain value
            return _plain(alone, path, findings, bounds)
        case Rule():
            rule = {"filter": value.filter, "exclude": list(value.exclude), "value": value.value}
            said = {name: each for name, each in rule.items() if each is not None and each != []}
            return _mapping(said, path, findings, bounds)
        case ModelRef():
            return _plain(value.plain(), path, findings, bounds)
        case ModelEntry():
            return _mapping(_entry(value), path, findings, bounds)
        case Rename():
            return _mapping({"model": value.model, "from": value.pattern, "to": value.to}, path, findings, bounds)
        case Slice():
            return _mapping(_slice(value), path, findings, bounds)
        case Vocabulary():
            return _mapping(_vocabulary(value), path, findings, bounds)
        case Mapping():
            return _mapping(value, path, findings, bounds)
        case list() | tuple():
            return [_plain(item, (*path, index), findings, bounds) for index, item in enumerate(value)]
    findings.add(path, type(value).__name__, expected="text, a number, true, false, a list or a mapping")
    return None


def _mapping(given: Mapping[Any, Any], path: Path, findings: Findings, bounds: Bounds) -> dict[str, Any]:
    result = {}
    for key, value in given.items():
        if isinstance(key, str):
            name = str.__str__(key)
            if _text(name, (*path, name), findings) is not None:
                result[name] = _plain(value, (*path, name), findings, bounds)
        else:
            findings.add((*path, quoted(key)), quoted(key), expected="a name", key=True)
    return result


def _text(text: str, path: Path, findings: Findings) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        findings.add(path, quoted(text), expected="text that can be written as UTF-8")
        return None
    return text


def _number(value: Any, path: Path, findings: Findings) -> int | float | None:
    # NumPy's scalars are Real too; they become Python's own, which YAML can write.
    try:
        number = int(value) if isinstance(value, numbers.Integral) else float(value)
        float(number)
    except (OverflowError, ValueError, TypeError):
        findings.add(path, f"{type(value).__name__} too large for a float", expected="a number")
        return None
    return number


def _as_mapping(recipe: Recipe) -> dict[str, Any]:
    """What the recipe says; fields that say what would hold anyway are left out, as people do."""
    about = (*_ABOUT, "models") if recipe.slices else _ABOUT
    return {
        field.name: value
        for field in fields(recipe)
        if field.name not in about and not _unsaid(value := getattr(recipe, field.name), field.default)
    }


def _entry(entry: ModelEntry) -> dict[str, Any]:
    said = {
        "model": entry.model, "parameters": entry.parameters, "layer_range": entry.layer_range, "into": entry.into,
        "part": entry.part,
    }  # fmt: skip
    return {name: value for name, value in said.items() if value}


def _slice(part: Slice) -> dict[str, Any]:
    """The base first, where it is not among the sources: its place there means nothing."""
    base = [part.base] if part.base is not None and part.base not in part.sources else []
    said = {"sources": [*base, *part.sources], "parameters": part.parameters, "base_model": part.base_model}
    return {name: value for name, value in said.items() if value}


def _vocabulary(vocabulary: Vocabulary) -> dict[str, Any]:
    tokens = {each.token: _token(each) for each in vocabulary.tokens}
    padding = vocabulary.multiple if vocabulary.multiple > 1 else None
    said = {"source": vocabulary.source, "tokens": tokens, "pad_to_multiple_of": padding}
    return {name: value for name, value in said.items() if value}


def _token(row: TokenRow) -> dict[str, Any]:
    source: Any = {"kind": "zero"} if row.kind == "zero" else row.model or None
    if row.other is not None:
        by = "token" if isinstance(row.other, str) else "token_id"
        source = {"kind": "model_token", "model": row.model, by: row.other}
    said = {"source": source, "force": row.force}
    return {name: value for name, value in said.items() if value}


def _unsaid(value: Any, default: Any) -> bool:
    return (
        value is None
        or (isinstance(value, str | int) and value == default)
        or (isinstance(value, dict | tuple) and not value)
    )
