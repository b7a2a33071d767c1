"""Breadcrumbs in plain NumPy, float32."""

from reference.trimming import trimmed


def breadcrumbs(base, models, weights, densities, gammas, normalize=False, rescale=False, scale=1.0, vote=False):
    """One tensor's float32 result."""
    places = []
    for density, gamma in zip(densities, gammas, strict=True):
        keep, top = int(density * base.size), int(gamma * base.size)
        low = max(0, base.size - keep - top)
        places.append(None if density >= 1 else (base.size - low - keep, base.size - low))
    return trimmed(base, models, weights, places, vote=vote, normalize=normalize, rescale=rescale, scale=scale)
