"""Low-rank deltas on whole arrays, written the obvious way; nothing is shared with the engine."""

import math

import numpy as np


def product(left, right, scaling=1.0):
    """scaling * left @ right in float64, summed in the order of the rank, rounded once to float32."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    total = np.zeros((left.shape[0], right.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):
        for r in range(left.shape[1]):
            total = total + left[:, r : r + 1] * right[r : r + 1, :]
        return (scaling * total).astype(np.float32)


def scaling(alpha, rank, *, rslora=False):
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def delta(a, b, alpha, *, rslora=False, transposed=False):
    """What an adapter adds to a weight of shape (out, in), or (in, out) where it is transposed."""
    s = scaling(alpha, a.shape[0], rslora=rslora)
    return product(a.T, b.T, s) if transposed else product(b, a, s)
