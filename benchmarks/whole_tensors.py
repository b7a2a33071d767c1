"""SDM-W the plain way, whole tensors at a time, in NumPy or in torch: what a careful person writes in an afternoon.

python benchmarks/whole_tensors.py numpy|torch METHOD OUT BASE TUNE [TUNE ...]

METHOD is sdm_w, linear or task_arithmetic.

One tensor is in memory at a time, in every model; percentiles are the library's own, thresholds are kept between the
two passes. Reading and writing are the safetensors library's; the output's tensors are collected as it demands.
"""

import os
import sys
import time
from typing import Any

from safetensors import safe_open

K = 0.1  # the share of changed elements that is dropped


def main() -> None:
    library, method, out, *paths = sys.argv[1:]
    began = time.perf_counter()
    if library == "numpy":
        import numpy_way as way
    else:
        import torch_way as way  # type: ignore[no-redef]
    files = [open_all(path, way.FRAMEWORK) for path in paths]
    names = list(files[0])

    def tensors(name: str) -> list[Any]:
        return [way.widened(model[name].get_tensor(name)) for model in files]

    weights = [1.0 / (len(paths) - 1)] * (len(paths) - 1)
    cuts: dict[str, list[Any]] = {}
    if method == "sdm_w":
        magnitudes = [0.0] * (len(paths) - 1)
        for name in names:
            base, *tunes = tensors(name)
            measured = [way.threshold(tune - base, K) for tune in tunes]
            cuts[name] = [cut for cut, _ in measured]
            magnitudes = [total + kept for total, (_, kept) in zip(magnitudes, measured, strict=True)]
        weights = [magnitude / sum(magnitudes) for magnitude in magnitudes]
    result = {}
    for name in names:
        base, *tunes = tensors(name)
        if method == "linear":
            total = sum(weight * tune for weight, tune in zip(weights, tunes, strict=True))
        else:
            total = base
            for number, tune in enumerate(tunes):
                delta = tune - base
                if method == "sdm_w":
                    delta = way.masked(delta, cuts[name][number])
                total = total + weights[number] * delta
        result[name] = way.narrowed(total)
    os.makedirs(out, exist_ok=True)
    way.save(result, os.path.join(out, "model.safetensors"))
    descriptor = os.open(os.path.join(out, "model.safetensors"), os.O_RDONLY)
    os.fsync(descriptor)
    print(time.perf_counter() - began)


def open_all(path: str, framework: str) -> dict[str, Any]:
    """Every tensor's file, by the tensor's name."""
    found = {}
    for entry in sorted(os.listdir(path)):
        if entry.endswith(".safetensors"):
            file = safe_open(os.path.join(path, entry), framework)
            found.update(dict.fromkeys(file.keys(), file))
    return found


if __name__ == "__main__":
    main()
