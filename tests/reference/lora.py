"""Adapters combined on whole arrays, written the obvious way; nothing is shared with the engine."""

import numpy as np


def combined(kind, adapters, weights, rank):
    """A and B in float64 before they are rounded to float32.

    adapters: (A, B, scaling) of each; A is (rank, in), B is (out, rank).
    """
    factors = [w * s for w, (_, _, s) in zip(weights, adapters, strict=True)]
    wide = [(a.astype(np.float64), b.astype(np.float64)) for a, b, _ in adapters]
    if kind == "linear":
        a = sum(np.sign(f) * np.sqrt(abs(f)) * a for f, (a, _) in zip(factors, wide, strict=True))
        b = sum(np.sqrt(abs(f)) * b for f, (_, b) in zip(factors, wide, strict=True))
    elif kind == "cat":
        a = np.concatenate([f * a for f, (a, _) in zip(factors, wide, strict=True)])
        b = np.concatenate([b for _, b in wide], axis=1)
    else:
        delta = sum(f * (b @ a) for f, (a, b) in zip(factors, wide, strict=True))
        u, s, v = np.linalg.svd(delta, full_matrices=False)
        a, b = v[:rank], (u * s)[:, :rank]
    return padded(a, (rank, a.shape[1])), padded(b, (b.shape[0], rank))


def padded(matrix, shape):
    out = np.zeros(shape)
    out[: min(shape[0], matrix.shape[0]), : min(shape[1], matrix.shape[1])] = matrix[: shape[0], : shape[1]]
    return out
