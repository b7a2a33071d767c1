"""TIES in plain NumPy, float32."""

from reference.trimming import trimmed


def ties(base, models, weights, densities, normalize=True, rescale=False, scale=1.0):
    """One tensor's float32 result."""
    places = [
        None if density >= 1 else (0, max(1, int(density * base.size)) if density > 0 else 0) for density in densities
    ]
    return trimmed(base, models, weights, places, vote=True, normalize=normalize, rescale=rescale, scale=scale)
