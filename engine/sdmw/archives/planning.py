"""What packing a delta, or putting one on a model, takes, and what prevents it; from headers alone."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sdmw.archives import shards
from sdmw.archives.archive import ATTRIBUTES, Archive, Side, other_side
from sdmw.archives.arrays import FOLDERS
from sdmw.archives.runs import BLOCK
from sdmw.checkpoints.checkpoint import Checkpoint, input_folders, unmergeable
from sdmw.errors import Problem
from sdmw.methods import all_methods
from sdmw.planning import budget, memory
from sdmw.planning.beside import Beside
from sdmw.planning.budget import MiB, Tasks, with_stores
from sdmw.planning.build import Options, build
from sdmw.planning.check import check_alike
from sdmw.planning.inputs import Inputs
from sdmw.planning.limits import Limits
from sdmw.planning.plan import Plan
from sdmw.recipes.load import load
from sdmw.running.pool import AHEAD
from sdmw.storage.files import is_same
from sdmw.tensors.staging import resident_bytes
from sdmw.tensors.tensor import Tensor
from sdmw.writing.layout import ShardLayout, lay_out
from sdmw.writing.shard_writer import in_flight
from sdmw.writing.target import check_target, replaced

TILE = 8 * BLOCK  # elements of a task: 4 MiB at most in each of two models
ZARR = 44 * MiB  # measured: the packages that write and read archives, with all that they load when they are first used
SCRATCH = 4 * MiB  # of a worker, for what it computes of a block
TENSOR = 3072  # of one tensor: the states of two checksums, its line in the archive's attributes, their JSON
_ALONE = "Merge it into a model first, with a recipe of `merge_method: task_arithmetic`"


@dataclass(frozen=True, slots=True)
class PackingPlan:
    """All that packing will do, and what is wrong with it.

    Attributes:
        base, model: both checkpoints, with the same names, dtypes and shapes.
        k: percent of the nonzero deltas of each tensor that are left out; integers, BOOL and F64 are kept whole.
        thresholds: the plan of SDM-W that finds the thresholds, each tensor a layer; None where nothing is left out.
        threads: that compute.
        peak_bytes: bound on the resident memory of the process.
        problems: why it cannot run; empty where it can.
        warnings: on what is overwritten.
    """

    base: Checkpoint
    model: Checkpoint
    k: float
    thresholds: Plan | None = None
    threads: int = 1
    peak_bytes: int = 0
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RestoringPlan:
    """All that applying or reverting will do, and what is wrong with it.

    Attributes:
        checkpoint: the model of one side.
        archive: its attributes.
        side: which one the checkpoint is.
        shards: of the output, which is the other side.
        threads: that compute.
        peak_bytes: bound on the resident memory of the process.
        problems: why it cannot run; empty where it can.
        warnings: on what is overwritten.
    """

    checkpoint: Checkpoint
    archive: Archive
    side: Side
    shards: tuple[ShardLayout, ...]
    threads: int = 1
    peak_bytes: int = 0
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


def plan_packing(
    base: Checkpoint, model: Checkpoint, k: float, target: str, limits: Limits, *, overwrite: bool
) -> PackingPlan:
    """What there is to do, with every problem that headers, disk and memory can tell.

    Args:
        base: what the fine-tune was made from.
        model: the fine-tune.
        k: percent of the nonzero deltas that are left out.
        target: the directory to appear.
        limits: memory and threads.
        overwrite: a directory there may be replaced.
    """
    problems = [problem for checkpoint in (base, model) for problem in _unfit(checkpoint)]
    if not problems and is_same(base.path, model.path):
        problems.append(Problem(model.path, "a fine-tune", "the base itself", "Give two different models"))
    if not problems:
        like = {name: (info.dtype, info.shape) for name, info in base.tensors.items()}
        problems += check_alike(like, f"the base {base.path}", model)
    problems += check_target(target, input_folders([base, model]), 0, overwrite)
    warnings = tuple(replaced(target, {ATTRIBUTES, *(f"{name}/" for name in FOLDERS)})) if overwrite else ()
    plan = PackingPlan(base, model, k, problems=tuple(problems), warnings=warnings)
    return plan if problems else _fitted(plan, limits)


def plan_restoring(
    checkpoint: Checkpoint,
    archive: Archive,
    side: Side,
    max_shard_size: int,
    target: str,
    limits: Limits,
    *,
    overwrite: bool,
) -> RestoringPlan:
    """What there is to do, with every problem that headers, disk and memory can tell.

    Args:
        checkpoint: the model.
        archive: the archive.
        side: which side the model is meant to be.
        max_shard_size: bytes of tensors in a shard of the output.
        target: the directory to appear.
        limits: memory and threads.
        overwrite: a directory there may be replaced.
    """
    wanted = lay_out(((info.name, info.dtype, info.shape) for info in checkpoint.tensors.values()), max_shard_size)
    problems = _unfit(checkpoint)
    if not problems:
        like = {tensor.name: (tensor.dtype, tensor.shape) for tensor in archive.tensors}
        problems += check_alike(like, f"the archive {archive.path}", checkpoint)
    inputs = [*input_folders([checkpoint]), archive.path]
    size = sum(shard.size for shard in wanted)
    problems += check_target(target, inputs, size, overwrite)
    written = {*archive.shared, *archive.files[other_side(side)]}
    warnings = tuple(replaced(target, written)) if overwrite else ()
    plan = RestoringPlan(checkpoint, archive, side, wanted, problems=tuple(problems), warnings=warnings)
    if problems:
        return plan
    resident = memory.resident()
    tasks = with_stores(restoring_tasks(list(checkpoint.tensors.values()), resident), [checkpoint.path])
    found = limits.fit(tasks, resident)
    if isinstance(found, Problem):
        return replace(plan, problems=(found,))
    problems = memory.check_output(target, size, found.peak - resident)
    return replace(plan, threads=found.threads, peak_bytes=found.peak, problems=tuple(problems))


def packing_tasks(tensors: Sequence[Tensor], resident: int, counter: int = 0) -> Tasks:
    """What packing asks of memory.

    A thread maps a tile of both models. For each thread two tiles' results wait for their turn, each with both sides
    and what is kept; as much as is kept in them waits once more in chunks, before and after they are compressed.

    Args:
        tensors: of one model.
        resident: bytes that the process occupies.
        counter: bytes that each thread keeps of the search for thresholds.
    """
    sizes = _tile_sizes(tensors)
    return Tasks(
        loading=resident + budget.kernels_to_load().most,
        reserved=_reserved(tensors, resident),
        waiting=AHEAD * max((found_bytes(n, i) + n * (2 + i) for n, i in sizes), default=0) + counter,
        each=[2 * n * i + SCRATCH for n, i in sizes],
    )


def restoring_tasks(tensors: Sequence[Tensor], resident: int) -> Tasks:
    """What applying and reverting ask of memory.

    A thread maps a tile. For each thread two tiles are under way, each as it was, as it is, and with what the archive
    keeps of it. Some more are on their way to the disk.
    """
    sizes = _tile_sizes(tensors)
    tile, gaps = (max((resident_bytes(n * i) for n, i in each), default=0) for each in (sizes, [(TILE, 2)]))
    return Tasks(
        loading=resident + budget.kernels_to_load().most,
        reserved=_reserved(tensors, resident) + in_flight(1) * tile,
        waiting=AHEAD * (3 * tile + gaps),
        each=[n * i + SCRATCH for n, i in sizes],
    )


def tiles_of(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """First element and the one behind the last of each task's tile."""
    for start in range(0, tensor.elements, TILE):
        yield start, min(start + TILE, tensor.elements)


