"""Holds a merged checkpoint against its report: every byte by checksum, sampled tiles computed anew from the inputs."""

import dataclasses
import json
import math
import os
import random
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats import open_tensor
from sdmw.errors import CheckpointError, InputChangedError, Problem, quoted
from sdmw.methods.method import LayerDecision, LayerShare, Method, ModelDecision
from sdmw.planning.plan import Plan
from sdmw.reporting.report import Report
from sdmw.running import work
from sdmw.statistics.percentile import NOTHING_KEPT, smallest_pattern_from
from sdmw.tensors.tensor import TensorInfo
from sdmw.version import __version__

ALL = 1  # the pattern that every nonzero magnitude reaches
READ = 1 << 22  # bytes read at once for a checksum


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at, and what is wrong.

    Attributes:
        path: the checkpoint.
        pieces: runs of tensors whose checksums were compared: all of them.
        nbytes: bytes of tensors in those.
        tiles: in the whole checkpoint.
        recomputed: tiles that were computed anew from the inputs and compared bit for bit.
        unseen: the chance that one wrong tile, whose checksum is right, is not among the recomputed.
        problems: empty where all is equal.
    """

    path: str
    pieces: int
    nbytes: int
    tiles: int
    recomputed: int
    unseen: float
    problems: list[Problem]

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return dataclasses.asdict(self)


def verify(
    out: Checkpoint, report: Mapping[str, Any], plan: Plan, method: Method, executor: Executor, sample: float
) -> Verification:
    """Compare structure, checksums and a sample.

    Args:
        out: the merged checkpoint.
        report: its report, as JSON holds it.
        plan: of the same recipe, made now.
        method: the recipe's.
        executor: of threads.
        sample: the share of tiles that is computed anew, above 0 to 1; at least one is.

    Raises:
        InputChangedError: an input is not the one that was merged.
        RunError: the data or the machine.
    """
    _check_inputs(plan, report)
    problems = list(_wrong_structure(out, plan))
    pieces = [(piece["tensor"], piece["start"], piece["stop"], piece["xxh3"]) for piece in report["pieces"]]
    nbytes = 0
    tiles = list(_tiles(plan))
    wanted = random.SystemRandom().sample(tiles, min(len(tiles), math.ceil(sample * len(tiles))))
    if not problems:
        infos = [out.tensors[name] for name, *_ in pieces]
        problems += _uncovered(pieces, out)
        nbytes = sum((stop - start) * out.tensors[name].dtype.itemsize for name, start, stop, _ in pieces)
        checks = (executor.submit(_checked, info, *where) for info, (_, *where) in zip(infos, pieces, strict=True))
        problems += [problem for check in list(checks) if (problem := check.result())]
        problems += _differing(out, report, plan, method, executor, wanted)
    unseen = 1 - len(wanted) / max(1, len(tiles))
    return Verification(out.path, len(pieces), nbytes, len(tiles), len(wanted), unseen, problems)


def _check_inputs(plan: Plan, report: Mapping[str, Any]) -> None:
    """By size and header: an input that was copied is the same one."""
    merged = sorted((each["size"], each["header_hash"]) for each in report["inputs"])
    found = sorted((shard.size, shard.header_hash) for c in plan.checkpoints for shard in c.shards)
    if merged != found:
        known = set(merged)
        raise InputChangedError(
            [
                Problem(shard.path, "the file that was merged", "another size or header", "Put the inputs back")
                for checkpoint in plan.checkpoints
                for shard in checkpoint.shards
                if (shard.size, shard.header_hash) not in known
            ]
            or [Problem("inputs", f"{len(merged)} files, as were merged", str(len(found)), "Put the inputs back")]
        )


def _wrong_structure(out: Checkpoint, plan: Plan) -> Iterator[Problem]:
    planned = {tensor.name: (tensor.output.dtype, tensor.output.shape) for tensor in plan.tensors}
    found = {name: (info.dtype, info.shape) for name, info in out.tensors.items()}
    for name in sorted(planned.keys() | found.keys()):
        if planned.get(name) != found.get(name):
            yield Problem(f"{out.path}: tensor {quoted(name)}", _said(planned.get(name)), _said(found.get(name)))


def _said(what: tuple[Any, tuple[int, ...]] | None) -> str:
    return f"{what[0].name} {list(what[1])}" if what else "none"


def _uncovered(pieces: list[tuple[str, int, int, str]], out: Checkpoint) -> Iterator[Problem]:
    """The report must vouch for every element."""
    covered: dict[str, int] = {}
    for name, start, stop, _ in sorted(pieces):
        if start == covered.get(name, 0):
            covered[name] = stop
    for name, info in out.tensors.items():
        if covered.get(name, 0) != info.elements:
            yield Problem(f"{out.path}: tensor {quoted(name)}", "checksums of all of it in the report", "a gap")


def _checked(info: TensorInfo, start: int, stop: int, checksum: str) -> Problem | None:
    source, found, step = open_tensor(info), xxhash.xxh3_128(), READ // info.dtype.itemsize
    for first in range(start, stop, step):
        last = min(first + step, stop)
        found.update(np.ascontiguousarray(source.tile(first, last)).data)
        source.release(first, last)
    if found.hexdigest() == checksum:
        return None
    where = f"{info.file}: tensor {quoted(info.name)}, elements {start} to {stop}"
    return Problem(where, f"checksum {checksum}", found.hexdigest(), "The file was changed, or the disk lies")


def _tiles(plan: Plan) -> Iterator[tuple[int, int, int]]:
    for number, tensor in enumerate(plan.tensors):
        size = plan.tile_of(number)
        for start in range(0, tensor.elements, size):
            yield number, start, min(start + size, tensor.elements)


def _differing(
    out: Checkpoint,
    report: Mapping[str, Any],
    plan: Plan,
    method: Method,
    executor: Executor,
    wanted: list[tuple[int, int, int]],
) -> list[Problem]:
    layers = [_decision(layer) for layer in report["layers"]]
    layer_of = {tensor: number for number, layer in enumerate(plan.layers) for tensor in layer.tensors}
    model = _model_decision(report, plan, method, layers)
    problems: list[Problem] = []
    lock = threading.Lock()

    def compute(number: int, start: int, stop: int) -> None:
        tensor = plan.tensors[number]
        span = work.Span(tensor, start, stop, stop - start, plan.recipe.nonfinite == "error")

        def compare(_shard: int, _offset: int, data: NDArray[Any]) -> None:
            if problem := _difference(out.tensors[tensor.name], start, stop, data):
                with lock:
                    problems.append(problem)

        if tensor.action == "merge":
            work.apply(span, method, layers[layer_of[number]], model, compare)
        else:
            (work.copy if tensor.action == "copy" else work.convert)(span, compare)

    for future in [executor.submit(compute, *tile) for tile in wanted]:
        future.result()
    return problems


def _difference(info: TensorInfo, start: int, stop: int, data: NDArray[Any]) -> Problem | None:
    source = open_tensor(info)
    found = source.tile(start, stop)
    size = info.dtype.itemsize
    unequal = (found.view(np.uint8) != data.view(np.uint8)).reshape(-1, size).any(axis=1)
    first = int(np.argmax(unequal))
    different, expected, here = bool(unequal[first]), data[first : first + 1], found[first : first + 1].copy()
    source.release(start, stop)
    if not different:
        return None
    where = f"{info.file}: tensor {quoted(info.name)}, element {start + first}"
    return Problem(where, f"bits {expected.tobytes()[::-1].hex()}", here.tobytes()[::-1].hex())


def _decision(layer: Mapping[str, Any]) -> LayerDecision:
    return tuple(
        LayerShare(share["threshold"], _pattern(share), share["nonzero"], share["kept"]) for share in layer["models"]
    )


def _pattern(share: Mapping[str, Any]) -> int:
    if share["threshold"] is not None:
        return smallest_pattern_from(share["threshold"])
    return ALL if share["nonzero"] is None else NOTHING_KEPT


def _model_decision(
    report: Mapping[str, Any], plan: Plan, method: Method, layers: list[LayerDecision]
) -> ModelDecision:
    if plan.passes == 1:
        params = next(tensor.params for tensor in plan.tensors if tensor.params is not None)
        return method.decide_model(params, layers)
    models = report["models"]
    taking = tuple(model["magnitude"] is None or model["magnitude"] > 0 for model in models)
    return ModelDecision(tuple(model["weight"] or 0.0 for model in models), taking)


def read_report(path: str) -> dict[str, Any]:
    """The report that stands in a merged checkpoint.

    Raises:
        CheckpointError: there is none, or none that this version reads.
    """
    where = os.path.join(path, "sdmw_report.json")
    try:
        with open(where, encoding="utf-8") as file:
            report = json.load(file)
    except (OSError, ValueError) as error:
        raise CheckpointError([Problem(where, "the report of a merge, as sdmw leaves it", str(error))]) from None
    fields = {field.name for field in dataclasses.fields(Report)}
    if not isinstance(report, dict) or fields - report.keys():
        found = "one of another version" if isinstance(report, dict) else "something else"
        raise CheckpointError([Problem(where, f"a report of sdmw {__version__}", found)])
    return report


def recipe_of(path: str) -> str:
    """The recipe that stands in a merged checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    for name in ("sdmw_recipe.yaml", "mergekit_config.yml"):
        if os.path.isfile(found := os.path.join(path, name)):
            return found
    raise CheckpointError([Problem(path, "sdmw_recipe.yaml, as sdmw leaves it", "none")])
