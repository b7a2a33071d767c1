"""Peak memory of merging: by model size, by shape, by file system, cached and not, and in a control group.

Prints tables, writes results/memory.json and results/memory_of_methods.json.

python benchmarks/memory.py [--folder FOLDER] [--only cases|methods] [--quick]
"""

import argparse
import contextlib
import os
import tempfile
from dataclasses import dataclass
from typing import Any

import against_mergekit
import processes
import synthetic

MB = 10**6
GIB = 1 << 30
SMALLEST = 2 * 10**8  # elements: long enough for every thread to hold a whole tile of everything at once
# MB that one tensor may take more than a smaller one, cached or not, on every file system. The peak is that of linking
# kernels, before the merge, and varies by so much with the parts in which LLVM's file is cached.
FLAT = 10


@dataclass(frozen=True)
class Case:
    """One merge.

    Attributes:
        name: in the table.
        paths: base and fine-tunes.
        method: of the recipe.
        group: bytes of the control group it runs in; None for none.
        cached: inputs are wholly in the page cache before; else none of them is.
        budget: of the merge; None for the default.
        first: with an empty cache of kernels.
        of_mergekit: with the parameters of against_mergekit.py.
        flat: among the merges that must take no more than the first of them.
    """

    name: str
    paths: list[str]
    method: str = "sdm_w"
    group: int | None = None
    cached: bool = False
    budget: str | None = None
    first: bool = False
    of_mergekit: bool = False
    flat: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the synthetic models lie; kept if given")
    parser.add_argument("--only", choices=("cases", "methods"), help="one of the two tables")
    parser.add_argument("--quick", action="store_true", help="a tenth of parameters and elements")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = arguments.folder or temporary
        disk = stack.enter_context(processes.loop_disk("xfs", os.path.join(folder, "xfs")))
        found = cases(folder, disk, arguments.quick)
        for name, rows in (
            ("cases", [case for case in found if not case.of_mergekit]),
            ("methods", [case for case in found if case.of_mergekit]),
        ):
            if arguments.only in (None, name):
                measure(folder, rows, "memory" if name == "cases" else "memory_of_methods")


def cases(folder: str, xfs: str | None, quick: bool) -> list[Case]:
    """What is measured; what this machine cannot do is left out and said."""
    models = synthetic.write_models(
        os.path.join(folder, "decoder"), synthetic.decoder(11 * 10 ** (7 if quick else 8)), 2
    )

    def sparse(where: str, elements: int) -> list[str]:
        elements = max(SMALLEST, elements // 10 if quick else elements)
        return synthetic.write_sparse(os.path.join(where, f"{elements:.0e}"), elements, 2)

    found = [
        Case("1.1 B parameters, 174 tensors", models),
        Case("the same, averaged", models, "linear"),
        Case("first run, empty kernel cache", models, first=True),
        Case("the same, budget 256 MiB", models, first=True, budget="256MiB"),
        Case("one tensor of 2*10^8 elements, cached", sparse(folder, SMALLEST), cached=True, flat=True),
        Case("one of 10^10, not cached", sparse(folder, 10**10), flat=True),
        Case("one of 2*10^9, cached", sparse(folder, 2 * 10**9), cached=True, flat=True),
    ]
    if xfs:
        cached = sparse(xfs, 2 * 10**9)
        found += [
            Case("the same on XFS", cached, cached=True, flat=True),
            Case("the same, budget 256 MiB", cached, cached=True, budget="256MiB"),
        ]
    else:
        print("no XFS can be made here: its rows are left out")
    if processes.can_group():
        found += [
            Case("1.1 B in a 512 MiB control group", models, group=512 << 20),
            Case("1.1 B in a 256 MiB control group", models, group=256 << 20),
        ]
    else:
        print("no memory control groups can be made here: those rows are left out")
    # Every method on one tensor, 20 times larger than its tiles and more: what a plan says must hold for each.
    large = sparse(folder, 2 * 10**9)
    named = against_mergekit.METHODS
    return found + [Case(f"{name}, one of 2*10^9", large, name, budget="384MiB", of_mergekit=True) for name in named]


def measure(folder: str, found: list[Case], file: str) -> None:
    print(processes.machine())
    print(f"{'case':36} {'peak MB':>8} {'plan MB':>8} {'anon MB':>8} {'group MB':>9} {'s':>7}")
    rows = [measure_one(folder, case) for case in found]
    flat = [row["peak_rss"] for row, case in zip(rows, found, strict=True) if case.flat]
    growth = (max(flat) - flat[0]) / MB if flat else 0.0
    said = "flat" if growth <= FLAT else f"NOT flat, {FLAT} allowed"
    if flat:
        print(f"larger tensors take at most {growth:.1f} MB more than the smallest: {said}")
    for row in rows:
        if row["peak_rss"] > row["planned"]:
            print(f"{row['case']}: ABOVE THE PLAN")
    processes.write_json(file, {"machine": processes.machine(), "rows": rows, "growth_mb": growth})


def measure_one(folder: str, case: Case) -> dict[str, Any]:
    recipe = (against_mergekit.recipe if case.of_mergekit else synthetic.recipe)(case.paths, case.method)
    processes.drop_cache(*case.paths)
    if case.cached:
        processes.fill_cache(*case.paths)
    options = {"budget": case.budget} if case.budget else {}
    out = os.path.join(folder, "merged")
    with tempfile.TemporaryDirectory() as empty:
        environment = {"XDG_CACHE_HOME": empty} if case.first else {}
        measured, report = processes.merge(recipe, out, memory=case.group, environment=environment, **options)
    processes.remove(out)
    row = {
        "case": case.name,
        "peak_rss": measured.peak_rss,
        "planned": report["run"]["planned_peak"],
        "peak_anonymous": report["run"]["peak_anonymous"],
        "group_peak": measured.group_peak,
        "wall_s": measured.wall_s,
    }
    megabytes = [row[key] / MB for key in ("peak_rss", "planned", "peak_anonymous")]
    group = f"{measured.group_peak / MB:9.0f}" if measured.group_peak else f"{'–':>9}"
    print(f"{case.name:36}", *(f"{each:8.0f}" for each in megabytes), group, f"{row['wall_s']:7.1f}", flush=True)
    return row


if __name__ == "__main__":
    main()
