"""Passthrough in plain NumPy, float32."""

import numpy as np


def passthrough(model, scale=1.0):
    """One tensor's float32 result."""
    return model if scale == 1 else model * np.float32(scale)
