"""From sums to weights: W_i in proportion to a power of x_i, of which bounds may be all that is known."""

from collections.abc import Sequence

from sdmw.methods.weight_law import WeightLaw

Interval = tuple[float, float]
ROUNDED = 1e-13  # by which a weight may be off for its roundings, relative to it


def weights_of(sums: Sequence[float], power: float) -> tuple[float, ...]:
    """W_i = x_i**power over their sum, as of the merge itself."""
    return WeightLaw(power).weights(sums)


def bounded_weights(sums: Sequence[Interval], power: float) -> tuple[Interval, ...]:
    """Bounds of each weight: the least where its own sum counts least and all others most, and the other way round."""
    if all(low == high for low, high in sums):
        return tuple((weight, weight) for weight in weights_of([low for low, _ in sums], power))
    if power == 0:
        return bounded_weights([(high, high) for _, high in sums], power)
    low, high = (0, 1) if power > 0 else (1, 0)
    found = []
    for model in range(len(sums)):
        least = weights_of([each[low if n == model else high] for n, each in enumerate(sums)], power)[model]
        most = weights_of([each[high if n == model else low] for n, each in enumerate(sums)], power)[model]
        found.append((least * (1 - ROUNDED), min(1.0, most * (1 + ROUNDED))))
    return tuple(found)
