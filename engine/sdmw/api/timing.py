"""How long a planned merge takes: what a call asks of `plan`, and the answer."""

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from sdmw.api.arguments import MOST_THREADS, Size
from sdmw.errors import Problem, UsageError, quoted
from sdmw.planning import memory
from sdmw.planning.estimate import Bandwidth, Kind
from sdmw.planning.plan import Plan
from sdmw.planning.timing import estimates
from sdmw.sizes import parse_size

MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call asks.

    Attributes:
        rate: bytes a second; None where it is to be measured.
        workers: numbers of workers beside the plan's own.
    """

    rate: int | None
    workers: tuple[int, ...]


def asked_of(bandwidth: Size | None, workers: Collection[int]) -> Asked | None:
    """What the arguments mean; None where they ask for nothing. UsageError where they cannot be."""
    if not isinstance(workers, Collection):
        raise UsageError([Problem("workers", "a list of numbers, such as [1, 8]", quoted(workers))])
    for each in workers:
        if type(each) is not int or not 1 <= each <= MOST_THREADS:
            raise UsageError([Problem("workers", f"whole numbers from 1 to {MOST_THREADS}", quoted(each))])
    if bandwidth is None:
        if workers:
            raise UsageError([Problem("workers", "a bandwidth as well", "none")])
        return None
    return Asked(None if bandwidth == MEASURED else _rate(bandwidth), tuple(dict.fromkeys(workers)))


def _rate(text: Size) -> int:
    """Bytes a second, also where that is said: `2GB/s`."""
    try:
        return parse_size(text.removesuffix("/s") if isinstance(text, str) else text, "bandwidth")
    except UsageError:
        expected, mend = "bytes a second, as a size, or `measured`", "Write for instance 2GB or measured"
        raise UsageError([Problem("bandwidth", expected, quoted(text), mend)]) from None


def with_estimates(planned: Plan, asked: Asked, executor: object) -> Plan:
    """The plan with its time.

    Args:
        planned: without problems.
        asked: by the caller.
        executor: as of `merge`.

    Raises:
        UsageError: the bandwidth is to be measured, and files lie in a store.
        RunError: measuring could not read or write.
    """
    bandwidth = _measured(planned) if asked.rate is None else Bandwidth(asked.rate, asked.rate)
    kind = _kind(executor)
    cores = len(os.sched_getaffinity(0))
    cache = 0 if kind == "dask" else max(0, memory.available() - planned.peak_bytes)
    found = estimates(planned, bandwidth, asked.workers, kind, cores, cache)
    return replace(planned, bandwidth=bandwidth, estimates=found)


def _measured(planned: Plan) -> Bandwidth:
    from sdmw.running.probe import measured

    shards = {shard.path: shard for checkpoint in planned.checkpoints for shard in checkpoint.shards}
    return measured(list(shards.values()), planned.target, planned.threads)


def _kind(executor: object) -> Kind:
    if executor is None or isinstance(executor, ThreadPoolExecutor):
        return "threads"
    return "dask" if hasattr(executor, "apart") else "processes"
