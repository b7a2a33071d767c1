"""How time and memory grow: threads, fine-tunes, parameters, tensors, dtypes, granularities, ways of reading, start-up.

python benchmarks/scaling.py [--folder FOLDER] [--largest N] [--rounds N] [--only PART]

Rounds go through all cases of a part in turn. Inputs are cached where they fit and dropped from the cache where it says
cold. Wall time is of `merge` alone, as its report says; peak is the kernel's own. Writes results/PART.json.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from typing import Any

import processes
import synthetic
from against_floor import Case, fastest, run_floor

Row = dict[str, Any]
B = 1_000_000_000


@dataclass(frozen=True)
class Merge:
    """What is merged, and how."""

    name: str
    recipe: dict[str, Any]
    cold: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> list[str]:
        """The directories that are read."""
        return [self.recipe["base_model"], *(entry["model"] for entry in self.recipe["models"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the synthetic models lie")
    parser.add_argument("--largest", type=float, default=7e9, help="parameters of the largest model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="one of: " + ", ".join(PARTS))
    arguments = parser.parse_args()
    print(processes.machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or temporary
        for name, part in PARTS.items():
            if arguments.only in name:
                rows = part(folder, arguments)
                processes.write_json(name, {"machine": processes.machine(), "rows": rows})


def threads(folder: str, arguments: Any) -> list[Row]:
    """Two threads against one: reading and computing (the measuring pass), and the whole with its writes."""
    recipe = synthetic.recipe(one_billion(folder))
    names = {1: "one thread", 2: "two threads"}
    small = synthetic.recipe(synthetic.write_models(os.path.join(folder, "small"), {"model.layers.0.w": (64, 64)}, 2))
    cases = [Merge(name, recipe, options={"threads": n, "small": small}) for n, name in names.items()]
    rows = timed(cases, folder, arguments.rounds)
    alone, together = rows
    for part in ("measure_s", "s"):
        ratios = [one / two for one, two in zip(alone[f"all_{part}"], together[f"all_{part}"], strict=True)]
        kind = "reading and computing" if part == "measure_s" else "the whole, with writes and fsync"
        print(f"{kind}: {statistics.median(ratios):.2f} times as fast, at best {max(ratios):.2f}")
        rows.append({"case": kind, "ratios": ratios})
    return rows


def models(folder: str, arguments: Any) -> list[Row]:
    """One to eight fine-tunes of 1 B parameters; eight and their base do not fit the cache, so all are read cold."""
    own = os.path.join(folder, "eight")
    paths = synthetic.write_models(own, synthetic.decoder(B), 8)
    cases = [Merge(f"N = {n}, 1 B, cold", synthetic.recipe(paths[: n + 1]), cold=True) for n in (1, 2, 4, 8)]
    rows = timed(cases, folder, min(2, arguments.rounds))
    shutil.rmtree(own)
    return rows


def dtypes(folder: str, arguments: Any) -> list[Row]:
    """The three dtypes, and kernels compiled for processors without AVX-512 and without AVX2."""
    rows = []
    for dtype in ("BF16", "F16", "F32"):
        own = os.path.join(folder, dtype)
        recipe = synthetic.recipe(synthetic.write_models(own, synthetic.decoder(B // 2), 2, dtype))
        cases = [Merge(f"{dtype}, 0.5 B, N = 2", recipe)]
        if dtype == "BF16":
            for cpu in ("haswell", "nehalem"):
                names = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""}
                cases.append(Merge(f"BF16, kernels for {cpu}", recipe, environment=names))
            cases.append(Merge("BF16, read by pread", recipe, options={"mapped": False}))
        rows += timed(cases, folder, arguments.rounds)
        shutil.rmtree(own)
    return rows


def granularities(folder: str, arguments: Any) -> list[Row]:
    """What a layer is."""
    paths = one_billion(folder)
    kinds = ("tensor", "module", "block", "component", "model")
    cases = [Merge(f"granularity {kind}", synthetic.recipe(paths, parameters={"granularity": kind})) for kind in kinds]
    return timed(cases, folder, arguments.rounds)


def parameters(folder: str, arguments: Any) -> list[Row]:
    """Sizes up to the largest that fits the disk, cold, each beside its floor; what the plan had predicted."""
    rows = []
    way = fastest(one_billion(folder), folder)
    for size in (size for size in (0.3e9, 1e9, 3e9, 7e9) if size <= arguments.largest):
        own = os.path.join(folder, f"decoder-{size:.0f}")
        paths = synthetic.write_models(own, synthetic.decoder(int(size)), 2)
        name = f"{size / 1e9:g} B parameters, cold"
        floor = run_floor(Case(name, "sdm_w", 2, cold=True, again=False), paths, os.path.join(folder, "scaled"), way)
        (row,) = timed([Merge(name, synthetic.recipe(paths), cold=True)], folder, 1)
        rows.append({**row, "parameters": size, "floor_s": floor})
        print(
            f"{'':30} floor {floor:.1f} s; peak {row['peak_rss'] / row['planned'] - 1:+.1%} of the plan's; "
            f"the plan's time {row['planned_s']:.1f} s"
        )
        shutil.rmtree(own)
    return rows


def start(_folder: str, arguments: Any) -> list[Row]:
    """`import sdmw`, the kernels from their cache, a plan of 1,000 tensors; seconds of whole processes, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        shapes = {f"model.layers.{n}.w": (8, 8) for n in range(1000)}
        recipe = synthetic.recipe(synthetic.write_models(folder, shapes, 2))
        programs = {
            "python alone": "",
            "import sdmw": "import sdmw",
            "import numba, which compiles kernels": "import numba",
            "kernels, from their cache": KERNELS,
            "plan of 1,000 tensors": f"import sdmw; sdmw.plan({recipe!r})",
            "sdmw plan of 1,000 tensors": "import sdmw.cli; sdmw.cli.main()",
        }
        with open(os.path.join(folder, "recipe.yaml"), "w") as file:
            file.write(str(recipe).replace("'", '"'))
        taken: dict[str, list[float]] = {name: [] for name in programs}
        for number in range(2 * arguments.rounds + 1):
            for name, program in programs.items():
                command = [sys.executable, "-c", program, "plan", os.path.join(folder, "recipe.yaml")]
                measured = processes.run(command)
                if measured.returncode:
                    raise RuntimeError(measured.output)
                if number:  # the first compiles
                    taken[name].append(measured.wall_s)
    print(f"{'whole process':34} {'min s':>7} {'median':>7}")
    for name, seconds in taken.items():
        print(f"{name:34} {min(seconds):7.3f} {statistics.median(seconds):7.3f}")
    return [{"case": name, "seconds": seconds} for name, seconds in taken.items()]


