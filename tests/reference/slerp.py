"""Spherical interpolation in plain NumPy: decided in float64, summed in float32."""

import numpy as np


def slerp(base, model, t):
    """One tensor's float32 result."""
    a, b = base.astype(np.float64).ravel(), model.astype(np.float64).ravel()
    norm_a, norm_b = np.sqrt(a @ a), np.sqrt(b @ b)
    cosine = np.clip((a @ b) / (norm_a if norm_a > 1e-8 else 1.0) / (norm_b if norm_b > 1e-8 else 1.0), -1, 1)
    if abs(cosine) > 0.9995:
        share_a, share_b = 1 - t, t
    else:
        angle = np.arccos(cosine)
        share_a, share_b = np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle)
    return np.float32(share_a) * base + np.float32(share_b) * model
