"""How time and memory grow: threads, fine-tunes, parameters, dtypes, granularities, no AVX-512, start-up.

python benchmarks/scaling.py [--folder FOLDER] [--largest N] [--rounds N] [--only WORD]

Inputs are cached where they fit; wall time is of `merge` alone, as its report says, the median of the rounds; peak is
the kernel's own. Writes results/scaling.json.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from typing import Any

import processes
import synthetic

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the synthetic models lie")
    parser.add_argument("--largest", type=float, default=3e9, help="parameters of the largest model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", default="", help="one part: threads, models, dtypes, granularities, parameters, start"
    )
    arguments = parser.parse_args()
    parts = {
        "threads": threads,
        "models": models,
        "dtypes": dtypes,
        "granularities": granularities,
        "parameters": lambda folder, rounds: parameters(folder, rounds, arguments.largest),
        "start": lambda _folder, rounds: start(rounds),
    }
    print(processes.machine())
    print(f"{'case':44} {'s':>8} {'peak MB':>8} {'plan MB':>8} {'again':>8}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or temporary
        rows = {name: part(folder, arguments.rounds) for name, part in parts.items() if arguments.only in name}
    processes.write_json(
        f"scaling{'-' * bool(arguments.only)}{arguments.only}", {"machine": processes.machine(), **rows}
    )


def threads(folder: str, rounds: int) -> list[Row]:
    """Two threads against one: with writes, and reading and computing alone (the measuring pass of a run)."""
    paths = synthetic.write_models(os.path.join(folder, "decoder"), synthetic.decoder(1_100_000_000), 2)
    return [
        timed(f"sdm_w, {n} thread{'s' * (n > 1)}", synthetic.recipe(paths), folder, rounds, threads=n) for n in (1, 2)
    ]


def models(folder: str, rounds: int) -> list[Row]:
    """Fine-tunes from one to eight, of 0.3 B parameters."""
    paths = synthetic.write_models(os.path.join(folder, "eight"), synthetic.decoder(300_000_000), 8)
    rows = [timed(f"N = {n}, 0.3 B", synthetic.recipe(paths[: n + 1]), folder, rounds) for n in (1, 2, 4, 8)]
    shutil.rmtree(os.path.join(folder, "eight"))
    return rows


def dtypes(folder: str, rounds: int) -> list[Row]:
    """The three dtypes at 0.3 B, and the vectors of a machine without AVX-512, and without AVX2."""
    rows = []
    for dtype in ("BF16", "F16", "F32"):
        paths = synthetic.write_models(os.path.join(folder, dtype), synthetic.decoder(300_000_000), 2, dtype)
        rows.append(timed(f"{dtype}, 0.3 B, N = 2", synthetic.recipe(paths), folder, rounds))
        if dtype == "BF16":
            for cpu in ("haswell", "nehalem"):
                os.environ["NUMBA_CPU_NAME"], os.environ["NUMBA_CPU_FEATURES"] = cpu, ""
                rows.append(timed(f"BF16, kernels for {cpu}", synthetic.recipe(paths), folder, rounds))
                del os.environ["NUMBA_CPU_NAME"], os.environ["NUMBA_CPU_FEATURES"]
        shutil.rmtree(os.path.join(folder, dtype))
    return rows


def granularities(folder: str, rounds: int) -> list[Row]:
    """What a layer is, at 1.1 B."""
    paths = synthetic.write_models(os.path.join(folder, "decoder"), synthetic.decoder(1_100_000_000), 2)
    kinds = ("tensor", "module", "block", "component", "model")
    return [
        timed(f"granularity {kind}", synthetic.recipe(paths, parameters={"granularity": kind}), folder, rounds)
        for kind in kinds
    ]


def parameters(folder: str, rounds: int, largest: float) -> list[Row]:
    """Sizes up to the largest that fits the disk; those are read cold, since they do not fit the cache."""
    rows = []
    for size in (size for size in (3e8, 1.1e9, 3e9, 7e9) if size <= largest):
        own = os.path.join(folder, "decoder" if size == 1.1e9 else f"decoder-{size:.0f}")
        paths = synthetic.write_models(own, synthetic.decoder(int(size)), 2)
        few = 1 if size > 2e9 else rounds
        rows.append(timed(f"{size / 1e9:g} B parameters, cold", synthetic.recipe(paths), folder, few, cold=True))
        if size != 1.1e9:
            shutil.rmtree(own)
    return rows


def start(rounds: int) -> list[Row]:
    """`import sdmw`, the kernels from their cache, and a plan of 1,000 tensors; seconds of whole processes."""
    with tempfile.TemporaryDirectory() as folder:
        shapes = {f"model.layers.{n}.w": (8, 8) for n in range(1000)}
        paths = synthetic.write_models(folder, shapes, 2)
        programs = {
            "python alone": "",
            "import sdmw": "import sdmw",
            "import sdmw and its kernels": "import sdmw, sdmw.kernels.tiles",
            "plan of 1,000 tensors": f"import sdmw; sdmw.plan({synthetic.recipe(paths)!r})",
        }
        rows = []
        for name, program in programs.items():
            taken = [processes.run([sys.executable, "-c", program]).wall_s for _ in range(rounds + 1)][1:]
            rows.append({"case": name, "s": statistics.median(taken)})
            print(f"{name:44} {rows[-1]['s']:8.2f}")
    return rows


def timed(name: str, recipe: dict[str, Any], folder: str, rounds: int, *, cold: bool = False, **options: Any) -> Row:
    """The median of a merge's own wall time."""
    out = os.path.join(folder, "scaled")
    inputs = [recipe["base_model"], *(entry["model"] for entry in recipe["models"])]
    runs = []
    for number in range(rounds + (not cold)):
        (processes.drop_cache if cold else processes.fill_cache)(*inputs)
        measured, report = processes.merge(recipe, out, **options)
        processes.remove(out)
        if number or cold:  # the first warms the kernels' cache
            runs.append((measured, report["run"]))
    run = runs[-1][1]
    row = {
        "case": name,
        "s": statistics.median(report["wall_s"] for _, report in runs),
        "cpu_s": statistics.median(report["cpu_s"] for _, report in runs),
        "peak_rss": max(measured.peak_rss for measured, _ in runs),
        "planned": run["planned_peak"],
        "again": run["bytes_read_again"],
    }
    peak, planned = row["peak_rss"] / 1e6, row["planned"] / 1e6
    print(f"{name:44} {row['s']:8.2f} {peak:8.0f} {planned:8.0f} {row['again'] / 1e9:7.2f}G", flush=True)
    return row


if __name__ == "__main__":
    main()
