"""Builds the plan: what each tensor comes from, how layers group them, where they go, what memory it takes."""

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sdmw.checkpoints.checkpoint import input_folders
from sdmw.errors import CheckpointError, PlanError, Problem, quoted
from sdmw.linux import free
from sdmw.methods.method import Method, Values
from sdmw.planning import budget, memory
from sdmw.planning.check import check_inputs, tied_heads
from sdmw.planning.inputs import Inputs
from sdmw.planning.layers import component_of, depths, layer_of
from sdmw.planning.plan import LayerPlan, Plan, TensorPlan, output_dtype
from sdmw.planning.resolve import check_values, resolve
from sdmw.recipes.recipe import Recipe
from sdmw.tensors.low_rank import LowRankDelta, matrices
from sdmw.tensors.tensor import TensorInfo
from sdmw.writing.layout import ADAPTER, MODEL, ShardLayout, lay_out
from sdmw.writing.side_files import choose
from sdmw.writing.target import check_target


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller asks for beside the recipe.

    Attributes:
        target: the directory to appear; None where only a plan is wanted.
        overwrite: a directory there may be replaced.
        max_shard_size: bytes of tensors in a shard.
        budget: bytes that the process may occupy; None for the default.
        threads: that compute; None for one a core that the process may use.
    """

    target: str | None
    overwrite: bool
    max_shard_size: int
    budget: int | None
    threads: int | None


def build(recipe: Recipe, method: Method, inputs: Inputs, options: Options) -> Plan:
    """The plan, with every problem that headers, disk and memory can tell; no tensor data are touched."""
    problems = check_inputs(recipe, inputs.base, inputs.models)
    heads = tied_heads(inputs.base, inputs.models)
    wanted = [*_merged_and_copied(inputs), *_taken(recipe, inputs, {tied.head.name for tied in heads})]
    # Only float tensors are merged; what the method says of the others does not matter.
    merged = [part for part in wanted if part.action == "merge"]
    if not merged:
        problems.append(Problem(inputs.base.path, "tensors of F32, F16 or BF16 to merge", "none"))
    depth = depths(part.name for part in wanted)
    values = {part.name: resolve(recipe, method, part.name, depth[part.name]) for part in merged}
    layers = _layers(recipe, merged)
    problems += check_values(recipe, method, layers, values)
    params, objections = _params(method, values)
    problems += objections
    adapter = recipe.parameters.get("output") == "adapter"
    try:
        arranged = method.arrange([params[part.name] for part in merged], [part.inputs for part in merged])
        read = dict(zip((part.name for part in merged), arranged, strict=True))
        wanted = [replace(part, inputs=tuple(read.get(part.name, part.inputs))) for part in wanted]
        if adapter:
            wanted, heads, layers = list(_matrices(wanted)), [], {}
            params = {part.name: next(iter(params.values())) for part in wanted}
        shards = lay_out(
            ((part.name, output_dtype(recipe, part.like.kept_dtype), part.like.shape) for part in wanted),
            sys.maxsize if adapter else options.max_shard_size,
            ADAPTER if adapter else MODEL,
        )
    except PlanError as error:
        problems += error.problems
        shards = ()
    tensors = _placed(wanted, params, shards)
    try:
        copied, skipped = ([], []) if adapter else choose(inputs.base.path)
    except CheckpointError as error:
        problems += error.problems
        copied, skipped = [], []
    plan = Plan(
        recipe=recipe,
        models=tuple(inputs.models),
        base=inputs.base,
        checkpoints=inputs.checkpoints,
        tensors=tensors,
        layers=_numbered(method, layers, tensors),
        heads=tuple(heads),
        shards=shards,
        copied=tuple(copied),
        skipped=tuple(skipped),
        target=options.target,
        overwrite=options.overwrite,
        passes=2 if any(method.needs(p, {}) for p in set(params.values())) else 1,
        notes=recipe.notes,
        warnings=tuple(warning for checkpoint in inputs.checkpoints for warning in checkpoint.warnings),
    )
    return _fitted(_with_disk(replace(plan, problems=tuple(problems)), options), options)


@dataclass(frozen=True, slots=True)
class _Part:
    """A tensor of the output before its place is known; it is `like` one of the base in name, shape and dtype."""

    like: TensorInfo
    action: Any
    inputs: tuple[TensorInfo, ...]

    @property
    def name(self) -> str:
        return self.like.name


def _merged_and_copied(inputs: Inputs) -> Iterable[_Part]:
    """Every tensor of the base. Where a model lacks it, the base's stands in: no delta."""
    for name, info in inputs.base.tensors.items():
        models = tuple(checkpoint.tensors.get(name, info) for checkpoint in inputs.models.values())
        if not info.dtype.merges:
            yield _Part(info, "copy", (info, *(other for other in models if other is not info)))
        else:
            yield _Part(info, "merge", (info, *models))


