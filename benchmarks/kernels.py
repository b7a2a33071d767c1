"""ns per element of each kernel, one thread, beside memcpy in the same run.

Prints a table, writes results/kernels.json.

python benchmarks/kernels.py [--rounds N]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import processes
import synthetic

from sdmw.kernels import tiles
from sdmw.kernels.bins import BINS, BLOCK, FIRST_NONFINITE_BIN, LOW
from sdmw.kernels.bracket import count_by_bracket
from sdmw.kernels.codes import BF16, F16, F32
from sdmw.statistics import bracket as guessed
from sdmw.statistics.histogram import HALF_MARGIN, WIDE_MARGIN
from sdmw.statistics.near import bracket

TILE = 1 << 21  # elements: what a run uses
CACHED = 1 << 16  # elements of a tile that stays in the second-level cache
CODES = {"BF16": BF16, "F16": F16, "F32": F32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print(processes.machine())
    print(f"{'kernel':44} {'dtype':>5} {'min ns':>7} {'median':>7} {'GB/s':>6} {'of memcpy':>9}")
    rows = [row for dtype in CODES for row in measure(dtype, rounds)]
    processes.write_json("kernels", {"machine": processes.machine(), "tile": TILE, "rows": rows})


def measure(dtype: str, rounds: int) -> list[dict[str, Any]]:
    """Every kernel on tiles of one dtype; each round runs all of them once, memcpy among them."""
    calls = {
        f"{name}, N = {models}": (call, models) for models in (1, 2, 4) for name, call in kernels(dtype, models).items()
    }
    source = np.zeros(TILE, np.uint16 if dtype != "F32" else np.uint32)
    target = np.empty_like(source)
    seconds: dict[str, list[float]] = {"memcpy": [], **{name: [] for name in calls}}
    for number in range(rounds + 1):
        for name, call in [("memcpy", lambda: np.copyto(target, source)), *((n, c) for n, (c, _) in calls.items())]:
            began = time.perf_counter()
            call()
            if number:  # the first round compiles and warms
                seconds[name].append(time.perf_counter() - began)
    size = source.itemsize
    memcpy = 2 * size * TILE / statistics.median(seconds["memcpy"])
    rows = []
    for name, taken in seconds.items():
        models = calls[name][1] if name in calls else 1
        # Bytes read and written: every model, the base where deltas are taken, the result where there is one.
        cached = "in L2" in name
        elements = CACHED if cached else TILE
        streams = {"memcpy": 2, "count": models + 1, "merge": models + 2, "avera": models + 1}[
            name[:5] if name != "memcpy" else name
        ]
        moved = size * elements * streams
        middle = statistics.median(taken)
        row = {
            "kernel": name,
            "dtype": dtype,
            "min_ns": min(taken) / (elements * models) * 1e9,
            "median_ns": middle / (elements * models) * 1e9,
            "gb_s": moved / middle / 1e9,
            "share_of_memcpy": moved / middle / memcpy,
        }
        rows.append(row)
        print(
            f"{name:44} {dtype:>5} {row['min_ns']:7.3f} {row['median_ns']:7.3f} {row['gb_s']:6.1f} "
            f"{row['share_of_memcpy']:9.0%}"
        )
    return rows


def kernels(dtype: str, models: int) -> dict[str, Callable[[], Any]]:
    """Calls of every kernel on one tile of so many fine-tunes; ns are per element of one fine-tune."""
    rng = np.random.default_rng(1)
    base = rng.standard_normal(TILE, np.float32) * np.float32(0.02)
    moved = [base + rng.standard_normal(TILE, np.float32) * np.float32(4e-4 * 3**n) for n in range(models)]
    arrays = [synthetic.stored(values, dtype) for values in (base, *moved)]
    addresses = np.array([array.ctypes.data for array in arrays], np.int64)
    codes = np.full(models + 1, CODES[dtype], np.int64)
    packed = np.zeros((models, tiles.PACKED), np.uint64)
    counts = np.zeros((models, BINS), np.int64)
    sums = np.zeros((models, BINS), np.int64)
    low = np.zeros((models, 2, LOW), np.int64)
    out = np.zeros(TILE, arrays[0].dtype)
    one, weights = np.float32(1), np.full(models, 0.5, np.float32)
    edges, listed, sizes = (
        np.zeros((models, 2), np.int64),
        np.empty((models, TILE), np.uint32),
        np.zeros(models, np.int64),
    )
    tiles.count_magnitudes(addresses, codes, TILE, BLOCK, packed, counts, sums, edges, listed, sizes)
    ranked = [np.searchsorted(np.cumsum(row), row.sum() // 10) for row in counts]
    bins = np.array([[place, place + 1] for place in ranked], np.int64)
    # The bracket that a run would list: three hundredths of the ranks to either side.
    for model, row in enumerate(counts):
        edges[model] = bracket(row, 10, WIDE_MARGIN if dtype == "F32" else HALF_MARGIN) or (0, 0)
    thresholds = np.array([int(place) << 16 for place in ranked], np.uint32).view(np.float32)
    keep = (arrays, out)  # the addresses must outlive the calls

    def count() -> None:
        sizes[:] = 0
        tiles.count_magnitudes(addresses, codes, TILE, BLOCK, packed, counts, sums, edges, listed, sizes)

    margin = guessed.WIDE_MARGIN if dtype == "F32" else guessed.HALF_MARGIN
    brackets = np.array([bracket(row[:FIRST_NONFINITE_BIN], 10, margin) for row in counts], np.int64)
    outside = np.zeros((models, 4), np.int64)

    def count_in(elements: int) -> Callable[[], None]:
        def call() -> None:
            sizes[:] = 0
            count_by_bracket(
                addresses, codes, elements, brackets, packed, counts, sums, outside, listed, sizes
            )  # fmt: skip

        return call

    def merge() -> Any:
        assert keep
        return tiles.merge_deltas(
            addresses, codes, TILE, thresholds, weights, one, one, True, out.ctypes.data, CODES[dtype]
        )

    return {
        "count_magnitudes": count,
        "count_by_bracket": count_in(TILE),
        "count_by_bracket in L2": count_in(CACHED),
        "count_low_bits": lambda: tiles.count_low_bits(addresses, codes, TILE, bins, low),
        "merge_deltas": merge,
        "average": lambda: tiles.average(
            addresses[1:], codes[1:], TILE, weights, one, out.ctypes.data, CODES[dtype]
        ),
    }  # fmt: skip


if __name__ == "__main__":
    main()
