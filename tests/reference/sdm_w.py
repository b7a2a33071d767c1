"""SDM-W on whole arrays. Everything is written the obvious way; nothing is shared with the engine."""

from fractions import Fraction

import numpy as np

from reference.preserve_norm import preserve_norm


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


def magnitude(arrays, norm=1):
    """The exact sum of the finite magnitudes to the power of the norm, rounded once."""
    finite = (x for a in arrays for x in np.abs(a[np.isfinite(a)]).ravel() if x)
    return float(sum((Fraction(float(x)) ** norm for x in finite), Fraction(0)))


def weights(sums, power):
    """All zero where all sums are."""
    changed = [x for x in sums if x]
    if not changed:
        return [0.0] * len(sums)
    unit = max(changed) if power >= 0 else min(changed)
    powers = [(x / unit) ** power if x else 0.0 for x in sums]
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


def sdm_w(
    base, tunes, layers, *, k=10.0, power=1.0, norm=1, by_layer=False, scale=1.0, preserve=None, given=None,
    approximate=False,
):  # fmt: skip
    """Merge whole models.

    base: {name: float32 array}; tunes: a list of such; layers: {layer: [names]}; k: one number, or one a model.
    Returns the merged float32 arrays, and per model: M, W (where it is the model's), {layer: (P, nonzero, kept)}; and
    the weights of each layer. With `preserve`, "model" or "layer", lambda preserves norms; for the model not with
    weights by layer.
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
    result, chosen = {}, {}
    whole = [{name: deltas(base[name], tune[name]) for name in base} for tune in tunes] if preserve else []
    for layer, names in layers.items():
        scope = names if by_layer else list(base)
        sums = [magnitude([mine[name] for name in scope], norm) for mine in all_kept]
        takes_part = [True] * len(tunes) if given else [x > 0 for x in sums]
        chosen[layer] = list(given) if given else weights(sums, power / norm)
        if preserve:
            over = names if preserve == "layer" else list(base)
            scale = preserve_norm(chosen[layer], [[each[name] for name in over] for each in whole])
        for name in names:
            parts = [
                mine[name] if taking else np.zeros_like(base[name])
                for mine, taking in zip(all_kept, takes_part, strict=True)
            ]
            result[name] = merged(base[name], parts, chosen[layer], scale)
    of_model = None if by_layer else next(iter(chosen.values()))
    return result, magnitudes, of_model, facts, chosen
