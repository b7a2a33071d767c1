"""Task arithmetic on whole arrays."""

import numpy as np

from reference.sdm_w import deltas


def task_arithmetic(base, tunes, weights, normalize, scale):
    """base and each of tunes: a float32 array."""
    total, divisor = None, np.float32(0)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        for tune, weight in zip(tunes, weights, strict=True):
            product = np.float32(weight) * deltas(base, tune)
            total = product if total is None else total + product
            divisor = np.float32(divisor + np.float32(weight))
        if normalize and abs(divisor) >= 1e-8:
            total = total / divisor
        return base + total * np.float32(scale)
