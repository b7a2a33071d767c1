"""What ends a run whose tasks are carried out by nobody."""

import multiprocessing
import os
import signal
import struct
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from sdmw.errors import LostWorkerError, Problem, StoppedError
from sdmw.running import pool, stuck_pool
from sdmw.running.pool import Pool, Task
from sdmw.running.stop import StopSignals
from sdmw.storage import remote


class Nobody(Executor):
    """Takes tasks and carries out none."""

    def submit(self, function, /, *arguments, **named):
        return Future()


def one_task(executor, signals):
    """Run a task; what is handed over after five seconds is too late."""
    given = []

    def next_task():
        return None if given else (given.append(0) or Task(time.time, (), given.append))

    with Pool(executor, 1, signals) as workers:
        late = threading.Timer(5, lambda: workers._ended.put(Future()))
        late.start()
        try:
            workers.run(next_task)
        finally:
            in_time = late.is_alive()
            late.cancel()
            assert in_time


def test_a_signal_ends_a_wait_whenever_it_comes(monkeypatch):
    """Also at the end of one look, with a handler that takes longer than is left of it."""
    note = StopSignals.note

    def slowly(self, signum):
        note(self, signum)
        time.sleep(2 * pool.SIGNAL_CHECK)

    monkeypatch.setattr(StopSignals, "note", slowly)
    soon = threading.Timer(1.5 * pool.SIGNAL_CHECK, lambda: os.kill(os.getpid(), signal.SIGTERM))
    soon.start()
    with StopSignals() as signals, pytest.raises(StoppedError):
        one_task(Nobody(), signals)


def test_an_executor_may_say_that_nobody_works():
    class Watched(Nobody):
        def check(self):
            raise LostWorkerError([Problem("executor", "", "nobody works")])

    with StopSignals() as signals, pytest.raises(LostWorkerError, match="nobody works"):
        one_task(Watched(), signals)


def test_an_executor_that_was_shut_down_is_no_lost_worker():
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with StopSignals() as signals, pytest.raises(LostWorkerError, match="executor: it takes no tasks: cannot schedule"):
        one_task(executor, signals)


def test_a_run_that_ends_waits_for_no_store_that_takes_no_more_requests():
    began = threading.Event()

    def busy():
        began.set()
        raise RuntimeError("Server returned non-2xx status code: 429 Too Many Requests")

    def fail():
        assert began.wait(60)
        raise ValueError("this one")

    tasks = iter([Task(remote.asked, (busy,), print), Task(fail, (), print)])
    start = time.monotonic()
    with Pool(None, 2, StopSignals()) as pool, pytest.raises(ValueError, match="this one"):
        pool.run(lambda: next(tasks, None))
    assert time.monotonic() - start < remote.PAUSE / 2


def half_a_result(once):
    """Die half-way through a result, as a worker does that is killed at the wrong moment; later calls succeed."""
    if os.path.exists(once):
        return "whole"
    open(once, "x").close()
    frame = sys._getframe()
    while "result_queue" not in frame.f_locals:
        frame = frame.f_back
    os.write(frame.f_locals["result_queue"]._writer.fileno(), struct.pack("!i", 1000) + b"half")
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_killed_while_it_sends_a_result_is_noticed(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(stuck_pool, "PATIENCE", 0.5)
    pools, results = [], []
    tasks = iter([Task(half_a_result, (str(tmp_path / "once"),), results.append)] * 4)

    def make():
        pools.append(ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")))
        return pools[-1]

    with StopSignals() as signals, Pool(make, workers, signals) as pool_of_processes:
        pool_of_processes.run(lambda: next(tasks, None))
    assert results == ["whole"] * 4
    assert len(pools) == 2


def test_a_worker_that_is_killed_while_it_sends_a_result_ends_the_run_of_a_callers_pool(tmp_path, monkeypatch):
    monkeypatch.setattr(stuck_pool, "PATIENCE", 0.5)
    tasks = iter([Task(half_a_result, (str(tmp_path / "once"),), print)])
    with (
        ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as given,
        StopSignals() as signals,
        Pool(given, 2, signals) as workers,
        pytest.raises(LostWorkerError, match="a worker was lost"),
    ):
        workers.run(lambda: next(tasks, None))
