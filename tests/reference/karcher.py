"""The Karcher mean in plain NumPy, on whole vectors: decided in float64, summed in float32."""

import numpy as np


def karcher(models, max_iter=10, tol=1e-5):
    """One tensor's float32 result."""
    vectors = np.array([model.astype(np.float64).ravel() for model in models])
    norms = np.sqrt((vectors * vectors).sum(axis=1))
    left = norms > tol
    if not left.any():
        return np.zeros_like(models[0])
    # What the result is of the models: found by carrying the units' coefficients along.
    units = vectors[left] / norms[left, None]
    count = len(units)
    shares = np.full(count, 1 / count)
    mean = shares @ units
    if np.sqrt(mean @ mean) < tol:
        shares = np.eye(count)[0]
        mean = units[0]
    length = np.sqrt(mean @ mean)
    mean, shares = mean / length, shares / length
    for _ in range(max_iter):
        tangent, steps = np.zeros_like(mean), np.zeros(count)
        for number, unit in enumerate(units):
            cosine = np.clip(unit @ mean, -1, 1)
            angle = np.arccos(cosine)
            if angle >= tol:
                share = angle / np.sin(angle) / count
                tangent += share * (unit - cosine * mean)
                steps += share * (np.eye(count)[number] - cosine * shares)
        length = np.sqrt(tangent @ tangent)
        if length < tol:
            break
        mean = np.cos(length) * mean + np.sin(length) / length * tangent
        shares = np.cos(length) * shares + np.sin(length) / length * steps
        length = np.sqrt(mean @ mean)
        mean, shares = mean / length, shares / length
    coefficients = np.zeros(len(models))
    coefficients[left] = shares / norms[left] * (norms.sum() / len(norms))
    total = np.zeros_like(models[0])
    for coefficient, model in zip(coefficients, models, strict=True):
        total = total + np.float32(coefficient) * model
    return total
