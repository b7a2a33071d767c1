"""What a statistics store costs: measuring beside SDM-W's own deciding, and a sweep over the shapes of 70 B parameters.

python benchmarks/stores.py [--folder FOLDER] [--parameters N] [--rounds N]

Whole processes, cold, in turn: `sdmw.open` decides and writes nothing, `sdmw.measure` writes a store. The large store
holds the statistics of one real tile in every tensor, counted for its size. Writes results/stores.json.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import processes
import synthetic

import sdmw
from sdmw.archives.shards import compressed
from sdmw.kernels.codes import F32
from sdmw.statistics.look import Tile
from sdmw.statistics.survey import Survey, SurveyCounter
from sdmw.stores.rows import row_of
from sdmw.stores.store import Store, StoredTensor
from sdmw.stores.writing import StoreWriter

DECIDE = "import json, sys, sdmw; sdmw.open(json.loads(sys.argv[1]), progress=False)"
MEASURE = "import json, sys, sdmw; sdmw.measure(json.loads(sys.argv[1]), sys.argv[2], progress=False, overwrite=True)"
ELEMENTS = 1 << 20  # of the tile
MODELS = 3
GRID: dict[str, Any] = {"k": [0, 5, 10, 20, 30, 40, 50, 70, 90, 99], "power": [0, 1, 2, -1, 4], "norm": [1, 2]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the synthetic models lie; kept if given")
    parser.add_argument("--parameters", type=float, default=1.1e9)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        shapes = synthetic.decoder(int(options.parameters))
        paths = synthetic.write_models(os.path.join(options.folder or temporary, "decoder"), shapes, 2)
        measuring = against_deciding(paths, os.path.join(temporary, "store"), options.rounds)
        sweeping = of_70_b(os.path.join(temporary, "large"))
    processes.write_json("stores", {"machine": processes.machine(), "measuring": measuring, "sweeping": sweeping})


def against_deciding(paths: list[str], store: str, rounds: int) -> dict[str, Any]:
    """Seconds and processor seconds of both, and the medians of the paired ratios."""
    recipe = json.dumps(synthetic.recipe(paths))
    taken: dict[str, list[tuple[float, float]]] = {"decide": [], "measure": []}
    for _ in range(rounds):
        for name, program in (("decide", DECIDE), ("measure", MEASURE)):
            processes.drop_cache(*paths)
            found = processes.run([sys.executable, "-c", program, recipe, store])
            if found.returncode:
                raise RuntimeError(found.output[-2000:])
            taken[name].append((found.wall_s, found.cpu_s))
    pairs = list(zip(taken["measure"], taken["decide"], strict=True))
    wall, cpu = (statistics.median(one[at] / other[at] for one, other in pairs) for at in (0, 1))
    size = _size(store)
    print(f"measure to decide, cold: {wall:.2f} times the wall time, {cpu:.2f} times the processor time")
    print(f"store of {sum(1 for _ in paths) - 1} models: {size / 1e6:.1f} MB")
    return {"runs": taken, "wall": wall, "cpu": cpu, "store_bytes": size}


def of_70_b(folder: str) -> dict[str, Any]:
    """A sweep of 100 settings over 70 B parameters and three models."""
    shapes = llama_70_b()
    write_store(folder, shapes)
    began, cpu = time.perf_counter(), time.process_time()
    rows = sdmw.sweep(folder, **GRID).rows
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    size = _size(folder)
    print(f"{len(rows)} settings over {len(shapes):,} tensors of 70 B: {wall:.1f} s, {cpu:.1f} s of processor time")
    print(f"store of {MODELS} models: {size / 1e6:.0f} MB")
    return {"settings": len(rows), "tensors": len(shapes), "wall_s": wall, "cpu_s": cpu, "store_bytes": size}


def llama_70_b() -> synthetic.Shapes:
    """The shapes of Llama 3 70B."""
    wide, heads, inner, vocabulary = 8192, 1024, 28672, 128256
    found: synthetic.Shapes = {"model.embed_tokens.weight": (vocabulary, wide), "lm_head.weight": (vocabulary, wide)}
    block = {
        "self_attn.q_proj": (wide, wide), "self_attn.k_proj": (heads, wide), "self_attn.v_proj": (heads, wide),
        "self_attn.o_proj": (wide, wide), "mlp.gate_proj": (inner, wide), "mlp.up_proj": (inner, wide),
        "mlp.down_proj": (wide, inner), "input_layernorm": (wide,), "post_attention_layernorm": (wide,),
    }  # fmt: skip
    for number in range(80):
        found |= {f"model.layers.{number}.{name}.weight": shape for name, shape in block.items()}
    return found | {"model.norm.weight": (wide,)}


def write_store(folder: str, shapes: synthetic.Shapes) -> None:
    """A store of so many tensors, each with the statistics of one tile, in proportion to its elements."""
    names = tuple(f"model-{number}" for number in range(MODELS))
    tensors = tuple(StoredTensor(name, tuple(shape)) for name, shape in shapes.items())
    with StoreWriter(folder, MODELS) as writer:
        for number, tensor in enumerate(tensors):
            own = of_a_tile(min(ELEMENTS, tensor.elements))
            for name, chunk in writer.add(
                tensor.elements, number, row_of(times(own, tensor.elements // ELEMENTS or 1))
            ):
                writer.store(name, compressed(chunk, "shuffle"))
        for name, chunk in writer.rest():
            writer.store(name, compressed(chunk, "shuffle"))
        writer.close(Store(sdmw.__version__, folder, names, tensors, {}, {}, "{}").attributes())


@cache
def of_a_tile(elements: int) -> Survey:
    """Real statistics of float32 deltas, which occupy more bins than those of bfloat16."""
    rng = np.random.default_rng(1)
    base = rng.standard_normal(elements).astype(np.float32)
    models = [base + rng.standard_normal(elements).astype(np.float32) * 1e-3 for _ in range(MODELS)]
    counter = SurveyCounter(MODELS)
    arrays = [base, *models]
    addresses = np.array([array.ctypes.data for array in arrays], np.int64)
    counter.add(Tile(addresses, np.full(len(arrays), F32, np.int64), elements))
    return counter.result()


def times(survey: Survey, factor: int) -> Survey:
    """As of so many such tiles."""
    models = tuple(
        replace(
            m, counts=m.counts * factor, odds=m.odds * factor, low_sums=m.low_sums * factor, squares=m.squares * factor
        )
        for m in survey.models
    )
    return replace(survey, models=models, conflict=survey.conflict * factor, overlap=survey.overlap * factor)


def _size(folder: str) -> int:
    """Bytes of all files."""
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)


if __name__ == "__main__":
    main()
