"""Processor time that each method takes, for each byte that it reads: what `sdmw plan --bandwidth` reckons with.

python benchmarks/costs.py [--folder FOLDER] [--parameters N] [--rounds N] [--methods NAME ...]

Merges on one thread in this process, inputs cached, after one that is not counted. Of a stage it is the process's
time between two events, those of the threads that write included; of many small tensors the same for each, and of tiles
what is left when bytes are taken off. Prints the table of `sdmw.planning.costs` and writes results/costs.json.
"""

import argparse
import os
import tempfile
import time
from typing import Any

import processes
import synthetic
from against_mergekit import METHODS, WITHOUT_BASE

import sdmw
from sdmw.planning import budget
from sdmw.running.events import Event, Planned, Progress, Published

ALL = {"sdm_w": ({}, {}, 2), **METHODS}
DTYPES = ("BF16", "F16", "F32")
SMALL = 5_000  # tensors
OF_SMALL = 1_000  # elements
SHORT = 1 << 14  # elements of a tile that costs Python more than arithmetic


class Stages:
    """Processor seconds of each stage of a merge, heard from its events."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """As of any receiver of events."""
        if isinstance(event, Planned | Progress | Published):
            self._at[event.stage if isinstance(event, Progress) else type(event).__name__] = time.process_time()

    @property
    def seconds(self) -> tuple[float, float]:
        """Of measuring and of applying."""
        began = self._at["Planned"]
        decided = self._at.get("measure", began)
        return decided - began, self._at["apply"] - decided


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the synthetic models lie")
    parser.add_argument("--parameters", type=float, default=1e8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(ALL), choices=list(ALL))
    arguments = parser.parse_args()
    print(processes.machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or temporary
        rows = of_methods(folder, arguments) + of_python(folder, arguments.rounds)
    processes.write_json("costs", {"machine": processes.machine(), "rows": rows})


def of_methods(folder: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Ns for each byte that a stage reads; `again` is the share of what measuring reads that further looks read."""
    shapes = synthetic.decoder(int(arguments.parameters), vocabulary=8000)
    paths = {
        dtype: synthetic.write_models(os.path.join(folder, f"costs-{dtype}"), shapes, 2, dtype) for dtype in DTYPES
    }
    rows = []
    for method in arguments.methods:
        for dtype in DTYPES:
            found = [merged(recipe(paths[dtype], method), folder) for _ in range(arguments.rounds + 1)][1:]
            measured, applied, again = (min(one[name] for one in found) for name in ("measure", "apply", "again"))
            row = {"method": method, "dtype": dtype, "measure_ns": measured, "apply_ns": applied, "again": again}
            rows.append(row)
            print(f'"{method}", "{dtype}": Cost({measured:.3f}, {applied:.3f}, {again:.2f}),', flush=True)
    return rows


def of_python(folder: str, rounds: int) -> list[dict[str, Any]]:
    """µs of a small tensor in each stage, and of a tile."""
    shapes = {f"model.layers.{n // 100}.mlp.w{n % 100}": (OF_SMALL,) for n in range(SMALL)}
    paths = synthetic.write_models(os.path.join(folder, "costs-small"), shapes, 2)
    found = [merged(synthetic.recipe(paths), folder) for _ in range(rounds + 1)][1:]
    scale = 3 * 2 * OF_SMALL / 1e3  # µs a tensor of one ns a byte
    rows = [{"part": f"{stage} a small tensor, us", "us": scale * min(one[stage] for one in found)}
            for stage in ("measure", "apply")]  # fmt: skip
    one = synthetic.write_models(os.path.join(folder, "costs-tiles"), {"model.layers.0.w": (8192, 4096)}, 2)
    largest, times = budget.LARGEST_TILE, {}
    for tile in (largest, SHORT):
        budget.LARGEST_TILE = budget.SMALLEST_TILE = tile
        found = [merged(synthetic.recipe(one), folder) for _ in range(rounds + 1)][1:]
        times[tile] = {stage: min(each[stage] for each in found) for stage in ("measure", "apply")}
    for stage in ("measure", "apply"):
        each = (times[SHORT][stage] - times[largest][stage]) * 3 * 2 / 1e3 / (1 / SHORT - 1 / largest)
        rows.append({"part": f"{stage} a tile, us", "us": each})
    budget.LARGEST_TILE, budget.SMALLEST_TILE = largest, 1 << 16
    for row in rows:
        print(f"{row['part']:40} {row['us']:8.1f}", flush=True)
    return rows


def merged(recipe: dict[str, Any], folder: str) -> dict[str, float]:
    """One merge."""
    out, stages = os.path.join(folder, "costs-out"), Stages()
    for path in (recipe.get("base_model"), *(entry["model"] for entry in recipe["models"])):
        if path:
            processes.fill_cache(path)
    planned = sdmw.plan(recipe, out, threads=1)
    report = sdmw.merge(recipe, out, threads=1, progress=stages, overwrite=True, resume=False, without=["page"])
    processes.remove(out)
    measure, apply = stages.seconds
    read = planned.measured_bytes
    again = report.run.bytes_read_again
    return {
        "measure": measure / read * 1e9 if read else 0.0,
        "apply": apply / planned.applied_bytes * 1e9,
        "again": again / read if read else 0.0,
    }


def recipe(paths: list[str], method: str) -> dict[str, Any]:
    """Of a method; the output has the inputs' dtype."""
    own, top, count = ALL[method]
    base, *models = paths
    entries = [{"model": model, "parameters": own} for model in models[:count]]
    said = {"merge_method": method, "models": entries, "parameters": top}
    return said if method in WITHOUT_BASE else {**said, "base_model": base}


if __name__ == "__main__":
    main()
