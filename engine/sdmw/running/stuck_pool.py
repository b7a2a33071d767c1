"""Frees a pool of processes that waits for the rest of a result whose worker was killed.

Python's ProcessPoolExecutor reads all results from one pipe and holds the writing end of it open itself. If a worker is
killed half-way through a result, the pool waits for the other half, and none of its futures ever ends (CPython 3.11 to
3.14). What frees it is the end of the pipe: then it calls itself broken, as it does for any other killed worker.
"""

import time
from concurrent.futures import Executor
from contextlib import suppress

PATIENCE = 5.0  # seconds; a pool that is not stuck notices a dead worker at once


class StuckPool:
    """Asked again and again about an executor while none of its futures ends."""

    def __init__(self) -> None:
        self._since: float | None = None

    def free(self, executor: Executor) -> None:
        """Make a pool notice a worker that has been dead for some seconds; other executors are left alone."""
        from concurrent.futures.process import ProcessPoolExecutor
        from multiprocessing import connection

        if not isinstance(executor, ProcessPoolExecutor):
            return
        workers = list(dict(executor._processes or {}).values())  # a copy: the pool changes it in another thread
        if not connection.wait([worker.sentinel for worker in workers], 0):
            self._since = None
            return
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since < PATIENCE:
            return
        self._since = None
        for worker in workers:  # one that is alive holds the pipe open, or waits for the dead one's lock on it
            worker.kill()
        with suppress(AttributeError, OSError):  # another Python's names; closed already
            executor._result_queue._writer.close()  # type: ignore[attr-defined]
