"""How long a plan takes, by bytes, bandwidth and measured costs. What it leaves out is said in the README."""

import sys
from collections.abc import Callable, Iterable, Sequence

from sdmw.planning.costs import COPYING, COSTS, START, TASK, TILE, Costs
from sdmw.planning.estimate import Bandwidth, Estimate, Kind, Phase, PhaseName
from sdmw.planning.plan import TILES_IN_PIECE, Plan, TensorPlan

BUNDLE = 64  # tensors of at most 64 KiB that are one task
SMALL = 1 << 16  # bytes that are read of such a tensor
STILL_CACHED = 1 << 30  # bytes that were measured last, with which applying begins
APART = 256 << 20  # bytes that a task of another process reads to write: it costs the driver a while
TASKS = 16  # for each worker at least, so that none is left alone with much at the end


def estimates(
    plan: Plan, bandwidth: Bandwidth, others: Iterable[int], kind: Kind, cores: int, cache: int
) -> tuple[Estimate, ...]:
    """The time on the plan's own workers, and on other numbers of them, each with a core of its own.

    Args:
        plan: without problems.
        bandwidth: of the disks.
        others: numbers of workers.
        kind: threads of one process; processes; workers of a dask cluster.
        cores: of this machine, for threads and processes of the plan's own.
        cache: bytes that stay in the page cache from one pass to the next.
    """
    own = estimate(plan, bandwidth, plan.threads, kind, cache, plan.threads if kind == "dask" else cores)
    return own, *(estimate(plan, bandwidth, each, kind, cache) for each in others if each != plan.threads)


def estimate(
    plan: Plan, bandwidth: Bandwidth, workers: int, kind: Kind, cache: int, cores: float = sys.maxsize
) -> Estimate:
    """The time on a number of workers; arguments as of `estimates`."""
    own = COSTS.get(plan.recipe.merge_method)
    measured = [plan.tensors[index] for layer in plan.layers if layer.measured for index in layer.tensors]
    share = 1 - (plan.spared - plan.read_again) / plan.measured_bytes if plan.measured_bytes else 0.0
    read = share * plan.measured_bytes
    phases = []
    if measured and read:
        compute = _compute(measured, own, 0)
        phases.append(_phase(plan, "decide", measured, read, compute, bandwidth, workers, kind, cores, share))
    kept = (cache if plan.applied_bytes <= cache else min(cache, STILL_CACHED)) if read else 0
    left = max(0.0, plan.applied_bytes - kept)
    compute = _compute(plan.tensors, own, 1)
    phases.append(_phase(plan, "write", plan.tensors, left, compute, bandwidth, workers, kind, cores))
    return Estimate(workers, kind, START, tuple(phases))


def _phase(
    plan: Plan,
    name: PhaseName,
    tensors: Sequence[TensorPlan],
    read: float,
    compute: float | None,
    bandwidth: Bandwidth,
    workers: int,
    kind: Kind,
    cores: float,
    share: float = 1.0,
) -> Phase:
    """`share` is the part of the tensors that it goes through."""
    tiles = share * _count(tensors, lambda tensor: -(-tensor.elements // tensor.tile(plan.tile)))
    driver = share * TASK[kind] * tasks(plan, tensors, workers if kind == "threads" else None)
    if name == "write" and kind != "threads":
        driver = min(driver, TASK[kind] * plan.applied_bytes / read_apart(plan.applied_bytes, workers))
    in_workers = tiles * TILE * bandwidth.slowness
    return Phase(
        name,
        read=read / bandwidth.read,
        compute=None if compute is None else (share * compute * bandwidth.slowness + in_workers) / min(workers, cores),
        write=plan.bytes_written / bandwidth.write if name == "write" else 0.0,
        driver=driver * bandwidth.slowness + (in_workers if kind == "threads" else 0.0),
        shared=bandwidth.shared,
    )


def _compute(tensors: Iterable[TensorPlan], own: Costs | None, phase: int) -> float | None:
    """Processor seconds of kernels on one core."""
    copying = COSTS[COPYING]
    total = 0.0
    for tensor in tensors:
        costs = own if tensor.action == "merge" else copying
        if costs is None:
            return None
        total += sum(tensor.elements * each.cost.read * costs.of(each.dtype)[phase] for each in tensor.inputs)
    return total * 1e-9


def tasks(plan: Plan, tensors: Iterable[TensorPlan], threads: int | None) -> float:
    """How many tasks the driver hands over for one pass.

    Args:
        plan: that they are of.
        tensors: that are gone through.
        threads: that share pieces; None for workers that have each piece alone.
    """
    each = TILES_IN_PIECE if threads is None else shared_tiles(threads)

    def of(tensor: TensorPlan) -> float:
        if tensor.elements * tensor.read <= SMALL:
            return 1 / BUNDLE
        tiles = -(-tensor.elements // tensor.tile(plan.tile))
        return -(-tiles // each)

    return _count(tensors, of)


def read_apart(applied: int, workers: int) -> int:
    """Bytes that a task of another process reads where it writes, of all that applying reads."""
    return max(1, min(APART, applied // (TASKS * workers)))


def shared_tiles(threads: int) -> int:
    """How many tiles of a piece a thread takes for a task.

    Of many threads each takes several: with tasks of one tile the driver keeps some twenty of them busy.
    """
    return min(TILES_IN_PIECE // 2, max(1, threads // TILES_IN_PIECE))


def _count(tensors: Iterable[TensorPlan], of: Callable[[TensorPlan], float]) -> float:
    return sum(of(tensor) for tensor in tensors if tensor.elements)
