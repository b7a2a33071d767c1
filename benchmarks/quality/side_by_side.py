"""Runs the study's pieces side by side, one thread each: what a piece gives does not depend on the others."""

import fcntl
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers.utils import logging

Piece = TypeVar("Piece", bound=tuple[Any, ...])
PROCESSES = os.cpu_count() or 1


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Keep other runs out of a folder of models.

    Raises:
        SystemExit: one is there.
    """
    home.mkdir(parents=True, exist_ok=True)
    with Path(home, "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"{home}: another run trains or scores models there; wait for its end") from None
        yield


def executor(processes: int) -> Executor:
    """New processes, which see nothing of this one's threads; for one piece at a time this process will do."""
    if processes == 1:
        return ThreadPoolExecutor(1, initializer=quietly)
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=quietly)


def quietly() -> None:
    """One thread, so that sums come out alike on any machine's number of cores, and no bars."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()


def run(needs: Mapping[Piece, Sequence[Piece]], call: Callable[[Piece], None], processes: int) -> None:
    """Call each piece after those that it needs; of those that could begin, the least first."""
    sorter = TopologicalSorter(needs)
    sorter.prepare()
    ready: list[Piece] = []
    under_way: dict[Future[None], Piece] = {}
    with executor(processes) as pool:
        while sorter.is_active():
            ready = sorted([*ready, *sorter.get_ready()])
            for piece in ready[: processes - len(under_way)]:
                under_way[pool.submit(call, piece)] = piece
                ready.remove(piece)
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                future.result()
                sorter.done(under_way.pop(future))
