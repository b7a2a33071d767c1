"""RAM+ in plain NumPy: counts, factors, then as ram."""

import numpy as np

from reference.ram import ram


def ramplus_tl(base, models, epsilon=1e-5, r=0.1, alpha=0.2):
    """One tensor's float32 result."""
    on = [np.abs(model - base) > np.float32(epsilon) for model in models]
    count = sum(each.astype(int) for each in on)
    factors = []
    for each in on:
        shared, alone = np.count_nonzero(each & (count > 1)), np.count_nonzero(each & (count == 1))
        factors.append(1 + r * min(max(shared / max(alone, epsilon), 0), alpha))
    return ram(base, models, epsilon, factors)
