"""A dask cluster as a function that makes executors. Placement, retries, scaling, dashboards: all stays dask's."""

import importlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from sdmw.errors import LostWorkerError, MissingExtraError, Problem, quoted
from sdmw.planning.limits import Apart

R = TypeVar("R")

PATIENCE = 10.0  # seconds for a scheduler to answer
LONGEST_REASON = 300  # characters of what dask says
ALONE = 300.0  # seconds for which a scheduler may be without workers before a run ends
_LOOK = 2.0  # seconds between two looks at the workers


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
        return _Connected(_client(self.address), self.address)


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
        raise LostWorkerError([Problem(quoted(address), "a scheduler with workers", "one without workers", mend)])
    limits = [each["memory_limit"] for each in workers if each["memory_limit"]]
    threads = [each["nthreads"] for each in workers]
    return DaskCluster(address, Apart(len(threads), sum(threads), max(threads), min(limits, default=None)))


class _Connected(Executor):
    """An executor with the connection that it owns."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._executor, self._address = client, client.get_executor(pure=False), address
        self._seen = time.monotonic()  # when there were workers last
        self._closed = threading.Event()
        threading.Thread(target=self._look, daemon=True, name="sdmw-dask").start()

    def submit(self, function: Callable[..., R], /, *arguments: Any, **named: Any) -> Future[R]:
        """As of any executor."""
        future: Future[R] = self._executor.submit(function, *arguments, **named)
        return future

    def check(self) -> None:
        """LostWorkerError where there have been no workers for long: dask itself would wait for ever."""
        if time.monotonic() - self._seen > ALONE:
            found = f"a scheduler that has had no workers for {ALONE:.0f} seconds"
            mend = "Start workers (dask worker ADDRESS) and run the same command: it goes on"
            raise LostWorkerError([Problem(quoted(self._address), "workers", found, mend)])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Disconnects; nothing is waited for: a task that nobody carries out would never end.

        What has begun may go on: it belongs to a run that has ended, and is known by that.
        """
        self._closed.set()
        self._executor.shutdown(wait=False)
        self._client.close()

    def _look(self) -> None:
        while not self._closed.wait(_LOOK):
            with suppress(Exception):  # a scheduler that does not answer is found by its tasks
                if self._client.scheduler_info(n_workers=1)["workers"]:
                    self._seen = time.monotonic()


def _client(address: str) -> Any:
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        found = "dask.distributed is needed but not installed"
        raise MissingExtraError([Problem(quoted(address), "", found, "pip install 'sdmw[dask]'")]) from None
    mend = "Start one (dask scheduler), or correct the address, as in tcp://10.0.0.1:8786"
    if "@" in address:  # what dask says of it would repeat it
        raise LostWorkerError(
            [Problem(quoted(address), "the address of a scheduler", "an address with a user name", mend)]
        )
    try:
        return distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except MemoryError:  # it took the beginning of some other answer for a size
        raise LostWorkerError([Problem(quoted(address), "a scheduler", "a server of another kind", mend)]) from None
    except Exception as error:  # tls:// wants dask to be set up, say
        found = f"no scheduler answers: {(str(error) or type(error).__name__)[:LONGEST_REASON]}"
        raise LostWorkerError([Problem(quoted(address), "", found, mend)]) from None
