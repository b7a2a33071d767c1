"""Model stock in plain NumPy: decided in float64, summed in float32."""

import itertools

import numpy as np


def model_stock(base, models, filter_wise=False):
    """One tensor's float32 result."""
    if filter_wise:
        rows = [each.reshape(-1, base.shape[-1] if base.ndim else 1) for each in (base, *models)]
        return np.array([model_stock(row, own) for row, *own in zip(*rows, strict=True)]).reshape(base.shape)
    deltas = [(model - base).astype(np.float64).ravel() for model in models]
    count = len(models)
    pairs = itertools.combinations(deltas, 2)
    cosines = [np.clip((a @ b) / max(np.sqrt(a @ a) * np.sqrt(b @ b), 1e-6), -1, 1) for a, b in pairs]
    cosine = np.mean(cosines)
    denominator = 1 + (count - 1) * cosine
    t = count * cosine / denominator if abs(denominator) >= 1e-6 else 0.0
    total = np.float32(0)
    for number, model in enumerate(models):
        product = np.float32(t / count) * (model - base)
        total = product if number == 0 else total + product
    return base + total
