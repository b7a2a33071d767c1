"""Merges against mergekit and against the same written with whole tensors, inputs cached for all, in one run.

python benchmarks/against_peers.py [--folder FOLDER] [--parameters N] [--rounds N]

Each peer's run is paired with one of ours just before it; prints minima, medians and the median of paired ratios, and
writes results/against_peers.json with samples of each one's memory. mergekit has no SDM-W: its ties at density 0.9 is
nearest in cost (a magnitude threshold per tensor), not in effect. Whole processes are timed, start of the interpreter
included, as a person would wait for them; ours and the whole-tensor programs sync their output, mergekit does not. So
mergekit is compared a second time with both outputs on a memory file system, where there is nothing to wait for.
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
EVERY = 0.05  # seconds between samples of memory
MEMORY = "/dev/shm"
Run = Callable[[str], processes.Measured]  # writes to a path
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


def compare(paths: list[str], on_disk: str, rounds: int) -> None:
    """Every peer in turn, round by round, ours before each."""
    peers: list[tuple[str, str, Run]] = [
        ("sdm_w", "mergekit ties, density 0.9", lambda out: mergekit(paths, "ties", out)),
        ("linear", "mergekit linear", lambda out: mergekit(paths, "linear", out)),
        ("task_arithmetic", "mergekit task_arithmetic", lambda out: mergekit(paths, "task_arithmetic", out)),
    ]
    same: list[tuple[str, str, Run]] = [
        ("sdm_w", "NumPy, whole tensors, sdm_w", lambda out: whole("numpy", paths, "sdm_w", out)),
        ("sdm_w", "torch, whole tensors, sdm_w", lambda out: whole("torch", paths, "sdm_w", out)),
    ]
    in_memory = os.path.join(MEMORY, "sdmw-against-peers")
    pairs = [(*pair, on_disk, "") for pair in peers + same]
    pairs += [(*pair, in_memory, " (to memory)") for pair in peers]
    seconds: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    last: dict[str, processes.Measured] = {}

    def timed(name: str, run: Run, out: str) -> float:
        processes.fill_cache(*paths)
        last[name] = measured = run(out)
        processes.remove(out)
        if measured.returncode:
            raise RuntimeError(f"{name}: {measured.output[-2000:]}")
        seconds.setdefault(name, []).append(measured.wall_s)
        print(f"{name} {measured.wall_s:.1f} s", file=sys.stderr, flush=True)
        return measured.wall_s

    for method in ("sdm_w", "linear", "task_arithmetic"):  # compiles kernels where they are not cached
        ours(paths, method, on_disk)
        processes.remove(on_disk)
    for _ in range(rounds):
        for method, name, run, out, place in pairs:
            own = timed(f"sdmw {method}{place}", lambda out, method=method: ours(paths, method, out), out)  # type: ignore[misc]
            ratios.setdefault(name + place, []).append(timed(name + place, run, out) / own)
    show(seconds, ratios, last)


def show(seconds: dict[str, list[float]], ratios: dict[str, list[float]], last: dict[str, processes.Measured]) -> None:
    """The table; a peer's ratio is to our run of the method before it."""
    print(processes.machine())
    print(f"{'whole process':40} {'min s':>7} {'median s':>8} {'times ours':>10} {'peak MB':>8}")
    rows = []
    for name, taken in seconds.items():
        times = statistics.median(ratios[name]) if name in ratios else 1.0
        samples = last[name].samples
        rows.append(
            {
                "name": name,
                "seconds": taken,
                "ratios": ratios.get(name, []),
                "peak_rss": last[name].peak_rss,
                "memory": samples[:: max(1, len(samples) // 200)],
            }
        )
        print(
            f"{name:40} {min(taken):7.1f} {statistics.median(taken):8.1f} {times:10.1f} "
            f"{last[name].peak_rss / 1e6:8.0f}"
        )
    processes.write_json("against_peers", {"machine": processes.machine(), "rows": rows})


def ours(paths: list[str], method: str, out: str) -> processes.Measured:
    """A merge by sdmw."""
    recipe: dict[str, Any] = synthetic.recipe(paths, method)
    if method == "linear":
        recipe["base_model"] = paths[1]
    return processes.run([sys.executable, "-c", OURS, json.dumps(recipe), out], every=EVERY)


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
            every=EVERY,
        )
    finally:
        os.remove(file.name)


def whole(library: str, paths: list[str], method: str, out: str) -> processes.Measured:
    """The same with whole tensors."""
    program = os.path.join(HERE, "whole_tensors.py")
    return processes.run([sys.executable, program, library, method, out, *paths], every=EVERY)


if __name__ == "__main__":
    main()
