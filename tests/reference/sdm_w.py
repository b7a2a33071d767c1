"""SDM-W on whole arrays. Everything is written the obvious way; nothing is shared with the engine."""

from fractions import Fraction

import numpy as np


def deltas(base, tune):
    """One float32 subtraction; equal bits give 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        delta = tune - base
    return np.where(tune.view(np.uint32) == base.view(np.uint32), np.float32(0), delta)


def threshold(layer_deltas, k):
    """P of one layer: None where nothing changed."""
    magnitudes = np.abs(np.concatenate([d.ravel() for d in layer_deltas]))
    changed = magnitudes[(magnitudes != 0) & np.isfinite(magnitudes)]
    return None if changed.size == 0 else float(np.percentile(changed.astype(np.float64), k))


def approximate_threshold(layer_deltas, k):
    """The lower edge of the bin of the lower rank, and how many deltas are in that bin."""
    magnitudes = np.abs(np.concatenate([d.ravel() for d in layer_deltas]))
    changed = np.sort(magnitudes[(magnitudes != 0) & np.isfinite(magnitudes)])
    if changed.size == 0:
        return None, 0
    bins = changed.view(np.uint32) >> 16
    own = bins[int(np.floor((changed.size - 1) * (k / 100)))]
    edge = np.uint32(max(int(own) << 16, 1)).view(np.float32)
    return float(edge), int((bins == own).sum())


def kept(delta, p):
    """The delta where its magnitude reaches P, else 0; NaN and infinity stay."""
    if p is None:
        return np.where(np.isfinite(delta), np.float32(0), delta)
    return np.where((np.abs(delta).astype(np.float64) >= p) | ~np.isfinite(delta), delta, np.float32(0))


def magnitude(arrays):
    """The exact sum of the finite magnitudes, rounded once."""
    total = sum((Fraction(float(x)) for a in arrays for x in np.abs(a[np.isfinite(a)]).ravel() if x), Fraction(0))
    return float(total)


def weights(magnitudes, power):
    largest = max(magnitudes)
    powers = [(m / largest) ** power if m else 0.0 for m in magnitudes]
    total = 0.0
    for p in powers:
        total = total + p
    return [p / total for p in powers]


def merged(base, kept_deltas, model_weights, scale):
    """base + scale * sum of weight * delta, in float32, before the last rounding."""
    total = None
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        for delta, weight in zip(kept_deltas, model_weights, strict=True):
            product = np.float32(weight) * delta
            total = product if total is None else total + product
        if scale != 1:
            total = total * np.float32(scale)
        return np.where(total == 0, base, base + total)


def sdm_w(base, tunes, layers, *, k=10.0, power=1.0, scale=1.0, given=None, approximate=False):
    """Merge whole models.

    base: {name: float32 array}; tunes: a list of such; layers: {layer: [names]}; k: one number, or one a model.
    Returns the merged float32 arrays, and per model: M, W, {layer: (P, nonzero, kept)}.
    """
    ks = k if isinstance(k, (list, tuple)) else [k] * len(tunes)
    all_kept, facts = [], []
    for tune, own_k in zip(tunes, ks, strict=True):
        mine, layer_facts = {}, {}
        for layer, names in layers.items():
            d = {name: deltas(base[name], tune[name]) for name in names}
            p = approximate_threshold(d.values(), own_k)[0] if approximate else threshold(d.values(), own_k)
            for name in names:
                mine[name] = kept(d[name], p)
            changed = sum(int(((x != 0) & np.isfinite(x)).sum()) for x in d.values())
            stay = sum(int(((mine[n] != 0) & np.isfinite(mine[n])).sum()) for n in names)
            layer_facts[layer] = (p, changed, stay)
        all_kept.append(mine)
        facts.append(layer_facts)
    magnitudes = [magnitude(mine.values()) for mine in all_kept]
    takes_part = [True] * len(tunes) if given else [m > 0 for m in magnitudes]
    chosen = list(given) if given else weights(magnitudes, power) if any(magnitudes) else [0.0] * len(tunes)
    result = {}
    for name in base:
        parts = [
            mine[name] if taking else np.zeros_like(base[name])
            for mine, taking in zip(all_kept, takes_part, strict=True)
        ]
        result[name] = merged(base[name], parts, chosen, scale)
    return result, magnitudes, chosen, facts
