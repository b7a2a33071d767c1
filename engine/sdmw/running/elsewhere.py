"""What is particular about a task that runs in another process than the one that drives the merge."""

import threading
from collections.abc import Callable, Collection
from typing import TypeVar

from sdmw.kernels import ready
from sdmw.tensors import lost_pages
from sdmw.tensors.tile_memory import forget

R = TypeVar("R")

_lock = threading.Lock()
_run: str | None = None  # whose tasks this process has last carried out


def elsewhere(run: str, kernels: Collection[str], function: Callable[..., R], arguments: tuple[object, ...]) -> R:
    """Carry out a task in a process that was set up for its run.

    Args:
        run: tells runs apart: what is kept of the files of one may be wrong for another.
        kernels: groups that the run needs beside those that every run does.
        function: what to do.
        arguments: of the function.
    """
    _set_up(run, kernels)
    return function(*arguments)


def _set_up(run: str, kernels: Collection[str]) -> None:
    """Once for each run in a process: a lost page does not end the process, and nothing of another run is left."""
    global _run
    with _lock:
        if _run == run:
            return
        ready.prepare(lambda _: None, groups=kernels)
        lost_pages.guard_for_good()
        forget()
        _run = run
