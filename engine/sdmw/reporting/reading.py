"""Reads the report that stands in the output of a merge, of this schema or of the one before."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from sdmw import codec
from sdmw.checkpoints.formats._adapter_config import ADAPTER_CONFIG
from sdmw.checkpoints.formats._config import CONFIG
from sdmw.checkpoints.formats._refusals import is_archive
from sdmw.checkpoints.formats.safetensors.index import INDEX
from sdmw.codec import LARGEST, shorten
from sdmw.errors import CheckpointError, Problem, quoted
from sdmw.methods import all_methods
from sdmw.methods.method import AnyMethod, decision_type
from sdmw.planning.plan import Plan
from sdmw.reporting import schema_1
from sdmw.reporting.report import REPORT, Report, derived, input_files, model_reports
from sdmw.running.driver import decide_model
from sdmw.running.job import Decisions
from sdmw.storage.files import listing, read_bounded
from sdmw.version import __version__

LARGEST_REPORT = 2**28  # bytes; a piece takes about a hundred
SCHEMA = 2
# Fields that reports of earlier versions lack, and what stands for them.
LATER: dict[str, Any] = {"headers": {}, "configs": {}, "commits": {}, "tally": None}
LATER_OF_RUN: dict[str, Any] = {"stages": {}, "memory": []}
CHANGED = "The report was changed after the merge"


def read_report(folder: str) -> Report:
    """The report of a merge.

    Raises:
        CheckpointError: there is no report, or this version cannot read it; the message says what is wrong and where.
    """
    where = os.path.join(folder, REPORT)
    data = _with_run(_json(folder))
    try:
        if isinstance(data, dict) and "schema" not in data and "method" in data:
            return schema_1.report(data, folder)
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = f"schema {shorten(data['schema'])}" if isinstance(data, dict) and "schema" in data else "another"
            if isinstance(data, dict) and "whole_error" in data:
                found = "the report of an extraction, which states its own error and is not verified"
            raise CheckpointError([Problem(where, f"a report of schema {SCHEMA}, or 1", found)])
        report = codec.decode(Report, {**LATER, **data, "path": folder})
        if unknown := next(_unknown(data, report.to_dict()), None):
            raise ValueError(f"unknown field {shorten(unknown)}")
    except ValueError as error:
        raise CheckpointError([Problem(where, "a report as sdmw writes it", f"something else: {error}")]) from None
    if any(each.sample is None for each in report.inputs):
        raise CheckpointError([Problem(where, "a sample of every input", "null")])
    return report


def _with_run(data: Any) -> Any:
    """A report, with what its run lacks in earlier versions."""
    run = data.get("run") if isinstance(data, dict) else None
    return {**data, "run": {**LATER_OF_RUN, **run}} if isinstance(run, dict) else data


def _unknown(data: Any, read: Any) -> Iterator[str]:
    """The keys of plain data that nothing was read from."""
    if isinstance(data, dict):
        for name, value in data.items():
            if name in read:
                yield from _unknown(value, read[name])
            else:
                yield name
    elif isinstance(data, list):
        for value, found in zip(data, read, strict=True):
            yield from _unknown(value, found)


def _json(folder: str) -> Any:
    where = os.path.join(folder, REPORT)
    try:
        text = read_bounded(folder, REPORT, LARGEST_REPORT)
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse)
    except CheckpointError as error:
        found = error.problems[0].found
        if os.path.isdir(folder) and is_archive(listing(folder)):
            found = "a delta archive, which sdmw apply checks while it reads it"
    except ValueError as error:
        found = f"not JSON: {error}"
    except RecursionError:
        found = "not JSON: nested too deep"
    raise CheckpointError([Problem(where, "the report of a merge, as sdmw writes it", found)])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice in one object")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def decisions_of(report: Report, plan: Plan) -> Decisions:
    """The decisions that a report holds, for a plan of its recipe.

    Raises:
        CheckpointError: the report does not hold them.
    """
    method = all_methods()[plan.recipe.merge_method]
    where = os.path.join(report.path, REPORT)
    told, planned = [layer.name for layer in report.layers], [layer.name for layer in plan.layers]
    if report.method != method.name or told != planned:
        found = f"{quoted(report.method)} with {len(told):,} others"
        raise CheckpointError([Problem(where, f"{method.name} with the {len(planned):,} layers of the recipe", found)])
    try:
        if report.schema == 1:
            return _decisions_of_schema_1(report, plan, method)
        kind = decision_type(method)
        layers = [codec.decode(kind, layer.decision) for layer in report.layers]
        model = decide_model(plan, method, layers)
        for each, layer in zip(plan.layers, layers, strict=True):
            models = len(plan.tensors[each.tensors[0]].among)
            if (facts := method.layer_facts(layer, model)) and len(facts) != models:
                raise ValueError(f"layer {quoted(each.name)}: a decision on {len(facts)} models of {models}")
        return Decisions(tuple(layers), model)
    # A method may stumble over numbers that it has never decided.
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        found = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise CheckpointError([Problem(where, "decisions as sdmw writes them", f"something else: {found}")]) from None


def _decisions_of_schema_1(report: Report, plan: Plan, method: AnyMethod) -> Decisions:
    params = [plan.tensors[layer.tensors[0]].params for layer in plan.layers]
    if len(report.models) != len(plan.models):
        raise ValueError(f"{len(report.models)} models")
    models = [model.facts for model in report.models]
    layers, model = method.decisions_of_schema_1(params, [layer.facts for layer in report.layers], models)
    return Decisions(tuple(layers), model if layers else None)


def contradictions(report: Report, plan: Plan, decisions: Decisions) -> Iterator[Problem]:
    """Where a report tells something else than what follows from its recipe and its decisions, and what it omits.

    Args:
        report: of a merge.
        plan: of the same recipe, made now.
        decisions: that the report holds.
    """
    where = os.path.join(report.path, REPORT)
    own = codec.encode(derived(plan, decisions, model_reports(plan, decisions)))
    own["inputs"] = [{"model": name, "file": file} for name, file, _ in input_files(plan)]
    expected, told = (_compared(each, report.schema) for each in (own, codec.encode(report)))
    for name in expected:
        if name in LATER and told[name] == LATER[name]:
            continue
        for at, one, other in _differences(expected[name], told[name], name, report.version != __version__):
            yield Problem(f"{where}: {at}", shorten(one), shorten(other), CHANGED)
    if report.schema == SCHEMA:
        yield from _not_vouched_for(report, plan)


def _compared(told: Mapping[str, Any], schema: int) -> dict[str, Any]:
    """What of a report is held against another. Of schema 1 the facts are the decisions themselves."""
    facts = ["facts"] if schema == SCHEMA else []
    found = {"method": told["method"], "models": _only(told["models"], "name", *facts)}
    found["layers"] = _only(told["layers"], "name", "tensors", *facts)
    if schema == SCHEMA:
        found |= {name: told[name] for name in ("parameters", "seed", "facts", "missing", "extra", "tally")}
        found["inputs"] = _only(told["inputs"], "model", "file")
    return found


def _only(data: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: each[name] for name in names} for each in data]


def _differences(expected: Any, found: Any, at: str, foreign: bool) -> Iterator[tuple[str, Any, Any]]:
    """Where two plain values differ.

    Args:
        expected: as this version writes it.
        found: in the report.
        at: names the place.
        foreign: another version wrote it, which may tell facts and parameters beside these; none may lack.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in sorted(expected.keys() & found.keys()):
            yield from _differences(expected[name], found[name], f"{at}.{name}", foreign)
        may_tell_more = foreign and at not in ("missing", "extra")
        if expected.keys() - found.keys() or (found.keys() - expected.keys() and not may_tell_more):
            yield at, sorted(expected), sorted(found)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for place, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _differences(one, other, f"{at}[{place}]", foreign)
    elif not _same(expected, found):
        yield at, expected, found


