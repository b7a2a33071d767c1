"""Every merge method against mergekit's command, the same recipe, inputs cached for both, in one run.

python benchmarks/against_mergekit.py [--folder FOLDER] [--parameters N] [--rounds N] [--methods NAME ...]

Each run of mergekit is paired with one of ours just before it. Whole processes are timed, start of the interpreter
included, as a person would wait for them; ours sync their output, mergekit does not. Prints seconds, the ratio of each
pair, CPU seconds and peak resident memory, and writes results/against_mergekit.json. Checkpoints are synthetic, BF16.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import processes
import synthetic

OURS = "import sys, sdmw; sdmw.merge(sys.argv[1], sys.argv[2], progress=False)"
MERGEKIT = "import sys; from mergekit.scripts.run_yaml import main; main.main(sys.argv[1:], standalone_mode=False)"
TRIMMED = {"weight": 0.5, "density": 0.6}
# Of each method: what stands under each model, what stands at the top, how many models there are beside the base.
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "linear": ({"weight": 0.5}, {}, 2),
    "task_arithmetic": ({"weight": 0.5}, {}, 2),
    "passthrough": ({}, {}, 1),
    "slerp": ({}, {"t": 0.4}, 1),
    "nearswap": ({}, {"t": 0.001}, 1),
    "nuslerp": ({"weight": 0.5}, {}, 2),
    "multislerp": ({"weight": 0.5}, {}, 2),
    "karcher": ({}, {}, 2),
    "model_stock": ({}, {}, 2),
    "ties": (TRIMMED, {}, 2),
    "breadcrumbs": ({**TRIMMED, "gamma": 0.01}, {}, 2),
    "breadcrumbs_ties": ({**TRIMMED, "gamma": 0.01}, {}, 2),
    "dare_linear": (TRIMMED, {}, 2),
    "dare_ties": (TRIMMED, {}, 2),
    "della_linear": ({**TRIMMED, "epsilon": 0.2}, {}, 2),
    "della": ({**TRIMMED, "epsilon": 0.2}, {}, 2),
    "sce": ({}, {"select_topk": 0.5}, 2),
    "arcee_fusion": ({}, {}, 1),
    "ram": ({}, {}, 2),
    "ramplus_tl": ({}, {}, 2),
}
WITHOUT_BASE = ("linear", "passthrough", "karcher")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the synthetic models lie; kept if given")
    parser.add_argument("--parameters", type=float, default=1.1e9)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or temporary
        shapes = synthetic.decoder(int(arguments.parameters))
        paths = synthetic.write_models(os.path.join(folder, "decoder"), shapes, 2)
        rows = compare(paths, os.path.join(folder, "against-mergekit"), arguments.methods, arguments.rounds)
        for done in rows:  # written after each: a run of an hour may be ended
            found = {"machine": processes.machine(), "parameters": int(arguments.parameters), "rows": done}
            processes.write_json("against_mergekit", found)


def compare(paths: list[str], out: str, methods: list[str], rounds: int) -> Iterator[list[dict[str, Any]]]:
    """Each method in turn, ours before mergekit's; the rows so far."""
    rows: list[dict[str, Any]] = []
    print(processes.machine())
    print(f"{'method':18} {'sdmw s':>7} {'CPU s':>6} {'MB':>5} {'mergekit s':>10} {'CPU s':>6} {'MB':>6} {'ratio':>6}")
    for method in methods:
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            json.dump(recipe(paths, method), file)  # JSON is YAML
            file.flush()
            pairs = [(run(OURS, file.name, paths, out), run(MERGEKIT, file.name, paths, out)) for _ in range(rounds)]
        ratio = statistics.median(theirs.wall_s / ours.wall_s for ours, theirs in pairs)
        ours, theirs = pairs[-1]
        print(
            f"{method:18} {ours.wall_s:7.1f} {ours.cpu_s:6.1f} {ours.peak_rss / 1e6:5.0f} {theirs.wall_s:10.1f} "
            f"{theirs.cpu_s:6.1f} {theirs.peak_rss / 1e6:6.0f} {ratio:6.1f}",
            flush=True,
        )
        rows.append({"method": method, "ratio": ratio, "pairs": [[measured(one) for one in pair] for pair in pairs]})
        yield rows


def recipe(paths: list[str], method: str) -> dict[str, Any]:
    """What both merge."""
    own, top, count = METHODS[method]
    base, *models = paths
    entries: list[dict[str, Any]] = [{"model": model, "parameters": own} for model in models[:count]]
    said: dict[str, Any] = {"merge_method": method, "models": entries, "parameters": top, "dtype": "bfloat16"}
    if method not in WITHOUT_BASE:
        said["base_model"] = base
    return said


def run(program: str, recipe_file: str, paths: list[str], out: str) -> processes.Measured:
    """One whole process."""
    processes.fill_cache(*paths)
    flags = ["--no-write-model-card", "--no-copy-tokenizer", "--quiet"] if program is MERGEKIT else []
    done = processes.run([sys.executable, "-c", program, recipe_file, out, *flags], environment={"HF_HUB_OFFLINE": "1"})
    processes.remove(out)
    if done.returncode:
        raise RuntimeError(done.output[-2000:])
    return done


def measured(one: processes.Measured) -> dict[str, float]:
    """What is kept of a run."""
    return {"wall_s": one.wall_s, "cpu_s": one.cpu_s, "peak_rss": one.peak_rss}


if __name__ == "__main__":
    main()
