"""Peak memory by the model's size, ours beside mergekit's: base and two fine-tunes, bfloat16.

python benchmarks/memory_by_size.py [--folder FOLDER] [--sizes 0.1,0.25,0.5,1.1]

Peaks are the kernel's own, of whole processes. Writes results/memory_by_size.json, which plots.py draws.
"""

import argparse
import os
import tempfile
from typing import Any

import against_peers
import processes
import synthetic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where models and results lie; by default a temporary one")
    parser.add_argument("--sizes", default="0.1,0.25,0.5,1.1", help="billions of parameters")
    options = parser.parse_args()
    sizes = [float(size) for size in options.sizes.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        rows = [row for size in sizes for row in measured(size, options.folder or temporary)]
    processes.write_json("memory_by_size", {"machine": processes.machine(), "rows": rows})


def measured(billions: float, folder: str) -> list[dict[str, Any]]:
    """The peak of every merge at one size."""
    models = os.path.join(folder, f"decoder-{billions:g}")
    paths = synthetic.write_models(models, synthetic.decoder(int(billions * 1e9)), 2)
    out = os.path.join(folder, "memory-by-size")
    rows = []
    for method in ("sdm_w", "linear"):  # compiles kernels where they are not cached: that would be the peak
        against_peers.ours(paths, method, out)
        processes.remove(out)
    for name, run in (
        ("sdmw sdm_w", lambda: against_peers.ours(paths, "sdm_w", out)),
        ("sdmw linear", lambda: against_peers.ours(paths, "linear", out)),
        ("mergekit linear", lambda: against_peers.mergekit(paths, "linear", out)),
        ("mergekit ties, density 0.9", lambda: against_peers.mergekit(paths, "ties", out)),
    ):
        found = run()
        processes.remove(out)
        if found.returncode:
            raise RuntimeError(f"{name}: {found.output[-2000:]}")
        print(f"{billions:5g} B  {name:28} {found.peak_rss / 1e6:8.0f} MB", flush=True)
        rows.append({"billions": billions, "name": name, "peak_rss": found.peak_rss})
    processes.remove(models)
    return rows


if __name__ == "__main__":
    main()
