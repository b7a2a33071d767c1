"""A dask cluster as a function that makes executors. Placement, retries, scaling, dashboards: all stays dask's."""

import importlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, TypeVar

from sdmw.errors import LostWorkerError, MissingExtraError, Problem, quoted
from sdmw.planning.limits import Apart

R = TypeVar("R")

PATIENCE = 10.0  # seconds for a scheduler to answer


@dataclass(frozen=True, slots=True)
class DaskCluster:
    """What `executor=` takes: called, it connects to the scheduler and gives an executor.

    Attributes:
        address: of the scheduler, such as `tcp://10.0.0.1:8786`.
        apart: its workers, as they were when it was looked at.
    """

    address: str
    apart: Apart

    def __call__(self) -> Executor:
        """An executor, which disconnects when it is shut down; LostWorkerError where no scheduler answers."""
        return _Connected(_client(self.address))


def look_at(address: str) -> DaskCluster:
    """The cluster whose scheduler has this address.

    Raises:
        MissingExtraError: dask.distributed is not installed.
        LostWorkerError: no scheduler answers, or it has no workers.
    """
    client = _client(address)
    try:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
    finally:
        client.close()
    if not workers:
        mend = "Start one for each machine: dask worker ADDRESS"
        raise LostWorkerError([Problem(quoted(address), "a scheduler with workers", "one without", mend)])
    limits = [each["memory_limit"] for each in workers if each["memory_limit"]]
    threads = [each["nthreads"] for each in workers]
    return DaskCluster(address, Apart(len(threads), sum(threads), max(threads), min(limits, default=None)))


class _Connected(Executor):
    """An executor with the connection that it owns."""

    def __init__(self, client: Any) -> None:
        self._client, self._executor = client, client.get_executor(pure=False)

    def submit(self, function: Callable[..., R], /, *arguments: Any, **named: Any) -> Future[R]:
        """As of any executor."""
        future: Future[R] = self._executor.submit(function, *arguments, **named)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Disconnects; tasks that have not begun are dropped by the scheduler."""
        self._executor.shutdown(wait and not cancel_futures)
        self._client.close()


def _client(address: str) -> Any:
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        found = "dask.distributed is needed and not installed"
        raise MissingExtraError([Problem(quoted(address), "", found, "pip install 'sdmw[dask]'")]) from None
    try:
        return distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        found = f"no scheduler answers: {str(error) or type(error).__name__}"
        mend = "Start one (dask scheduler), or correct the address, as in tcp://10.0.0.1:8786"
        raise LostWorkerError([Problem(quoted(address), "", found, mend)]) from None
