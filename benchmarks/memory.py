"""Peak memory of merging: by model size, by shape, and in a control group. Prints a table, writes results/memory.json.

python benchmarks/memory.py [--folder FOLDER] [--quick]
"""

import argparse
import os
import tempfile

import processes
import synthetic

MB = 10**6
GIB = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the synthetic models lie; kept if given")
    parser.add_argument("--quick", action="store_true", help="0.1 B parameters and 10^8 elements")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(arguments.folder or temporary, arguments.quick)


def measure(folder: str, quick: bool) -> None:
    scale = 10 if quick else 1
    models = synthetic.write_models(os.path.join(folder, "decoder"), synthetic.decoder(1_100_000_000 // scale), 2)
    sparse = synthetic.write_sparse(folder, 10**10 // (100 if quick else 1), 2)
    cases = [
        ("1.1 B parameters, 174 tensors", models, "sdm_w", None),
        ("the same, averaged", models, "linear", None),
        ("one tensor of 10^10 elements", sparse, "sdm_w", None),
    ]
    if processes.can_group():
        cases += [
            ("1.1 B in a 512 MiB control group", models, "sdm_w", 512 << 20),
            ("1.1 B in a 256 MiB control group", models, "sdm_w", 256 << 20),
        ]
    else:
        print("no memory control groups can be made here: those rows are left out")
    print(processes.machine())
    print(f"{'case':36} {'peak MB':>8} {'plan MB':>8} {'anon MB':>8} {'group MB':>9} {'s':>7}")
    rows = []
    for name, paths, method, limit in cases:
        recipe = synthetic.recipe(paths, method)
        processes.drop_cache(*paths)
        out = os.path.join(folder, "merged")
        measured, report = processes.merge(recipe, out, memory=limit)
        row = {
            "case": name,
            "peak_rss": measured.peak_rss,
            "planned": report["run"]["planned_peak"],
            "peak_anonymous": report["run"]["peak_anonymous"],
            "group_peak": measured.group_peak,
            "wall_s": measured.wall_s,
        }
        rows.append(row)
        megabytes = [row[key] / MB for key in ("peak_rss", "planned", "peak_anonymous")]
        group = f"{measured.group_peak / MB:9.0f}" if measured.group_peak else f"{'–':>9}"
        print(f"{name:36}", *(f"{each:8.0f}" for each in megabytes), group, f"{row['wall_s']:7.1f}")
    processes.write_json("memory", {"machine": processes.machine(), "rows": rows})


if __name__ == "__main__":
    main()
