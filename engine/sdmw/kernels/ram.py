"""Deltas by how many models share an element: counted, and merged. Source: METHODS.md, section 3, `ram`."""

from typing import Any

import numpy as np

from sdmw.kernels.codes import DELTA
from sdmw.kernels.jit import kernel
from sdmw.kernels.tiles import BLOCK, decode, encode


@kernel
def changes(addresses: Any, codes: Any, start: int, size: int, epsilon: Any, base: Any, deltas: Any, on: Any) -> None:
    """Decode `size` elements: the base, and the deltas whose magnitude is above epsilon; `on` counts these."""
    decode(addresses[0], codes[0], start, size, base)
    for i in range(size):
        on[i] = np.int32(0)
    for model in range(addresses.size - 1):
        delta, origin = deltas[model], np.float32(0.0 if codes[model + 1] == DELTA else 1.0)
        decode(addresses[model + 1], codes[model + 1], start, size, delta)
        for i in range(size):
            changed = delta[i] - base[i] if origin == np.float32(1.0) else delta[i]
            # Not `>`: NaN is not within epsilon either, so that it passes on.
            inside = abs(changed) <= epsilon
            delta[i] = np.float32(0.0) if inside else changed
            on[i] += np.int32(0) if inside else np.int32(1)


@kernel
def count_shared(addresses: Any, codes: Any, count: int, epsilon: Any, counts: Any) -> None:
    """(n+1),(n+1),(),(),(n,2) int64: per model, how many of its changes others share, and how many are its alone.

    NaN and infinity are changes.
    """
    models = addresses.size - 1
    base, deltas = np.empty(BLOCK, np.float32), np.empty((models, BLOCK), np.float32)
    on = np.empty(BLOCK, np.int32)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        changes(addresses, codes, start, size, epsilon, base, deltas, on)
        for model in range(models):
            shared, alone = np.int32(0), np.int32(0)
            for i in range(size):
                changed = deltas[model, i] != np.float32(0.0)
                shared += np.int32(changed and on[i] > 1)
                alone += np.int32(changed and on[i] == 1)
            counts[model, 0] += np.int64(shared)
            counts[model, 1] += np.int64(alone)


@kernel
def merge_shared(
    addresses: Any, codes: Any, count: int, epsilon: Any, factors: Any, out_address: int, out_code: int
) -> bool:
    """(n+1),(n+1),(),(),(n): base + the mean of the deltas above epsilon, over the models that have one.

    A delta that is its model's alone is multiplied by the model's factor. All numbers are float32. NaN and infinity
    pass on. Returns whether a result is NaN or infinite.
    """
    models = addresses.size - 1
    base, deltas = np.empty(BLOCK, np.float32), np.empty((models, BLOCK), np.float32)
    on, total = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32)
    bad = False
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        changes(addresses, codes, start, size, epsilon, base, deltas, on)
        total[:size] = np.float32(0.0)
        for model in range(models):
            factor = factors[model]
            for i in range(size):
                total[i] += deltas[model, i] * (factor if on[i] == 1 else np.float32(1.0))
        for i in range(size):
            total[i] = base[i] + total[i] / np.float32(max(on[i], np.int32(1)))
        bad |= encode(total, size, out_code, out_address, start)
    return bad
