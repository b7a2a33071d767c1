"""Merges against the floor, interleaved in one run: median and minimum of paired ratios.

Writes results/against_floor.json.

python benchmarks/against_floor.py [--folder FOLDER] [--parameters N] [--rounds N]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

import processes
import synthetic

MERGE = """
import json, sys, time
import processes, sdmw
asked = json.loads(sys.argv[1])
def between(event):
    if asked["cold"] and getattr(event, "stage", "") == "measure" and event.done == event.total:
        processes.drop_cache(*asked["inputs"])
sdmw.merge(asked["small"], asked["out"], progress=False)  # loads the kernels: the floor's start is not counted either
processes.remove(asked["out"])
began = time.perf_counter()
report = sdmw.merge(asked["recipe"], asked["out"], progress=between, threads=asked["threads"], resume=False)
print(json.dumps([time.perf_counter() - began, report.run.bytes_read_again]))
"""


@dataclass(frozen=True)
class Case:
    """What is compared: a method, how often it reads, whether inputs are cached, the group's memory."""

    name: str
    method: str
    passes: int
    cold: bool
    memory: int | None = None
    again: bool = True  # where inputs are cold, they are dropped before the second pass too


CASES = [
    Case("sdm_w, cold in each pass", "sdm_w", 2, cold=True),
    Case("sdm_w, inputs cached", "sdm_w", 2, cold=False),
    Case("linear, cold", "linear", 1, cold=True),
    Case("linear, inputs cached", "linear", 1, cold=False),
    Case("task_arithmetic, cold", "task_arithmetic", 1, cold=True),
    Case("task_arithmetic, inputs cached", "task_arithmetic", 1, cold=False),
    Case("sdm_w, 512 MiB control group", "sdm_w", 2, cold=True, memory=512 << 20),
    Case("sdm_w, 256 MiB control group", "sdm_w", 2, cold=True, memory=256 << 20),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the synthetic models lie; kept if given")
    parser.add_argument("--parameters", type=float, default=1.1e9)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or temporary
        shapes = synthetic.decoder(int(arguments.parameters))
        paths = synthetic.write_models(os.path.join(folder, "decoder"), shapes, 2)
        way = fastest(paths, folder)
        print(processes.machine())
        print(f"the floor writes {way}, in which it is faster here")
        print(f"{'case':34} {'floor s':>15} {'sdmw s':>15} {'ratio':>13} {'again':>7} {'peak MB':>8}")
        print(f"{'':34} {'min':>7} {'median':>7} {'min':>7} {'median':>7} {'min':>6} {'median':>6}")
        rows = [measure(case, paths, folder, way, arguments.rounds) for case in CASES if arguments.only in case.name]
    processes.write_json("against_floor", {"machine": processes.machine(), "way": way, "rows": rows})


def measure(case: Case, paths: list[str], folder: str, way: str, rounds: int) -> dict[str, Any]:
    """Floor and merge in turn; each pair has its ratio."""
    inputs = paths if case.method != "linear" else paths[1:]
    out = os.path.join(folder, "against-floor")
    floors, merges, again, peak = [], [], 0, 0
    for number in range(rounds + 1):
        floor = run_floor(case, inputs, out, way)
        seconds, again, peak = run_merge(case, paths, inputs, out)
        if number:  # the first pair warms kernels' caches and the disk's
            floors.append(floor)
            merges.append(seconds)
    ratios = [merge / floor for merge, floor in zip(merges, floors, strict=True)]
    print(
        f"{case.name:34} {min(floors):7.2f} {statistics.median(floors):7.2f} {min(merges):7.2f} "
        f"{statistics.median(merges):7.2f} {min(ratios):6.2f} {statistics.median(ratios):6.2f} {again / 1e9:6.2f}G "
        f"{peak / 1e6:8.0f}",
        flush=True,
    )
    return {"case": case.name, "floor_s": floors, "sdmw_s": merges, "ratios": ratios, "again": again, "peak_rss": peak}


def fastest(paths: list[str], folder: str) -> str:
    """The way of writing in which the floor is faster: of a cold pass, by the smaller of two runs in turn."""
    case = Case("", "linear", 1, cold=True)
    taken: dict[str, list[float]] = {"streamed": [], "direct": []}
    for _ in range(2):
        for way, seconds in taken.items():
            seconds.append(run_floor(case, paths, os.path.join(folder, "against-floor"), way))
    return min(taken, key=lambda way: min(taken[way]))


def run_floor(case: Case, inputs: list[str], out: str, way: str) -> float:
    """Seconds of the floor."""
    prepare(case, inputs)
    size = sum(os.path.getsize(file.path) for file in os.scandir(inputs[0]) if file.name.endswith(".safetensors"))
    asked = {
        "inputs": inputs,
        "passes": case.passes,
        "bytes": size,
        "out": f"{out}.floor",
        "way": way,
        "threads": 2,
        "cold": case.cold and case.again,
    }
    program = os.path.join(os.path.dirname(__file__), "floor.py")
    measured = processes.run([sys.executable, program, json.dumps(asked)], memory=case.memory)
    os.remove(f"{out}.floor")
    return float(measured.output.split()[-1])


def run_merge(case: Case, paths: list[str], inputs: list[str], out: str) -> tuple[float, int, int]:
    """Seconds of a merge, bytes read again, peak memory."""
    prepare(case, inputs)
    small = synthetic.write_models(os.path.join(os.path.dirname(out), "small"), {"model.layers.0.w": (64, 64)}, 2)
    recipes = {"recipe": recipe(case, paths), "small": recipe(case, small)}
    processes.remove(out)  # of a run that was interrupted
    asked = {**recipes, "out": out, "cold": case.cold, "inputs": inputs, "threads": 2}
    environment = {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])}
    measured = processes.run(
        [sys.executable, "-c", MERGE, json.dumps(asked)], memory=case.memory, environment=environment
    )
    processes.remove(out)
    if measured.returncode:
        raise RuntimeError(measured.output[-2000:])
    seconds, again = json.loads(measured.output.splitlines()[-1])
    return seconds, again, measured.peak_rss


def recipe(case: Case, paths: list[str]) -> dict[str, Any]:
    """What is merged; `linear` reads no base."""
    return {**synthetic.recipe(paths, case.method), **({"base_model": paths[1]} if case.method == "linear" else {})}


def prepare(case: Case, inputs: list[str]) -> None:
    """Inputs cached or forgotten."""
    if case.cold:
        processes.drop_cache(*inputs)
    else:
        processes.fill_cache(*inputs)


if __name__ == "__main__":
    main()
