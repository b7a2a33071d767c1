"""NuSLERP of whole tensors in plain NumPy: decided in float64, summed in float32."""

import numpy as np


def nuslerp(models, weights, base=None):
    """One tensor's float32 result."""
    vectors = models if base is None else [model - base for model in models]
    a, b = (each.astype(np.float64).ravel() for each in vectors)
    one, other = weights
    t = other / (one + other) if abs(one + other) >= 1e-6 else 0.5
    cosine = np.clip((a @ b) / max(np.sqrt(a @ a), 1e-7) / max(np.sqrt(b @ b), 1e-7), -1, 1)
    shares = 1 - t, t
    if 1 - cosine * cosine > 1e-16:
        angle = np.arccos(cosine)
        shares = [np.sin(share * angle) / np.sin(angle) for share in shares]
    first, second = (np.float32(share) * each for share, each in zip(shares, vectors, strict=True))
    return first + second if base is None else base + (first + second)