def _same(expected: Any, found: Any) -> bool:
    """Equality of JSON; of numbers to twelve digits: on another machine a power may have other last bits."""
    if type(expected) is float and type(found) in (int, float) and abs(found) <= LARGEST:
        return math.isclose(expected, found, rel_tol=1e-12)
    return type(expected) is type(found) and bool(expected == found)


def _not_vouched_for(report: Report, plan: Plan) -> Iterator[Problem]:
    """Files of the merge whose checksums the report lacks."""
    out = report.path
    needed = {os.path.basename(recipe_of(out)), ADAPTER_CONFIG if plan.makes_adapter else CONFIG, *report.files.copied}
    needed |= {
        name
        for name in (INDEX, *plan.copied, *plan.tokenizer_files, *plan.beside)
        if os.path.isfile(os.path.join(out, name))
    }
    for name in sorted(needed - report.files.written.keys()):
        yield Problem(os.path.join(out, REPORT), f"a checksum of {quoted(name)}", "none", CHANGED)


def fingerprints_of(report: Report) -> list[tuple[str, int, str, str]]:
    """What a report says of each input file: the model, bytes, the header's hash, the sample's; empty in schema 1."""
    return [(each.model, each.size, each.header, each.sample or "") for each in report.inputs]


def recipe_of(path: str) -> str:
    """The recipe that stands in a merged checkpoint.

    Raises:
        CheckpointError: there is no recipe.
    """
    for name in ("sdmw_recipe.yaml", "mergekit_config.yml"):
        if os.path.isfile(found := os.path.join(path, name)):
            return found
    raise CheckpointError([Problem(path, "sdmw_recipe.yaml, as sdmw writes it", "none")])
