"""DELLA in plain NumPy: ranks by sorting, words as of DARE, then float32."""

import numpy as np
import xxhash

from reference.dare_linear import words
from reference.trimming import merged, scaled


def probabilities(delta, density, epsilon):
    """Of each element of a delta, by its rank in its row; equal magnitudes share the mean of their ranks."""
    rows = np.abs(delta).reshape(-1, delta.shape[-1] if delta.ndim else 1)
    found = np.empty(rows.shape)
    for row, out in zip(rows, found, strict=True):
        ordered = np.sort(row)
        ranks = (np.searchsorted(ordered, row, "left") + np.searchsorted(ordered, row, "right") - 1) / 2
        out[:] = density if row.size == 1 else (density - epsilon) + (2 * epsilon) * (ranks / (row.size - 1))
    return found.reshape(delta.shape)


def della_linear(
    name, base, models, weights, densities, epsilon=0.15, seed=0, normalize=False, rescale=True, scale=1.0, vote=False
):
    """One tensor's float32 result; `name` is the tensor's, `epsilon` of all models or a list."""
    kept = []
    epsilons = epsilon if isinstance(epsilon, list) else [epsilon] * len(models)
    for place, (model, density, epsilon) in enumerate(zip(models, densities, epsilons, strict=True)):
        delta = model - base
        mask = np.ones(delta.shape, bool)
        if density < 1:
            key = xxhash.xxh3_64_intdigest(f"{seed}\0{place}\0{name}".encode())
            below = np.floor(probabilities(delta, density, epsilon) * 2.0**32)
            mask = np.array(words(key, delta.size)).reshape(delta.shape) < below
            delta = scaled(delta, mask) if rescale else delta
        kept.append(np.where(mask, delta, np.float32(0)))
    return merged(base, kept, weights, vote=vote, normalize=normalize, scale=scale)