def _matrices(parts: Iterable[_Part]) -> Iterable[_Part]:
    """The tensors of an adapter that holds the deltas of the parts."""
    for part in parts:
        for info in part.inputs[1:]:
            if isinstance(info, LowRankDelta):
                for matrix in matrices(info):
                    yield _Part(matrix, "convert", (matrix,))


def _taken(recipe: Recipe, inputs: Inputs, tied: set[str]) -> Iterable[_Part]:
    """Tensors that the base lacks, each from the first model that has it."""
    if recipe.extra != "take":
        return
    taken = set(inputs.base.tensors) | tied
    for checkpoint in inputs.models.values():
        for name, info in checkpoint.tensors.items():
            if name not in taken:
                taken.add(name)
                yield _Part(info, "convert" if info.dtype.merges else "copy", (info,))


def _layers(recipe: Recipe, merged: Iterable[_Part]) -> dict[str, list[str]]:
    granularity = recipe.parameters.get("granularity", "tensor")
    layers: dict[str, list[str]] = {}
    for part in merged:
        layers.setdefault(layer_of(part.name, str(granularity)), []).append(part.name)
    return layers


def _params(method: Method, values: Mapping[str, Values]) -> tuple[dict[str, Any], list[Problem]]:
    """The method's parameters of each tensor, equal ones shared, and what speaks against them."""
    shared: dict[Any, Any] = {}
    objections: dict[Any, Problem] = {}
    params = {}
    for name, resolved in values.items():
        own = method.params(resolved)
        if own not in shared:
            shared[own] = own
            if objection := method.objection(own):
                objections[own] = Problem(f"recipe: tensor {quoted(name)}", "", objection)
        params[name] = shared[own]
    return params, list(objections.values())


def _placed(wanted: list[_Part], params: Mapping[str, Any], shards: tuple[ShardLayout, ...]) -> tuple[TensorPlan, ...]:
    places = {info.name: (number, info) for number, shard in enumerate(shards) for info in shard.tensors}
    return tuple(
        TensorPlan(
            part.name, part.action, part.inputs, params.get(part.name), component_of(part.name), *places[part.name]
        )
        for part in wanted
        if part.name in places
    )


def _numbered(
    method: Method, layers: Mapping[str, list[str]], tensors: tuple[TensorPlan, ...]
) -> tuple[LayerPlan, ...]:
    numbers = {tensor.name: number for number, tensor in enumerate(tensors)}
    if not numbers:
        return ()
    return tuple(
        LayerPlan(
            layer,
            tuple(numbers[name] for name in names),
            measured=method.needs(tensors[numbers[names[0]]].params, {}) is not None,
        )
        for layer, names in layers.items()
    )


def _with_disk(plan: Plan, options: Options) -> Plan:
    """What the place of the output says: whether it may be written, and how much room it has."""
    parent = os.path.dirname(os.path.abspath(options.target)) if options.target else os.getcwd()
    problems = list(plan.problems)
    if options.target is not None:
        problems += check_target(options.target, input_folders(plan.checkpoints), plan.bytes_written, options.overwrite)
    room = free(parent) if os.path.isdir(parent) else 0
    return replace(plan, free_bytes=room, problems=tuple(problems))


def _fitted(plan: Plan, options: Options) -> Plan:
    """Threads and tile within the budget."""
    resident = memory.resident()
    components = max((len({plan.tensors[i].component for i in layer.tensors}) for layer in plan.layers), default=0)
    demand = budget.Demand(
        reserved=resident
        + budget.kernels_to_load()
        + budget.DECISION * len(plan.layers) * len(plan.models)
        + budget.PIECE * len(plan.tensors),
        element=max((sum(i.held_itemsize for i in (*t.inputs, t.output)) for t in plan.tensors), default=0),
        working=max((info.working_bytes for tensor in plan.tensors for info in tensor.inputs), default=0)
        + budget.EDGES * max((len(tensor.inputs) for tensor in plan.tensors), default=0),
        output=max((t.output.dtype.itemsize for t in plan.tensors), default=0),
        models=len(plan.models) if plan.passes > 1 else 0,
        components=components,
    )
    allowed = options.budget or budget.default_budget(resident, memory.available())
    threads = options.threads or len(os.sched_getaffinity(0))
    found = budget.fit(demand, allowed, threads)
    if isinstance(found, Problem):
        return replace(plan, problems=(*plan.problems, found))
    return replace(plan, threads=found.threads, tile=found.tile, peak_bytes=found.peak)
