"""Runs tasks on an executor, a few at a time; results are taken in the thread that drives the run."""

import pickle
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from queue import Empty, Queue
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, cast, runtime_checkable

from sdmw.errors import LostWorkerError, Problem
from sdmw.running.elsewhere import Raised, Setting, elsewhere, packed
from sdmw.running.stop import GivenUp, StopSignals
from sdmw.running.stuck_pool import StuckPool
from sdmw.storage import remote

AHEAD = 2  # tasks handed over for each worker: one that runs, one that waits
SIGNAL_CHECK = 0.1  # seconds
MOST_OPENED = 3  # times that an executor is made anew after it broke

LONGEST_REASON = 300  # characters of what an executor says
NOTHING_SET = Setting((), ())

ExecutorLike = Executor | Callable[[], Executor] | None

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Task(Generic[R]):
    """One call for an executor, and what to do with its result in the driving thread.

    Attributes:
        function: top-level, so that it reaches other processes by name.
        arguments: values.
        then: takes the result.
        here: it belongs to this process, whatever the executor is.
    """

    function: Callable[..., R]
    arguments: tuple[object, ...]
    then: Callable[[R], None]
    here: bool = False


@runtime_checkable
class Watched(Protocol):
    """An executor that knows whether anybody carries out its tasks."""

    def check(self) -> None:
        """Raise LostWorkerError where nobody has for long."""


class Pool:
    """Workers for the tasks of a run: threads, or what the caller gives. A context manager.

    An executor that the caller made stays the caller's: where it breaks, it is shut down, and the run ends with an
    error that can be resumed. One that the caller's function makes is shut down here, and made anew when a worker is
    lost: the tasks that it had are done again.

    Attributes:
        apart: tasks may run in other processes.
        given_up: set when the run ends early, so that workers of this process leave their tasks.
    """

    def __init__(
        self, executor: ExecutorLike, workers: int, signals: StopSignals, setting: Setting = NOTHING_SET
    ) -> None:
        self._workers, self._signals = workers, signals
        self._setting = pickle.dumps(setting, pickle.HIGHEST_PROTOCOL)
        self._make = None if isinstance(executor, Executor) else executor
        self._given = executor if isinstance(executor, Executor) else None
        self._opened = 0
        self._run = uuid.uuid4().hex
        self._own = ExitStack()
        self._here: ThreadPoolExecutor | None = None
        self.given_up = GivenUp()
        self.apart = executor is not None and not isinstance(executor, ThreadPoolExecutor)

    def __enter__(self) -> Self:
        self._executor = self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own.close()
        if self._here:
            self._here.shutdown()

    def run(self, next_task: Callable[[], Task[Any] | None]) -> None:
        """Run every task that `next_task` gives until it gives none, and take their results in the order they end.

        Raises:
            StoppedError: a signal came.
            LostWorkerError: the executor broke for good.
            Exception: what a task or taking its result raised; nothing is running any more, but on a cluster.
        """
        running: dict[Future[Any], Task[Any]] = {}
        again: deque[Task[Any]] = deque()
        stuck = StuckPool()
        # Not a SimpleQueue: a signal that comes when its time is nearly up lets it wait for ever (Python 3.11).
        self._ended: Queue[Future[Any]] = Queue()
        try:
            while True:
                while len(running) < AHEAD * self._workers and (task := again.popleft() if again else next_task()):
                    self._submit(task, running, again)
                if not running:
                    return
                ended = None
                with suppress(Empty):
                    ended = self._ended.get(timeout=SIGNAL_CHECK)
                self._signals.check()
                if isinstance(self._executor, Watched):
                    self._executor.check()
                if ended is None and self.apart:
                    stuck.free(self._executor)
                if ended:
                    self._take(ended, running, again)
        except BaseException:
            self.given_up.set()
            raise
        finally:
            # Those that are cancelled are not waited for: dask says so late, and of lost workers' tasks never.
            begun = [future for future in running if not future.cancel()]
            while wait(begun, SIGNAL_CHECK).not_done:
                remote.hurry()  # again and again: a task may come to wait for a server only now
                if self.apart:
                    stuck.free(self._executor)

    def _submit(self, task: Task[Any], running: dict[Future[Any], Task[Any]], again: deque[Task[Any]]) -> None:
        if task.here and self.apart:
            self._here = self._here or ThreadPoolExecutor(1, thread_name_prefix="sdmw-here")
            self._watch(self._here.submit(task.function, *task.arguments), task, running)
            return
        try:
            self._watch(self._submitted(task), task, running)
        except (BrokenExecutor, RuntimeError) as error:  # broken, or shut down by its owner
            again.append(task)
            self._renew(error, running, again)

    def _watch(self, future: Future[Any], task: Task[Any], running: dict[Future[Any], Task[Any]]) -> None:
        running[future] = task
        future.add_done_callback(self._ended.put)

    def _submitted(self, task: Task[R]) -> Future[R]:
        if self.apart:
            task_packed = packed(task.function, task.arguments)
            return cast("Future[R]", self._executor.submit(elsewhere, self._run, self._setting, task_packed))
        return self._executor.submit(task.function, *task.arguments)

    def _take(self, future: Future[Any], running: dict[Future[Any], Task[Any]], again: deque[Task[Any]]) -> None:
        task = running.pop(future, None)
        if task is None:  # its executor broke meanwhile, and it is done again
            return
        try:
            result = future.result()
        except BaseException as error:
            if not self._lost(task, error):
                raise
            again.append(task)
            self._renew(error, running, again)
            return
        if isinstance(result, Raised):
            raise result.error
        task.then(result)

    def _lost(self, task: Task[Any], error: BaseException) -> bool:
        """Whether it was not the task itself that failed: what that raises apart from here comes as a value."""
        from asyncio import CancelledError as CancelledOnLoop  # dask's; 15 ms that only a failure pays

        if isinstance(error, BrokenExecutor | CancelledError | CancelledOnLoop):
            return True
        return self.apart and not task.here and isinstance(error, Exception)

    def _renew(self, error: BaseException, running: dict[Future[Any], Task[Any]], again: deque[Task[Any]]) -> None:
        """Another executor in the place of one that broke; what that one had goes to it."""
        if self._make is None or self._opened > MOST_OPENED:
            if self._given and isinstance(error, BrokenExecutor):
                self._given.shutdown()  # what is left of its workers may still write
            reason = str(error)[:LONGEST_REASON] or type(error).__name__
            what = "it takes no tasks" if type(error) is RuntimeError else "a worker was lost"
            raise LostWorkerError([Problem("executor", "", f"{what}: {reason}")])
        lost = [future for future, task in running.items() if not task.here]
        again.extend(running.pop(future) for future in lost)
        self._own.close()
        self._executor = self._open()

    def _open(self) -> Executor:
        if self._given:
            return self._given
        self._opened += 1
        if self._make is None:
            return self._own.enter_context(ThreadPoolExecutor(self._workers, thread_name_prefix="sdmw"))
        return self._own.enter_context(self._make())
