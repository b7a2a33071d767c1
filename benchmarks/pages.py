"""How large pages are, and how long Chromium takes to draw them: 500 blocks, and 20,000 tensors of 60 experts.

python benchmarks/pages.py [--rounds N]

Seconds are those of the browser's process with the page, less those with an empty page; medians. Writes
results/pages.json.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import processes
import synthetic
from pictures import browser

import sdmw

BLOCK = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
         "mlp.down_proj", "input_layernorm", "post_attention_layernorm")  # fmt: skip
EXPERTS = [f"mlp.experts.{number}.{name}" for number in range(60) for name in ("gate_proj", "up_proj", "down_proj")]
CASES = {
    "32 blocks": [f"model.layers.{n}.{name}.weight" for n in range(32) for name in BLOCK],
    "500 blocks": [f"model.layers.{n}.{name}.weight" for n in range(500) for name in BLOCK],
    "110 blocks of 60 experts": [f"model.layers.{n}.{name}.weight" for n in range(110) for name in EXPERTS],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        pages = {name: merged(names, Path(temporary, name)) for name, names in CASES.items()}
        empty = Path(temporary, "empty.html")
        empty.write_text("<!doctype html><title>empty</title>")
        taken: dict[str, list[float]] = {name: [] for name in pages}
        for _ in range(options.rounds):
            start = shown(empty, Path(temporary))
            for name, page in pages.items():
                taken[name].append(shown(page, Path(temporary)) - start)
        rows = [{"case": name, "tensors": len(CASES[name]), "bytes": os.path.getsize(page), "seconds": taken[name]}
                for name, page in pages.items()]  # fmt: skip
    print(f"{'case':28} {'tensors':>8} {'MB':>6} {'s':>6}")
    for row in rows:
        print(
            f"{row['case']:28} {row['tensors']:8,} {row['bytes'] / 1e6:6.2f} {statistics.median(row['seconds']):6.2f}"
        )
    processes.write_json("pages", {"machine": processes.machine(), "rows": rows})


def merged(names: list[str], folder: Path) -> Path:
    """The page of a merge of so many small tensors by SDM-W."""
    folder.mkdir()
    paths = synthetic.write_models(str(folder), dict.fromkeys(names, (4, 4)), 2)
    recipe: dict[str, Any] = synthetic.recipe(paths)
    sdmw.merge(recipe, folder / "out", progress=False)
    return folder / "out" / "sdmw_report.html"


def shown(page: Path, folder: Path) -> float:
    """Seconds until Chromium has drawn all charts, and ended."""
    began = time.perf_counter()
    seen = browser(page, folder, "--dump-dom")
    took = time.perf_counter() - began
    if "figure.chart" in seen and "data-drawn" not in seen:
        raise RuntimeError(f"{page} was not drawn")
    return took


if __name__ == "__main__":
    main()
