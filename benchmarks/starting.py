"""How long a tiny merge takes as a whole process: kernels in the cache, in a wheel, or compiled; beside NumPy alone.

A wheel is built, or taken, and installed into a folder of its own; what it needs is found in this environment. Each
first run has an empty cache of kernels. Prints a table, writes results/starting.json.

python benchmarks/starting.py [--rounds N] [--compiling N] [--wheel FILE]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import processes
import synthetic

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
SHAPES = {f"model.layers.{number}.w": (64, 64) for number in range(4)}
GOALS = {"kernels in the cache": 0.4, "first run, kernels in the wheel": 2.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compiling", type=int, default=2, help="rounds in which a first run compiles")
    parser.add_argument("--wheel", help="one of this tree; by default it is built, which takes minutes")
    arguments = parser.parse_args()
    print(processes.machine())
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(folder, arguments.rounds, arguments.compiling, arguments.wheel)
    print(f"{'whole process':34} {'min s':>7} {'median':>7} {'CPU min':>8} {'median':>7} {'goal':>5}")
    for row in rows:
        wall, cpu = row["wall_s"], row["cpu_s"]
        print(
            f"{row['case']:34} {min(wall):7.3f} {statistics.median(wall):7.3f} {min(cpu):8.3f} "
            f"{statistics.median(cpu):7.3f} {GOALS.get(row['case'], ''):>5}"
        )
    processes.write_json("starting", {"machine": processes.machine(), "rows": rows})


def measure(folder: str, rounds: int, compiling: int, wheel: str | None) -> list[dict[str, Any]]:
    """All cases in turn, round by round; the first, which fills the cache and compiles Python's files, is not kept."""
    site = installed(wheel or built(folder), folder)
    recipe, out = write_recipe(folder), os.path.join(folder, "out")
    engine = os.path.join(ROOT, "engine")
    merge = [sys.executable, "-m", "sdmw", "merge", recipe, out, "--overwrite", "--quiet"]
    numpy = [sys.executable, "-c", "import numpy"]
    cases = {
        "import numpy": (numpy, engine, "cache", rounds),
        "kernels in the cache": (merge, engine, "cache", rounds),
        "first run, kernels in the wheel": (merge, site, None, rounds),
        "first run, which compiles": (merge, engine, None, compiling),
    }
    cases = {name: case for name, case in cases.items() if case[-1]}
    taken: dict[str, list[processes.Measured]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, (command, path, cache, most) in cases.items():
            if number <= most:
                measured = run(folder, command, path, cache)
                if number:
                    taken[name].append(measured)
    return [
        {"case": name, "wall_s": [each.wall_s for each in all_of], "cpu_s": [each.cpu_s for each in all_of]}
        for name, all_of in taken.items()
    ]


def run(folder: str, command: list[str], path: str, cache: str | None) -> processes.Measured:
    """A process that finds the engine at a path; without a name of a cache it has a fresh one."""
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        place = os.path.join(folder, cache) if cache else fresh
        environment = {"PYTHONPATH": path, "XDG_CACHE_HOME": place, "PYTHONDONTWRITEBYTECODE": ""}
        measured = processes.run(command, environment=environment)
    if measured.returncode:
        raise RuntimeError(measured.output)
    return measured


def built(folder: str) -> str:
    """A wheel of this tree."""
    subprocess.run([*PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = Path(folder).glob("*.whl")
    return str(wheel)


def installed(wheel: str, folder: str) -> str:
    """The folder in which a wheel is installed."""
    site = os.path.join(folder, "site")
    subprocess.run([*PIP, "install", "--no-deps", "--target", site, wheel], check=True)
    return site


def write_recipe(folder: str) -> str:
    """A recipe that merges tiny models, which are written too."""
    recipe = synthetic.recipe(synthetic.write_models(folder, SHAPES, 2))
    path = os.path.join(folder, "recipe.yaml")
    Path(path).write_text(str(recipe).replace("'", '"'))
    return path


if __name__ == "__main__":
    main()
