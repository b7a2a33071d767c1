"""RAM and RAM+ in plain NumPy, float32."""

import numpy as np


def ram(base, models, epsilon=1e-5, factors=None):
    """One tensor's float32 result; `factors` are for what a model alone changes."""
    deltas = [model - base for model in models]
    deltas = [np.where(np.abs(delta) <= np.float32(epsilon), np.float32(0), delta) for delta in deltas]
    count = sum((delta != 0).astype(np.int32) for delta in deltas)
    total = np.zeros_like(base)
    for delta, factor in zip(deltas, factors or [1.0] * len(models), strict=True):
        total = total + delta * np.where(count == 1, np.float32(factor), np.float32(1))
    return base + total / np.maximum(count, 1).astype(np.float32)
