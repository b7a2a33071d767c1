"""Multislerp of whole tensors in plain NumPy: decided in float64, summed in float32."""

import numpy as np


def multislerp(models, weights, normalize_weights=True, eps=1e-8, base=None):
    """One tensor's float32 result."""
    vectors = models if base is None else [model - base for model in models]
    wide = np.array([each.astype(np.float64).ravel() for each in vectors])
    norms = np.sqrt((wide * wide).sum(axis=1))
    units, weights = wide / (norms + eps)[:, None], np.array(weights, float)
    weights = weights / weights.sum() if normalize_weights else weights
    # Each vector is kept as its coefficients over the units.
    mean = weights / np.sqrt((weights @ units) @ (weights @ units))
    along = units @ (mean @ units)
    tangent = weights - (weights @ along) * mean
    angle = np.sqrt((tangent @ units) @ (tangent @ units)) + eps
    shares = (mean * np.cos(angle) + tangent * np.sin(angle) / angle) * (weights @ norms) / (norms + eps)
    products = [np.float32(share) * each for share, each in zip(shares, vectors, strict=True)]
    total = products[0] if len(products) > 1 else vectors[0]
    for product in products[1:]:
        total = total + product
    return total if base is None else base + total
