"""Arcee fusion in plain NumPy: shares and divergence in float64, scores in float32, changes added in float32."""

import math

import numpy as np


def shares(row):
    """Softmax and a little more, float64."""
    powers = np.array([math.exp(x) for x in row.astype(np.float64) - float(row.max())])
    return powers / math.fsum(powers) + 1e-8


def divergence(base, model):
    """Of one row."""
    p, q = shares(model), shares(base)
    return math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True))


def arcee_fusion(base, model):
    """One tensor's float32 result."""
    delta = model - base
    rows = (each.reshape(-1, base.shape[-1] if base.ndim else 1) for each in (base, model))
    factors = np.array([divergence(*pair) for pair in zip(*rows, strict=True)])
    scores = np.abs(delta).astype(np.float64).reshape(factors.size, -1) * factors[:, None]
    scores = (scores + 0.0).astype(np.float32).reshape(base.shape)
    ordered = np.sort(scores.ravel()).astype(np.float64)
    lower, median, upper = (ordered[int(share * (ordered.size - 1))] for share in (0.25, 0.5, 0.75))
    return np.where(scores >= median + 1.5 * (upper - lower), base + delta, base)
