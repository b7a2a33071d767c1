"""SCE in plain NumPy: variances in float64, vote and sums in float32, weights from exact sums of squares."""

from fractions import Fraction

import numpy as np

ZERO, ONE = np.float32(0), np.float32(1)


def variance(deltas):
    """Over models, in float64, rounded to float32."""
    deltas, count = [delta.astype(np.float64) for delta in deltas], len(deltas)
    mean = deltas[0]
    for delta in deltas[1:]:
        mean = mean + delta
    mean = mean / count
    squares = [(delta - mean) * (delta - mean) for delta in deltas]
    total = squares[0]
    for square in squares[1:]:
        total = total + square
    return (total / count).astype(np.float32)


def weights(deltas):
    """By mean squares; equal where these are tiny."""
    squares = [float(sum(Fraction(float(x)) ** 2 for x in delta.ravel()) / delta.size) for delta in deltas]
    if sum(squares) < 1e-6:
        return [1 / len(deltas)] * len(deltas)
    return [square / sum(squares) for square in squares]


def sce(base, models, select_topk=1.0):
    """One tensor's float32 result."""
    deltas = [model - base for model in models]
    if select_topk < 1:
        varied = variance(deltas)
        count = max(0, int(select_topk * np.count_nonzero(varied)))
        mask = np.zeros(base.size, bool)
        mask[np.argsort(-varied.ravel(), kind="stable")[:count]] = True
        deltas = [np.where(mask.reshape(base.shape), delta, ZERO) for delta in deltas]
    total = deltas[0]
    for delta in deltas[1:]:
        total = total + delta
    sign = np.where(total >= 0, ONE, -ONE)
    total, share = np.zeros_like(base), np.zeros_like(base)
    for delta, weight in zip(deltas, weights(deltas), strict=True):
        agrees = delta * sign > 0
        total = total + np.where(agrees, delta * np.float32(weight), ZERO)
        share = share + np.where(agrees, np.float32(weight), ZERO)
    return base + total / np.maximum(share, np.float32(1e-6))
