"""Merges against the floor, interleaved in one run: median and minimum of paired ratios.

A merge is the whole process, from its start to its end, in which kernels are linked from the cache; the floor's is what
it takes to read and to write. Bytes read are those that the process fetched from the disk, by /proc/self/io, to those
that the passes need. Writes results/against_floor.json.

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
import json, resource, sys
import processes, sdmw
asked = json.loads(sys.argv[1])
def between(event):
    if asked["cold"] and getattr(event, "stage", "") == "measure" and event.done == event.total:
        processes.drop_cache(*asked["inputs"])
report = sdmw.merge(asked["recipe"], asked["out"], progress=between, threads=asked["threads"], resume=False)
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "again": report.run.bytes_read_again, "user_s": used.ru_utime, "system_s": used.ru_stime,
    "read": processes.bytes_read(), "alone_s": report.run.wall_s,
}))
"""


@dataclass(frozen=True)
class Case:
    """What is compared: a method, how often it reads, whether inputs are cached, the group's memory."""

    name: str
    method: str
    passes: int
    cold: bool
    memory: int | None = None
    threads: int = 2
    again: bool = True  # where inputs are cold, they are dropped before the second pass too


CASES = [
    Case("sdm_w, cold in each pass", "sdm_w", 2, cold=True),
    Case("sdm_w, inputs cached", "sdm_w", 2, cold=False),
    Case("linear, cold", "linear", 1, cold=True),
    Case("linear, inputs cached", "linear", 1, cold=False),
    Case("task_arithmetic, cold", "task_arithmetic", 1, cold=True),
    Case("task_arithmetic, inputs cached", "task_arithmetic", 1, cold=False),
    Case("sdm_w, 512 MiB control group", "sdm_w", 2, cold=True, memory=512 << 20),
    Case("the same, 8 threads", "sdm_w", 2, cold=True, memory=512 << 20, threads=8),
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
        heads = ("floor s", "sdmw s", "ratio", "CPU s", "system", "read", "again", "peak MB")
        print(f"{'case':32}" + "".join(f"{head:>13}" if n < 3 else f"{head:>8}" for n, head in enumerate(heads)))
        print(f"{'':32}" + f"{'min  median':>13}" * 3)
        rows = [measure(case, paths, folder, way, arguments.rounds) for case in CASES if arguments.only in case.name]
    processes.write_json("against_floor", {"machine": processes.machine(), "way": way, "rows": rows})


def measure(case: Case, paths: list[str], folder: str, way: str, rounds: int) -> dict[str, Any]:
    """Floor and merge in turn; each pair has its ratio."""
    inputs = paths if case.method != "linear" else paths[1:]
    out = os.path.join(folder, "against-floor")
    needed = case.passes * sum(os.path.getsize(file) for path in inputs for file in shards(path))
    floors, merges = [], []
    for number in range(rounds + 1):
        floor = run_floor(case, inputs, out, way)
        merge = run_merge(case, paths, inputs, out)
        if number:  # the first pair warms kernels' caches and the disk's
            floors.append(floor)
            merges.append(merge)
    walls = [merge["wall_s"] for merge in merges]
    ratios = [wall / floor for wall, floor in zip(walls, floors, strict=True)]
    middle = {name: statistics.median(merge[name] for merge in merges) for name in merges[0]}
    cpu, read = middle["user_s"] + middle["system_s"], middle["read"] / needed if case.cold else 0.0
    peak = max(merge["peak_rss"] for merge in merges)
    pairs = "".join(f"{min(each):6.2f} {statistics.median(each):6.2f}" for each in (floors, walls, ratios))
    again = middle["again"] / 1e9
    print(
        f"{case.name:32}{pairs}{cpu:8.2f}{middle['system_s']:8.2f}{read:8.3f}{again:7.2f}G{peak / 1e6:8.0f}", flush=True
    )
    return {"case": case.name, "floor_s": floors, "ratios": ratios, "merges": merges, "read_ratio": read}


def shards(folder: str) -> list[str]:
    """Of a model."""
    return [file.path for file in os.scandir(folder) if file.name.endswith(".safetensors")]


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
    size = sum(map(os.path.getsize, shards(inputs[0])))
    asked = {
        "inputs": inputs,
        "passes": case.passes,
        "bytes": size,
        "out": f"{out}.floor",
        "way": way,
        "threads": case.threads,
        "cold": case.cold and case.again,
    }
    program = os.path.join(os.path.dirname(__file__), "floor.py")
    measured = processes.run([sys.executable, program, json.dumps(asked)], memory=case.memory)
    os.remove(f"{out}.floor")
    return float(measured.output.split()[-1])


def run_merge(case: Case, paths: list[str], inputs: list[str], out: str) -> dict[str, float]:
    """What a merge took: seconds, bytes read, and peak memory."""
    prepare(case, inputs)
    processes.remove(out)  # of a run that was interrupted
    asked = {"recipe": recipe(case, paths), "out": out, "cold": case.cold, "inputs": inputs, "threads": case.threads}
    environment = {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])}
    measured = processes.run(
        [sys.executable, "-c", MERGE, json.dumps(asked)], memory=case.memory, environment=environment
    )
    processes.remove(out)
    if measured.returncode:
        raise RuntimeError(measured.output[-2000:])
    return {**json.loads(measured.output.splitlines()[-1]), "wall_s": measured.wall_s, "peak_rss": measured.peak_rss}


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
