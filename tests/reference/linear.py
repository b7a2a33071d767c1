"""Model averaging on whole arrays."""

import numpy as np


def linear(models, weights, normalize):
    """models: a list of float32 arrays."""
    total = np.zeros_like(models[0])
    divisor = np.float32(0)
    with np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore"):
        for model, weight in zip(models, weights, strict=True):
            total = total + np.float32(weight) * model
            divisor = np.float32(divisor + np.float32(weight))
        return total / divisor if normalize else total
