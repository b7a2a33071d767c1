"""What `sdmw plan --bandwidth` predicts beside what a merge takes: threads, processes, dask; inputs cached and cold.

python benchmarks/predicted.py [--folder FOLDER] [--parameters N] [--workers 1,2,4] [--rounds N] [--kinds NAME ...]

Disks are measured before each merge, as `--bandwidth measured` does; of cached inputs reading takes nothing. The start
is left out. Cores are those that other programs left in the meantime. Afterwards what is predicted for 1 to 64 workers
and 1 to 8 disks, of the shapes of Llama 3 70B, where nothing can be measured here. Writes results/predicted.json.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import processes
import psutil
import scale
import simulation
import synthetic

import sdmw
from sdmw.planning.estimate import Bandwidth, Estimate
from sdmw.planning.plan import Plan
from sdmw.planning.timing import estimate
from sdmw.running import probe
from sdmw.running.events import Event, Planned, Progress, Published

CACHED = 10**13  # bytes a second: nothing is waited for
DISK = Bandwidth(3 * 10**9, 3 * 10**9)


class Walls:
    """Seconds of each phase of a merge, heard from its events."""

    def __init__(self) -> None:
        self.decide = self.write = self._began = 0.0

    def __call__(self, event: Event) -> None:
        """As of any receiver of events."""
        now = time.perf_counter()
        if isinstance(event, Planned):
            self._began = now
        elif isinstance(event, Progress) and event.stage == "measure":
            self.decide = now - self._began
        elif isinstance(event, Published):
            self.write = now - self._began - self.decide


class Cores:
    """How many cores other programs left to this process and its children, since it was made."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.perf_counter(), _busy(), _own()

    def left(self) -> float:
        """Cores, in the middle of the time."""
        wall = time.perf_counter() - self._began
        others = (_busy() - self._busy - (_own() - self._own)) / wall
        return max(0.1, len(os.sched_getaffinity(0)) - max(0.0, others))


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _own() -> float:
    own = psutil.Process()
    return float(sum(sum(each.cpu_times()[:2]) for each in (own, *own.children(recursive=True))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the synthetic models lie")
    parser.add_argument("--parameters", type=float, default=2.5e8)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", default=["threads", *scale.KINDS], choices=["threads", *scale.KINDS])
    arguments = parser.parse_args()
    print(processes.machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or temporary
        shapes = synthetic.decoder(int(arguments.parameters), vocabulary=8000)
        paths = synthetic.write_models(os.path.join(folder, "predicted"), shapes, 2)
        rows = list(compared(paths, folder, arguments))
        shares = list(scaled(simulation.write_headers(os.path.join(folder, "70b"), simulation.llama_70b(), 3)))
    processes.write_json("predicted", {"machine": processes.machine(), "rows": rows, "scaling": shares})


def compared(paths: list[str], folder: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each case with what it took, at least and in the middle, and what was predicted of it."""
    print(f"{'case':24} {'decide: took':>16} {'about':>6} {'write: took':>16} {'about':>6} {'ratio':>6} {'cores':>5}")
    for cold in (False, True):
        for kind in arguments.kinds:
            for workers in map(int, arguments.workers.split(",")):
                row = case(paths, folder, kind, workers, cold, arguments.rounds)
                about = row["about"]
                both = statistics.median(sum(each) for each in zip(row["decide"], row["write"], strict=True))
                row["ratio"] = both / (about["decide"] + about["write"])
                cells = (
                    f"{min(row[each]):8.2f},{statistics.median(row[each]):7.2f} {about[each]:6.2f}"
                    for each in ("decide", "write")
                )
                name = f"{'cold' if cold else 'cached'}, {kind}, {workers}"
                print(f"{name:24} {' '.join(cells)} {row['ratio']:6.2f} {row['cores']:5.1f}", flush=True)
                yield {"case": name, **row}


def case(paths: list[str], folder: str, kind: str, workers: int, cold: bool, rounds: int) -> dict[str, Any]:
    """Merges in turn, after one that is not counted, and an estimate with the disks as they were in between."""
    out, recipe = os.path.join(folder, "predicted-out"), synthetic.recipe(paths)
    taken: dict[str, list[float]] = {"decide": [], "write": []}
    rates, left = [], []
    with ExitStack() as stack:
        executor = stack.enter_context(scale.KINDS[kind](workers)) if kind in scale.KINDS else None
        planned = sdmw.plan(recipe, out, threads=workers, executor=executor)
        shards = [shard for checkpoint in planned.checkpoints for shard in checkpoint.shards]
        for number in range(rounds + 1):
            rates.append(probe.measured(shards, out, workers))
            (processes.drop_cache if cold else processes.fill_cache)(*paths)
            walls, cores = Walls(), Cores()
            sdmw.merge(
                recipe, out, threads=workers, executor=executor, progress=walls, overwrite=True, without=["page"]
            )
            left.append(cores.left())
            processes.remove(out)
            if number:
                taken["decide"].append(walls.decide)
                taken["write"].append(walls.write)
    rate = replace(
        rates[0],
        read=int(statistics.median(each.read for each in rates)) if cold else CACHED,
        write=int(statistics.median(each.write for each in rates)),
        slowness=statistics.median(each.slowness for each in rates),
    )
    found = estimated(planned, rate, workers, kind, statistics.median(left))
    about = {phase.name: phase.seconds for phase in found.phases}
    return {**taken, "about": about, "estimate": found.to_dict(), "read": rate.read, "write_rate": rate.write,
            "slowness": rate.slowness, "cores": statistics.median(left)}  # fmt: skip


def estimated(planned: Plan, rate: Bandwidth, workers: int, kind: Any, cores: float, disks: int = 1) -> Estimate:
    """On so many of these disks; what is read twice stays in the cache where it fits in 16 GiB."""
    rate = replace(rate, read=disks * rate.read, write=disks * rate.write)
    return estimate(planned, rate, workers, kind, 16 << 30, cores)


def scaled(paths: list[str]) -> Iterator[dict[str, Any]]:
    """Predictions of 1 to 64 workers and 1 to 8 disks: minutes, and what limits."""
    print(f"\n70 B, SDM-W of two fine-tunes, processes; disks of {DISK.read / 1e9:g} GB/s\n{'workers':>8}", end="")
    print("".join(f" {f'{disks} disks':>16}" for disks in (1, 2, 4, 8)))
    planned = sdmw.plan(synthetic.recipe(paths), budget="64GiB")
    for workers in (1, 2, 4, 8, 16, 32, 64):
        found = [estimated(planned, DISK, workers, "processes", workers, disks) for disks in (1, 2, 4, 8)]
        print(f"{workers:8}" + "".join(f" {each.seconds / 60:7.2f} {each.limit:>8}" for each in found), flush=True)
        for disks, each in zip((1, 2, 4, 8), found, strict=True):
            yield {"workers": workers, "disks": disks, "seconds": each.seconds, "limit": each.limit}


if __name__ == "__main__":
    main()