def found_bytes(elements: int, itemsize: int) -> int:
    """Bytes of memory for what is found of a tile: both sides, their exclusive or, gaps."""
    return resident_bytes(elements * (3 * itemsize + 2))


def _reserved(tensors: Sequence[Tensor], resident: int) -> int:
    """What is resident in any case: of each array a chunk that is begun or half read, and one under way beside it."""
    imported = 0 if "zarr" in sys.modules else ZARR
    chunks = 3 * shards.CHUNK * sum({4, 2, *(tensor.dtype.itemsize for tensor in tensors)})
    return resident + budget.kernels_to_load().stay + imported + chunks + TENSOR * len(tensors)


def _tile_sizes(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Elements and bytes an element of the largest tile of each tensor."""
    return [(min(TILE, tensor.elements), tensor.dtype.itemsize) for tensor in tensors]


def _fitted(plan: PackingPlan, limits: Limits) -> PackingPlan:
    """Threads within the budget, for packing and for the search for thresholds before it."""
    tensors, resident = list(plan.base.tensors.values()), memory.resident()
    found = limits.fit(with_stores(packing_tasks(tensors, resident), (plan.base.path, plan.model.path)), resident)
    if isinstance(found, Problem):
        return replace(plan, problems=(found,))
    if not plan.k or not any(tensor.dtype.merges for tensor in tensors):
        return replace(plan, threads=found.threads, peak_bytes=found.peak)
    allowed = limits.allowed(resident)
    thresholds = _plan_thresholds(plan, Limits(allowed, found.threads))
    if thresholds.problems:
        return replace(plan, problems=thresholds.problems)
    counter = budget.memory_of(all_methods()[thresholds.recipe.merge_method]).counter
    after = Limits(allowed, thresholds.threads).fit(packing_tasks(tensors, resident, counter), resident)
    if isinstance(after, Problem):
        return replace(plan, problems=(after,))
    peak = max(thresholds.peak_bytes, after.peak)
    return replace(plan, thresholds=thresholds, threads=after.threads, peak_bytes=peak)


def _plan_thresholds(plan: PackingPlan, limits: Limits) -> Plan:
    """The plan of SDM-W for one fine-tune, each tensor a layer of its own; it is measured and decided, not applied."""
    base, model = plan.base, plan.model
    recipe = load(
        {
            "merge_method": "sdm_w", "base_model": base.path, "models": [{"model": model.path}],
            "parameters": {"k": plan.k, "granularity": "tensor"}, "nonfinite": "pass",
        },
        all_methods(),
    )  # fmt: skip
    inputs = Inputs(base, {model.path: model}, ((base.path, base), (model.path, model)))
    options = Options(None, False, sys.maxsize, limits)
    return build(recipe, all_methods()[recipe.merge_method], inputs, Beside(), options)


def _unfit(checkpoint: Checkpoint) -> list[Problem]:
    if checkpoint.adapts is not None:
        return [Problem(checkpoint.path, "a complete model", "an adapter", _ALONE)]
    return unmergeable(checkpoint)
