"""How a merge scales with workers: threads, processes and a dask cluster on loopback, strong and weak; what travels.

python benchmarks/scale.py [--folder FOLDER] [--parameters N] [--workers 1,2,4] [--rounds N]

Strong: one model, more workers. Weak: as many parameters for each worker. Workers have one thread each and are there
before the first merge, which is not measured. Inputs are cached. Writes results/scale.json.
"""

import argparse
import multiprocessing
import os
import pickle
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import processes
import synthetic

import sdmw

Row = dict[str, Any]


class Counted(Executor):
    """An executor and what travels to and from it.

    Attributes:
        tasks: number of tasks.
        sent, received: bytes of arguments, and of results.
    """

    def __init__(self, real: Executor) -> None:
        self._real, self._lock = real, threading.Lock()
        self.tasks = self.sent = self.received = 0

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """As of any executor."""
        self.tasks += 1
        self.sent += sum(len(each) for each in arguments)  # texts and bytes, as the pool hands them over
        future = self._real.submit(function, *arguments, **named)
        future.add_done_callback(self._count)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """The real one is shut down by its owner."""

    def _count(self, future: Future[Any]) -> None:
        if not future.cancelled() and future.exception() is None:
            with self._lock:
                self.received += len(pickle.dumps(future.result(), pickle.HIGHEST_PROTOCOL))


@contextmanager
def by_processes(workers: int) -> Iterator[Executor]:
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@contextmanager
def by_dask(workers: int) -> Iterator[Executor]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        yield client.get_executor(pure=False)


KINDS = {"processes": by_processes, "dask": by_dask}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the synthetic models lie")
    parser.add_argument("--parameters", type=float, default=1e8, help="of the model; weak: for each worker")
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    counts = [int(each) for each in arguments.workers.split(",")]
    print(processes.machine())
    print(f"{'case':26} {'min s':>6} {'median':>6} {'driver cpu':>10} {'tasks':>6} {'sent MB':>8} {'got MB':>7}")
    with tempfile.TemporaryDirectory() as temporary:
        folder, rows = arguments.folder or temporary, []
        for kind in ("strong", "weak"):
            for workers in counts:
                size = int(arguments.parameters) * (workers if kind == "weak" else 1)
                paths = synthetic.write_models(
                    os.path.join(folder, f"scale-{size}"), synthetic.decoder(size, vocabulary=8000), 2
                )
                for name in ("threads", *KINDS):
                    row = measured(name, workers, synthetic.recipe(paths), folder, arguments.rounds)
                    rows.append({"scaling": kind, "parameters": size, **row})
                    show(f"{kind}, {name}, {workers}", row)
    processes.write_json("scale", {"machine": processes.machine(), "rows": rows})


def measured(kind: str, workers: int, recipe: dict[str, Any], folder: str, rounds: int) -> Row:
    """Merges on so many workers of a kind, after one that is not counted."""
    out = os.path.join(folder, "scaled")
    processes.fill_cache(recipe["base_model"], *(entry["model"] for entry in recipe["models"]))
    seconds, driver = [], []
    counted = None
    with ExitStack() as stack:
        real = stack.enter_context(KINDS[kind](workers)) if kind in KINDS else None
        for number in range(rounds + 1):
            counted = None if real is None else Counted(real)
            start, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
            sdmw.merge(recipe, out, threads=workers, executor=counted, progress=False, overwrite=True, without=["page"])
            if number:
                after = resource.getrusage(resource.RUSAGE_SELF)
                seconds.append(time.perf_counter() - start)
                driver.append(after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime)
            processes.remove(out)
    travelled = {} if counted is None else {"tasks": counted.tasks, "sent": counted.sent, "received": counted.received}
    return {"kind": kind, "workers": workers, "all_s": seconds, "driver_cpu_s": statistics.median(driver), **travelled}


def show(name: str, row: Row) -> None:
    travelled = ""
    if "tasks" in row:
        travelled = f"{row['tasks']:6} {row['sent'] / 1e6:8.2f} {row['received'] / 1e6:7.2f}"
    seconds = row["all_s"]
    print(
        f"{name:26} {min(seconds):6.2f} {statistics.median(seconds):6.2f} {row['driver_cpu_s']:10.2f} {travelled}",
        flush=True,
    )


if __name__ == "__main__":
    main()
