"""Reads the report that stands in the output of a merge, of this schema or of the one before."""

import json
import os
from collections.abc import Mapping
from typing import Any

from sdmw import codec
from sdmw.errors import CheckpointError, Problem
from sdmw.methods import all_methods
from sdmw.methods.method import decision_type
from sdmw.planning.plan import Plan
from sdmw.reporting.report import REPORT, FilesReport, InputReport, LayerReport, ModelReport, Report, RunReport
from sdmw.running.driver import decide_model
from sdmw.running.job import Decisions
from sdmw.storage.files import read_bounded
from sdmw.version import __version__

LARGEST = 2**28  # bytes; a piece takes about a hundred


def read_report(folder: str) -> Report:
    """The report of a merge.

    Raises:
        CheckpointError: there is none, or none that this version reads; it says what is wrong and where.
    """
    where = os.path.join(folder, REPORT)
    data = _json(folder)
    try:
        if isinstance(data, dict) and "schema" not in data and "method" in data:
            return _of_schema_1(data, folder)
        if not isinstance(data, dict) or data.get("schema") != 2:
            found = (
                f"schema {data['schema']!r:.20}" if isinstance(data, dict) and "schema" in data else "something else"
            )
            raise CheckpointError([Problem(where, f"a report of sdmw {__version__}", found)])
        return codec.decode(Report, {**data, "path": folder})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"{type(error).__name__} {error}" if not isinstance(error, ValueError) else str(error)
        raise CheckpointError([Problem(where, "a report as sdmw leaves it", found)]) from None


def _json(folder: str) -> Any:
    where = os.path.join(folder, REPORT)
    try:
        return json.loads(read_bounded(folder, REPORT, LARGEST))
    except CheckpointError as error:
        found = error.problems[0].found
    except (ValueError, RecursionError) as error:
        found = f"not JSON: {error}"
    raise CheckpointError([Problem(where, "the report of a merge, as sdmw leaves it", found)])


def _of_schema_1(data: Mapping[str, Any], folder: str) -> Report:
    """A report of schema 1 in this one's shape. A decision is the layer as it stood: the method knows what it meant."""
    run = {name: data["run"][name] for name in RunReport.__slots__}
    return Report(
        schema=1,
        version=codec.decode(str, data["version"]),
        method=codec.decode(str, data["method"]),
        parameters={},
        seed=None,
        models=tuple(
            ModelReport(codec.decode(str, one["name"]), None, codec.decode(dict[str, Any], one))
            for one in data["models"]
        ),
        facts={"percentile": data["percentile"]["mode"], **{n: data["percentile"][n] for n in ("rank_error",)}},
        layers=tuple(
            LayerReport(
                codec.decode(str, layer["name"]),
                codec.decode(tuple[str, ...], layer["tensors"]),
                codec.decode(tuple[dict[str, Any], ...], layer["models"]),
                dict(layer),
            )
            for layer in data["layers"]
        ),
        pieces=codec.decode(
            tuple[tuple[str, int, int, str], ...],
            [[piece[name] for name in ("tensor", "start", "stop", "xxh3")] for piece in data["pieces"]],
        ),
        files=FilesReport({}, tuple(data["files"]["copied"]), dict(data["files"]["skipped"])),
        inputs=tuple(
            InputReport("", each["file"], codec.decode(int, each["size"]), codec.decode(str, each["header_hash"]), "")
            for each in data["inputs"]
        ),
        run=codec.decode(RunReport, run),
        missing={},
        extra={},
        warnings=codec.decode(tuple[str, ...], data["warnings"]),
        notes=codec.decode(tuple[str, ...], data["notes"]),
        path=folder,
    )


def decisions_of(report: Report, plan: Plan) -> Decisions:
    """The decisions that a report holds, for a plan of its recipe.

    Raises:
        CheckpointError: the report does not hold them.
    """
    method = all_methods()[plan.recipe.merge_method]
    where = os.path.join(report.path, REPORT)
    told, planned = [layer.name for layer in report.layers], [layer.name for layer in plan.layers]
    if report.method != method.name or told != planned:
        found = f"{report.method} with {len(told):,} others"
        raise CheckpointError([Problem(where, f"{method.name} with the {len(planned):,} layers of the recipe", found)])
    params = [plan.tensors[layer.tensors[0]].params for layer in plan.layers]
    try:
        if report.schema == 1:
            models = [model.facts for model in report.models]
            layers, model = method.decisions_of_schema_1(params, [layer.decision for layer in report.layers], models)
            return Decisions(tuple(layers), model if layers else None)
        kind = decision_type(method)
        layers = [codec.decode(kind, layer.decision) for layer in report.layers]
        return Decisions(tuple(layers), decide_model(plan, method, layers))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        found = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise CheckpointError([Problem(where, "decisions as sdmw leaves them", found)]) from None


def recipe_of(path: str) -> str:
    """The recipe that stands in a merged checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    for name in ("sdmw_recipe.yaml", "mergekit_config.yml"):
        if os.path.isfile(found := os.path.join(path, name)):
            return found
    raise CheckpointError([Problem(path, "sdmw_recipe.yaml, as sdmw leaves it", "none")])
