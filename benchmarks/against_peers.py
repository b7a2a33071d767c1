"""Merges against mergekit and against the same written with whole tensors, inputs cached for all, in one run.

python benchmarks/against_peers.py [--folder FOLDER] [--parameters N] [--rounds N]

Prints minima, medians and ratios of medians, writes results/against_peers.json. mergekit has no SDM-W: its ties at
density 0.9 is nearest in cost (a magnitude threshold per tensor), not in effect. Whole processes are timed, start of
the interpreter included, as a person would wait for them.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import processes
import synthetic

HERE = os.path.dirname(os.path.abspath(__file__))
OURS = "import json, sys, sdmw; sdmw.merge(json.loads(sys.argv[1]), sys.argv[2], progress=False)"
MERGEKIT = "import sys; from mergekit.scripts.run_yaml import main; main.main(sys.argv[1:], standalone_mode=False)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the synthetic models lie; kept if given")
    parser.add_argument("--parameters", type=float, default=1.1e9)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or temporary
        shapes = synthetic.decoder(int(arguments.parameters))
        paths = synthetic.write_models(os.path.join(folder, "decoder"), shapes, 2)
        compare(paths, os.path.join(folder, "against-peers"), arguments.rounds)


def compare(paths: list[str], out: str, rounds: int) -> None:
    """Every contender in turn, round by round."""
    contenders: dict[str, Callable[[], processes.Measured]] = {
        "sdmw sdm_w": lambda: ours(paths, "sdm_w", out),
        "mergekit ties, density 0.9": lambda: mergekit(paths, "ties", out),
        "NumPy, whole tensors, sdm_w": lambda: whole("numpy", paths, "sdm_w", out),
        "torch, whole tensors, sdm_w": lambda: whole("torch", paths, "sdm_w", out),
        "sdmw linear": lambda: ours(paths, "linear", out),
        "mergekit linear": lambda: mergekit(paths, "linear", out),
        "sdmw task_arithmetic": lambda: ours(paths, "task_arithmetic", out),
        "mergekit task_arithmetic": lambda: mergekit(paths, "task_arithmetic", out),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, int] = {}
    ours(paths, "sdm_w", out)  # compiles kernels where they are not cached
    processes.remove(out)
    for number in range(rounds):
        for name, run in contenders.items():
            processes.fill_cache(*paths)
            measured = run()
            if measured.returncode:
                raise RuntimeError(f"{name}: {measured.output[-2000:]}")
            processes.remove(out)
            seconds[name].append(measured.wall_s)
            peaks[name] = measured.peak_rss
            print(f"round {number + 1}: {name} {measured.wall_s:.1f} s", file=sys.stderr, flush=True)
    show(seconds, peaks)


def show(seconds: dict[str, list[float]], peaks: dict[str, int]) -> None:
    """The table; a peer's ratio is to our run of the method before it."""
    print(processes.machine())
    print(f"{'whole process':30} {'min s':>7} {'median s':>8} {'times ours':>10} {'peak MB':>8}")
    rows = []
    own = 1.0
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        if name.startswith("sdmw"):
            own = middle
        rows.append({"name": name, "seconds": taken, "times_ours": middle / own, "peak_rss": peaks[name]})
        print(f"{name:30} {min(taken):7.1f} {middle:8.1f} {middle / own:10.1f} {peaks[name] / 1e6:8.0f}")
    processes.write_json("against_peers", {"machine": processes.machine(), "rows": rows})


def ours(paths: list[str], method: str, out: str) -> processes.Measured:
    """A merge by sdmw."""
    recipe: dict[str, Any] = synthetic.recipe(paths, method)
    if method == "linear":
        recipe["base_model"] = paths[1]
    return processes.run([sys.executable, "-c", OURS, json.dumps(recipe), out])


def mergekit(paths: list[str], method: str, out: str) -> processes.Measured:
    """A merge by mergekit, on the CPU with its defaults."""
    recipe: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": path, "parameters": {"weight": 0.5, "density": 0.9}} for path in paths[1:]],
        "dtype": "bfloat16",
    }
    if method != "linear":
        recipe["base_model"] = paths[0]
    if method != "ties":
        for entry in recipe["models"]:
            del entry["parameters"]["density"]
    with tempfile.NamedTemporaryFile("w", suffix=".yml", delete=False) as file:
        json.dump(recipe, file)  # JSON is YAML
    try:
        return processes.run(
            [sys.executable, "-c", MERGEKIT, file.name, out, "--no-write-model-card", "--no-copy-tokenizer", "--quiet"],
            environment={"HF_HUB_OFFLINE": "1"},
        )
    finally:
        os.remove(file.name)


def whole(library: str, paths: list[str], method: str, out: str) -> processes.Measured:
    """The same with whole tensors."""
    program = os.path.join(HERE, "whole_tensors.py")
    return processes.run([sys.executable, program, library, method, out, *paths])


if __name__ == "__main__":
    main()
