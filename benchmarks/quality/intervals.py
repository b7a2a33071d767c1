"""Paired differences over seeds: mean, spread, 95 % t interval, p, and Holm's correction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one method to another, paired by seed.

    Attributes:
        mean, spread: of the differences; the spread is their sample standard deviation.
        half_width: of the 95 % t interval.
        p: of the two-sided paired t test.
        seeds: how many.
    """

    mean: float
    spread: float
    half_width: float
    p: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.half_width:.3f}"


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    each = np.subtract(ours, theirs)
    count = len(each)
    spread = float(each.std(ddof=1)) if count > 1 else float("nan")
    half = float(stats.t.ppf(0.975, count - 1) * spread / np.sqrt(count)) if count > 1 else float("nan")
    p = float(stats.ttest_1samp(each, 0).pvalue) if count > 1 and spread > 1e-12 else 1.0
    return Difference(float(each.mean()), spread, half, p, count)


def spread_of(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.3f} ± {deviation:.3f}"


def holm(p: dict[str, float]) -> dict[str, float]:
    """Adjusted p values of a family of tests; below 0.05 is beyond noise."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = largest
    return adjusted