KERNELS = "from sdmw.kernels import ready; ready.prepare(print)"


def tensors(folder: str, arguments: Any) -> list[Row]:
    """Many small tensors: 20,000 of 1,000 elements, and as a part of each row what one of them takes."""
    own = os.path.join(folder, "many")
    shapes = {f"model.layers.{n // 100}.mlp.w{n % 100}": (1000,) for n in range(MANY)}
    rows = timed([Merge(f"{MANY:,} tensors of 1,000", synthetic.recipe(synthetic.write_models(own, shapes, 2)))],
                 folder, arguments.rounds)  # fmt: skip
    shutil.rmtree(own)
    for row in rows:
        row["ms_a_tensor"] = statistics.median(row["all_s"]) / MANY * 1e3
        print(f"{row['ms_a_tensor']:.2f} ms a tensor, {row['cpu_s'] / MANY * 1e3:.2f} ms of processor time")
    return rows


MANY = 20_000


def one_billion(folder: str) -> list[str]:
    """The base and two fine-tunes that most parts merge."""
    return synthetic.write_models(os.path.join(folder, "decoder"), synthetic.decoder(1_100_000_000), 2)


def timed(cases: list[Merge], folder: str, rounds: int) -> list[Row]:
    """Merges in turn, round by round; one round more, which is not kept, where inputs are cached."""
    out = os.path.join(folder, "scaled")
    runs: dict[str, list[tuple[processes.Measured, dict[str, Any]]]] = {case.name: [] for case in cases}
    warming = not any(case.cold for case in cases)
    for number in range(rounds + warming):
        for case in cases:
            (processes.drop_cache if case.cold else processes.fill_cache)(*case.inputs)
            os.environ.update(case.environment)
            found = processes.merge(case.recipe, out, **case.options)
            for name in case.environment:
                del os.environ[name]
            processes.remove(out)
            if number or not warming:
                runs[case.name].append(found)
    print(
        f"{'case':30} {'min s':>7} {'median':>7} {'measure':>7} {'cpu s':>6} {'peak MB':>8} {'plan MB':>8} {'again':>7}"
    )
    return [_row(name, found) for name, found in runs.items()]


def _row(name: str, found: list[tuple[processes.Measured, dict[str, Any]]]) -> Row:
    seconds = [report["run"]["wall_s"] for _, report in found]
    measuring = [report["stages"].get("measure", 0.0) - report["stages"]["Planned"] for _, report in found]
    run = found[-1][1]["run"]
    row = {
        "case": name,
        "all_s": seconds,
        "all_measure_s": measuring,
        "cpu_s": statistics.median(report["run"]["cpu_s"] for _, report in found),
        "peak_rss": max(measured.peak_rss for measured, _ in found),
        "planned": run["planned_peak"],
        "planned_s": (run["bytes_read"] - run["bytes_read_again"] + run["bytes_written"]) / 1e9,
        "again": run["bytes_read_again"],
    }
    print(
        f"{name:30} {min(seconds):7.2f} {statistics.median(seconds):7.2f} {statistics.median(measuring):7.2f} "
        f"{row['cpu_s']:6.1f} {row['peak_rss'] / 1e6:8.0f} {row['planned'] / 1e6:8.0f} {row['again'] / 1e9:6.2f}G",
        flush=True,
    )
    return row


PARTS = {
    "threads": threads,
    "models": models,
    "dtypes": dtypes,
    "granularities": granularities,
    "parameters": parameters,
    "tensors": tensors,
    "start": start,
}

if __name__ == "__main__":
    main()
