"""NuSLERP in plain NumPy: decided in float64, summed in float32."""

import numpy as np


def nuslerp(models, weights, base=None, nuslerp_flatten=True, nuslerp_row_wise=False):
    """One tensor's float32 result."""
    if not nuslerp_flatten:
        return by_vector(models, weights, base, -1 if not nuslerp_row_wise else 0)
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


def by_vector(models, weights, base, axis):
    """Each vector along an axis by itself."""
    arrays = [np.atleast_1d(each) for each in (*models, *([] if base is None else [base]))]
    turned = [np.moveaxis(each, axis, -1) for each in arrays]
    out = np.empty_like(turned[0])
    for place in np.ndindex(out.shape[:-1]):
        one, other, *below = (each[place] for each in turned)
        out[place] = nuslerp([one, other], weights, *below)
    return np.moveaxis(out, -1, axis).reshape(models[0].shape)
