"""Breadcrumbs in plain NumPy, float32."""

import numpy as np

from reference.trimming import trimmed


def breadcrumbs(
    base, models, weights, densities, gammas, trim="all", normalize=False, rescale=False, scale=1.0, vote=False
):
    """One tensor's float32 result."""
    places = []
    for model, density, gamma in zip(models, densities, gammas, strict=True):
        count = base.size if trim == "all" else np.count_nonzero(model - base)
        keep, top = int(density * count), int(gamma * count)
        low = max(0, count - keep - top)
        places.append(None if density >= 1 else (count - low - keep, count - low))
    return trimmed(base, models, weights, places, vote=vote, normalize=normalize, rescale=rescale, scale=scale)
