"""What adapters cost beside full fine-tunes: time and peak memory; and how large delta archives are.

python benchmarks/adapters.py [--folder FOLDER] [--parameters N]

Adapters are synthetic, of rank 16 (64 where it says so), on every linear weight of the base. Wall time is of `merge`
alone, inputs cached; peak is the kernel's own. Writes results/adapters.json.
"""

import argparse
import json
import os
import sys
import tempfile
from typing import Any

import numpy as np
import processes
import synthetic

from sdmw.recipes.model_ref import ModelRef
from sdmw.tensors.dtype import DType
from sdmw.writing.adapter_config import adapter_config
from sdmw.writing.layout import ADAPTER, lay_out

PACKED = """
import json, sys, sdmw
base, model, out, k = json.loads(sys.argv[1])
report = sdmw.pack(base, model, out, k=k, progress=False, overwrite=True)
print(json.dumps([report.share, report.archive_bytes, report.checkpoint_bytes, report.ratio]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the synthetic models lie; kept if given")
    parser.add_argument("--parameters", type=float, default=1.1e9)
    arguments = parser.parse_args()
    print(processes.machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or temporary
        shapes = synthetic.decoder(int(arguments.parameters))
        paths = synthetic.write_models(os.path.join(folder, "decoder"), shapes, 2)
        rows = merges(folder, paths, shapes) + archives(folder, paths)
    processes.write_json("adapters", {"machine": processes.machine(), "rows": rows})


def merges(folder: str, paths: list[str], shapes: synthetic.Shapes) -> list[dict[str, Any]]:
    """Two full fine-tunes, then adapters in growing numbers and ranks."""
    made = [write_adapter(os.path.join(folder, f"adapter-{rank}-{n}"), paths[0], shapes, rank, n)
            for rank, count in ((16, 8), (64, 1)) for n in range(count)]  # fmt: skip
    cases = [
        ("sdm_w, two full fine-tunes", "sdm_w", paths[1:], {}),
        ("sdm_w, two adapters", "sdm_w", made[:2], {}),
        ("sdm_w, eight adapters", "sdm_w", made[:8], {}),
        ("task_arithmetic, two adapters", "task_arithmetic", made[:2], {}),
        ("task_arithmetic, one of rank 64", "task_arithmetic", made[8:], {}),
        ("lora cat, two adapters", "lora", made[:2], {"combination_type": "cat"}),
        ("lora svd, two adapters", "lora", made[:2], {"combination_type": "svd"}),
        ("lora cat, to an adapter", "lora", made[:2], {"combination_type": "cat", "output": "adapter"}),
    ]
    print(f"{'case':36} {'s':>7} {'peak MB':>8} {'plan MB':>8}")
    rows = []
    for name, method, models, parameters in cases:
        recipe = {
            "merge_method": method,
            "base_model": paths[0],
            "models": [{"model": model} for model in models],
            "parameters": parameters,
        }
        processes.fill_cache(*paths)
        out = os.path.join(folder, "with-adapters")
        measured, report = processes.merge(recipe, out)
        processes.remove(out)
        run = report["run"]
        row = {"case": name, "wall_s": run["wall_s"], "peak_rss": measured.peak_rss, "planned": run["planned_peak"]}
        rows.append(row)
        print(f"{name:36} {row['wall_s']:7.1f} {row['peak_rss'] / 1e6:8.0f} {row['planned'] / 1e6:8.0f}", flush=True)
    return rows


def archives(folder: str, paths: list[str]) -> list[dict[str, Any]]:
    """Delta archives of a dense fine-tune, at several k, and of the example's."""
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "data")
    cases = [
        ("synthetic fine-tune", paths[0], paths[1], 0.0),
        ("synthetic fine-tune", paths[0], paths[1], 90.0),
        ("the example's corp", os.path.join(here, "base"), os.path.join(here, "corp"), 0.0),
        ("the example's corp", os.path.join(here, "base"), os.path.join(here, "corp"), 90.0),
    ]
    print(f"{'archive':24} {'k':>4} {'differ':>8} {'archive MB':>11} {'of checkpoint':>13} {'s':>6}")
    rows = []
    for name, base, model, k in cases:
        out = os.path.join(folder, "archive")
        measured = processes.run([sys.executable, "-c", PACKED, json.dumps([base, model, out, k])])
        processes.remove(out)
        if measured.returncode:
            raise RuntimeError(measured.output[-2000:])
        share, size, whole, ratio = json.loads(measured.output.splitlines()[-1])
        rows.append(
            {"case": name, "k": k, "share": share, "archive": size, "checkpoint": whole, "peak": measured.peak_rss}
        )
        print(f"{name:24} {k:4.0f} {share:8.1%} {size / 1e6:11.1f} {ratio:13.1%} {measured.wall_s:6.1f}", flush=True)
    return rows


def write_adapter(path: str, base: str, shapes: synthetic.Shapes, rank: int, number: int) -> str:
    """Random matrices for every linear weight; their product is small beside the weights."""
    modules = [name.removesuffix(".weight") for name, shape in shapes.items() if "_proj" in name and len(shape) == 2]
    wanted = []
    for module in modules:
        rows, columns = shapes[f"{module}.weight"]
        wanted.append((f"base_model.model.{module}.lora_A.weight", DType.F32, (rank, columns)))
        wanted.append((f"base_model.model.{module}.lora_B.weight", DType.F32, (rows, rank)))
    (layout,) = lay_out(wanted, 2**62, ADAPTER)
    os.makedirs(path, exist_ok=True)
    rng = np.random.default_rng(number)
    with open(os.path.join(path, layout.name), "wb") as file:
        file.write(layout.header)
        for tensor in layout.tensors:
            file.write((rng.standard_normal(tensor.elements, np.float32) * np.float32(0.01)).tobytes())
    config = adapter_config(
        base=ModelRef.parse(base), rank=rank, modules=modules, fan_in_fan_out=False, task_type="CAUSAL_LM"
    )
    with open(os.path.join(path, "adapter_config.json"), "wb") as file:
        file.write(config)
    return path


if __name__ == "__main__":
    main()
