"""Deltas trimmed by rank, weighed, voted on and added, in plain NumPy, float32 throughout: METHODS.md, section 3."""

import numpy as np

UNIT = 2.0**149


def between(delta, first, last):
    """Which elements lie between two places, the largest magnitude first and of equal ones the lowest element."""
    order = np.argsort(-np.abs(delta.ravel()), kind="stable")
    mask = np.zeros(delta.size, bool)
    mask[order[first:last]] = True
    return mask.reshape(delta.shape)


def scaled(delta, mask):
    """What is kept, as a float32 multiple that has the whole sum of magnitudes."""
    before, after = (sum(int(float(abs(x)) * UNIT) for x in part.ravel()) / UNIT for part in (delta, delta[mask]))
    return delta * np.float32(before / after) if before >= 1e-7 and after >= 1e-7 else delta


def merged(base, kept, weights, *, vote, normalize, scale):
    """Base plus the weighted sum of what is kept of each delta."""
    weighted = [np.float32(weight) * delta for weight, delta in zip(weights, kept, strict=True)]
    total = weighted[0]
    for each in weighted[1:]:
        total = total + each
    share = np.float32(0)
    if vote:
        sign = np.where(total >= 0, np.float32(1), np.float32(-1))
        total = np.zeros_like(base)
        for weight, each in zip(weights, weighted, strict=True):
            agrees = each * sign > 0
            total = total + np.where(agrees, each, np.float32(0))
            share = share + np.where(agrees, np.float32(weight), np.float32(0))
        share = np.where(share == 0, np.float32(1), share)
    else:
        for weight in weights:
            share = share + np.float32(weight)
        share = np.float32(1) if abs(share) < 1e-8 else share
    total = total / share if normalize else total
    return base + (total if scale == 1 else total * np.float32(scale))


def trimmed(base, models, weights, places, *, vote, normalize, rescale, scale):
    """The whole; `places` gives of each model the first and the last, or None where nothing is trimmed."""
    kept = []
    for model, place in zip(models, places, strict=True):
        delta = model - base
        mask = np.ones(delta.shape, bool) if place is None else between(delta, *place)
        delta = scaled(delta, mask) if rescale and place is not None else delta
        kept.append(np.where(mask, delta, np.float32(0)))
    return merged(base, kept, weights, vote=vote, normalize=normalize, scale=scale)
