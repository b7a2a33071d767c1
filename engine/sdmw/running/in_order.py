"""Tasks whose results are taken in the order of the tasks, whatever the order in which they end."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from sdmw.running.pool import Task


class InOrder:
    """Gives a pool tasks, and takes their results one after the other. Only the driving thread may use it.

    Results that come too early wait. At most `most` tasks are under way or wait, so memory is bounded; the one whose
    turn it is was handed over before all of those that wait for it, so there is always one to go on with.
    """

    def __init__(self, next_task: Callable[[], Task[Any] | None], most: int) -> None:
        self._next, self._most = next_task, most
        self._waiting: dict[int, tuple[Task[Any], Any]] = {}
        self._given = self._taken = 0

    def next_task(self) -> Task[Any] | None:
        """The next task; None where there is none now, though results to come may bring some."""
        if self._given - self._taken >= self._most or not (task := self._next()):
            return None
        number, self._given = self._given, self._given + 1
        return replace(task, then=partial(self._take, number, task))

    def _take(self, number: int, task: Task[Any], result: Any) -> None:
        self._waiting[number] = task, result
        del result  # held by nobody else once it is taken
        while self._taken in self._waiting:
            task, found = self._waiting.pop(self._taken)
            self._taken += 1
            task.then(found)
            del found
