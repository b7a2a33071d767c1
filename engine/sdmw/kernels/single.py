"""Methods of a base and one model, and of one model alone."""

from typing import Any

import numpy as np

from sdmw.kernels.jit import kernel
from sdmw.kernels.tiles import BLOCK, decode, encode

_NEAREST = np.float32(1e-6)  # a smaller distance counts as this one


@kernel
def swap_near(addresses: Any, codes: Any, count: int, t: Any, out_address: int, out_code: int) -> bool:
    """(2),(2),(),(): w * model + (1 - w) * base, w = clamp(t * (1 / max(|base - model|, 1e-6)), 0, 1).

    All numbers are float32. NaN and infinity pass on. Returns whether a result is NaN or infinite.
    """
    base, model = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    one, zero = np.float32(1.0), np.float32(0.0)
    bad = False
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        decode(addresses[0], codes[0], start, size, base)
        decode(addresses[1], codes[1], start, size, model)
        for i in range(size):
            distance = abs(base[i] - model[i])
            # `<` keeps NaN, which then is the weight and the result.
            weight = t * (one / (_NEAREST if distance < _NEAREST else distance))
            weight = zero if weight < zero else weight
            weight = one if weight > one else weight
            model[i] = weight * model[i] + (one - weight) * base[i]
        bad |= encode(model, size, out_code, out_address, start)
    return bad


@kernel
def scaled(addresses: Any, codes: Any, count: int, scale: Any, out_address: int, out_code: int) -> bool:
    """(1),(1),(),(): model * scale, float32; a scale of 1 keeps every bit, but makes NaN quiet.

    Returns whether a result is NaN or infinite.
    """
    model = np.empty(BLOCK, np.float32)
    bad = False
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        decode(addresses[0], codes[0], start, size, model)
        for i in range(0 if scale == np.float32(1.0) else size):
            model[i] = model[i] * scale
        bad |= encode(model, size, out_code, out_address, start)
    return bad
