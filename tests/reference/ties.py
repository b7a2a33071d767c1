"""TIES in plain NumPy, float32."""

import numpy as np

from reference.trimming import trimmed


def ties(base, models, weights, densities, trim="all", normalize=True, rescale=False, scale=1.0):
    """One tensor's float32 result."""
    places = []
    for model, density in zip(models, densities, strict=True):
        count = base.size if trim == "all" else np.count_nonzero(model - base)
        last = max(1, int(density * count)) if density > 0 else 0
        places.append(None if density >= 1 else (0, last))
    return trimmed(base, models, weights, places, vote=True, normalize=normalize, rescale=rescale, scale=scale)
