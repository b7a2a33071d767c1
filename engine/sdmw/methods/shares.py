"""Which deltas of a layer SDM-W keeps, and what they come to. Source: METHOD.md, steps 2 and 3."""

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from sdmw.codec import Count, Within, tagged
from sdmw.statistics import percentile
from sdmw.statistics.bracket import BracketLook
from sdmw.statistics.histogram import Histogram, HistogramLook
from sdmw.statistics.look import Look, Measured
from sdmw.statistics.low_bits import LowBits, LowBitsLook
from sdmw.statistics.percentile import ALL_KEPT, NOTHING_KEPT
from sdmw.statistics.small import SmallLook

NO_LOW_BITS = LowBits({}, {})
LARGEST = float(np.finfo(np.float32).max)


@tagged
@dataclass(frozen=True, slots=True)
class Filter:
    """Which deltas of a layer count.

    Attributes:
        k: percent of the nonzero deltas dropped, 0 to 100, for each model.
        exact: the percentile by two passes; else by the histogram alone.
        alone: a layer is one tensor.
        small: elements of a tensor that is alone and small enough to be sorted; else 0.
    """

    k: tuple[float, ...]
    exact: bool
    alone: bool
    small: Count


@tagged
@dataclass(frozen=True, slots=True)
class Share:
    """One model's part in a layer.

    Attributes:
        threshold: P, None where nothing changed or none was needed.
        pattern: the float32 pattern that a magnitude must reach to be kept.
        nonzero: finite deltas that are not zero; None where the data were not measured.
        kept: how many of them reach the threshold; None likewise.
        magnitude: the exact sum of the kept magnitudes as a multiple of 2**-149, for each component of the layer.
        rank_error: the most ranks by which the cut can be off.
        squares: the exact sum of the kept deltas' squares as a multiple of 2**-298; None where none was needed.
        weight: W in this layer, where layers decide it, or where it is given and lambda follows from it; else None.
        products: the dot products of its delta, nothing of it left out, with all models'; None where none was needed.
    """

    threshold: Annotated[float, Within(0, LARGEST)] | None
    pattern: Annotated[int, Within(ALL_KEPT, NOTHING_KEPT)]
    nonzero: Count | None = None
    kept: Count | None = None
    magnitude: Mapping[str, Annotated[int, Within(0, 1 << 400)]] | None = None
    rank_error: Count = 0
    squares: Annotated[int, Within(0, 1 << 700)] | None = None
    weight: Annotated[float, Within(-LARGEST, LARGEST)] | None = None
    products: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """ValueError where the pattern is not the threshold's, as in a damaged report."""
        pattern = ALL_KEPT if self.nonzero is None else NOTHING_KEPT
        if self.threshold is not None:
            pattern = percentile.smallest_pattern_from(self.threshold)
        if self.pattern != pattern:
            raise ValueError(f"pattern {self.pattern} where {pattern} follows from the threshold {self.threshold}")


Shares = tuple[Share, ...]  # the decision of a layer: one for each model


def look_for_thresholds(asked: Filter, have: Measured) -> Look[Any] | None:
    """A histogram; then the low bits of the bins that hold the ranks, where they have any.

    Of a single tensor first around the percentile alone, and of all bins only where that missed a rank; a small one is
    sorted.
    """
    if asked.exact and asked.small:
        return SmallLook(asked.k, asked.small) if have.of(SmallLook) is None else None
    if asked.exact and asked.alone and have.of(BracketLook) is None:
        return BracketLook(asked.k)
    histograms = _histograms(asked, have)
    if histograms is None:
        return HistogramLook(asked.k if asked.exact else None)
    if not asked.exact or have.of(LowBitsLook) is not None:
        return None
    look = LowBitsLook(tuple(_unknown_bins(_of_model(histograms, n), k) for n, k in enumerate(asked.k)))
    return look if any(look.bins) else None


def _histograms(asked: Filter, have: Measured) -> Mapping[str, tuple[Histogram, ...]] | None:
    """Of each component, such that the ranks of each model are known; None where they are not."""
    if (found := have.of(HistogramLook)) is not None or (found := have.of(BracketLook)) is None:
        return found
    known = all(percentile.is_known(_of_model(found, model), k) for model, k in enumerate(asked.k))
    return found if known else None


def _of_model(histograms: Mapping[str, tuple[Histogram, ...]], model: int) -> Histogram:
    """The histogram of a layer: its components' added."""
    return functools.reduce(operator.add, (components[model] for components in histograms.values()))


def _unknown_bins(histogram: Histogram, k: float) -> tuple[int, ...]:
    """The bins whose low bits are needed and were not listed along with the histogram."""
    bins = percentile.bins_to_open(histogram, k)
    return () if histogram.near.covers(bins) else bins


def cut(asked: Filter, have: Measured) -> Shares:
    """The threshold of each model, and what reaches it."""
    if small := have.of(SmallLook):
        ((component, cuts),) = small.items()
        return tuple(Share(c.value, c.pattern, c.nonzero, c.kept, {component: c.magnitude}) for c in cuts)
    return tuple(_decide_share(asked, have, model) for model in range(len(asked.k)))


def _decide_share(asked: Filter, have: Measured, model: int) -> Share:
    histograms = _histograms(asked, have) or {}
    histogram, k = _of_model(histograms, model), asked.k[model]
    components = {name: statistics[model] for name, statistics in histograms.items()}
    if not asked.exact:
        low_bits = dict.fromkeys(components, NO_LOW_BITS)
        cut = percentile.approximate(histogram, k)
    else:
        bins = percentile.bins_to_open(histogram, k)
        if histogram.near.covers(bins):
            low_bits = {name: component.near.low_bits(bins) for name, component in components.items()}
        else:
            low_bits = {name: statistics[model] for name, statistics in (have.of(LowBitsLook) or {}).items()}
        cut = percentile.exact(histogram, functools.reduce(operator.add, low_bits.values()), k)
    kept, magnitude = 0, {}
    for name, component in components.items():
        count, magnitude[name] = percentile.kept(component, low_bits[name], cut.pattern)
        kept += count
    return Share(cut.value, cut.pattern, histogram.nonzero, kept, magnitude, cut.rank_error)
