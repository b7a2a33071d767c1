"""What a caller allows a run: memory and threads."""

import os
from dataclasses import dataclass

from sdmw.errors import Problem
from sdmw.planning import budget, memory
from sdmw.planning.budget import Tasks, Workers


@dataclass(frozen=True, slots=True)
class Apart:
    """The workers of a run that are processes of their own.

    Attributes:
        workers: number of processes.
        threads: of all of them together.
        most_threads: of one of them, at most.
        memory: bytes that the smallest of them may occupy; None where there is no limit.
    """

    workers: int
    threads: int
    most_threads: int
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Memory and threads that a run may take.

    Attributes:
        budget: bytes that the process may occupy; None for the default.
        threads: number of worker threads; None for one a core that the process may use.
        apart: where the workers are processes of their own, which the budget bounds each by itself; else None.
    """

    budget: int | None = None
    threads: int | None = None
    apart: Apart | None = None

    def allowed(self, resident: int, promised: int = 0) -> int:
        """Bytes that a process may occupy that has so many now; `promised` bytes of what is free are another's."""
        return self.budget or budget.default_budget(resident, max(0, memory.available() - promised))

    def most_threads(self) -> int:
        """Worker threads, where memory allows them."""
        return self.threads or (self.apart.threads if self.apart else len(os.sched_getaffinity(0)))

    def fit(self, tasks: Tasks, resident: int) -> Workers | Problem:
        """As many threads as these limits allow, for tasks in a process that occupies `resident` bytes.

        Tasks cannot be made smaller. Where nobody set a budget and the default is too small for a single thread, that
        may take half of what is free.
        """
        allowed = self.allowed(resident)
        if self.budget is None:
            allowed = max(allowed, min(tasks.peak(1), resident + memory.available() // 2))
        return budget.fit_threads(tasks, allowed, self.most_threads())
