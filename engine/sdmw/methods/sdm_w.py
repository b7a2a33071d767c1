"""Significant Deltas Merging with Weights. Source: Smirnov, Rachkov 2025, pp. 735-743; METHOD.md closes its gaps."""

import functools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdmw.methods.method import (
    LayerDecision,
    LayerShare,
    Measured,
    Method,
    ModelDecision,
    Target,
    Values,
    float32s,
)
from sdmw.recipes.recipe import Parameter
from sdmw.statistics import percentile
from sdmw.statistics.histogram import UNIT_EXPONENT, Histogram, HistogramLook
from sdmw.statistics.look import Look, Tile
from sdmw.statistics.low_bits import LowBits, LowBitsLook

KEEP_ALL = 1
NO_LOW_BITS = LowBits({}, {})


@dataclass(frozen=True, slots=True)
class SdmWParams:
    """What one tensor is merged with.

    Attributes:
        k: percent of the nonzero deltas dropped, 0 to 100, for each model.
        weights: W of each model where the recipe gives them, else None.
        power: W_i = M_i**power / sum(M**power); 1 is linear, 2 square.
        exact: the percentile by two passes; else by the histogram alone.
        scale: lambda.
    """

    k: tuple[float, ...]
    weights: tuple[float, ...] | None
    power: float
    exact: bool
    scale: float

    @property
    def keeps_all(self) -> bool:
        """Nothing has to be measured: every change is kept, with given weights."""
        return self.weights is not None and not any(self.k)


class SdmW(Method):
    """Keep the deltas that reach a layer's percentile, weigh each model by the total magnitude that it kept."""

    name = "sdm_w"
    paper = "Smirnov, Rachkov 2025, Economics: Yesterday, Today and Tomorrow 15 (3A)"
    needs_base = True
    parameters = (
        Parameter("k", "number", 10.0, by_model=True, varies=True, same_within_layer=True, minimum=0, maximum=100),
        Parameter("weight", "number", None, by_model=True, varies=True),
        Parameter("normalization", "choice", "linear", choices=("linear", "square"), keyed="power"),
        Parameter("granularity", "choice", "tensor", choices=("tensor", "module", "block", "component", "model")),
        Parameter("percentile", "choice", "exact", choices=("exact", "approximate")),
        Parameter("lambda", "number", 1.0, varies=True),
    )

    def params(self, values: Values) -> SdmWParams:
        """The parameters of one tensor."""
        weights = values.by_model["weight"]
        normalization = values.top["normalization"]
        return SdmWParams(
            k=values.by_model["k"],
            weights=None if None in weights else weights,
            power=float({"linear": 1, "square": 2}[normalization] if isinstance(normalization, str)
                        else normalization["power"]),
            exact=values.top["percentile"] == "exact",
            scale=values.top["lambda"],
        )  # fmt: skip

    def needs(self, params: SdmWParams, have: Measured) -> Look | None:
        """The histogram; then the low bits of the bins that hold the ranks, where they have any."""
        if params.keeps_all:
            return None
        if HistogramLook.kind not in have:
            return HistogramLook(params.k if params.exact else None)
        if not params.exact or LowBitsLook.kind in have:
            return None
        bins = (_unknown_bins(have, model, k) for model, k in enumerate(params.k))
        look = LowBitsLook(tuple(bins))
        return look if any(look.bins) else None

    def decide_layer(self, params: SdmWParams, have: Measured) -> LayerDecision:
        """The threshold of each model, and what it keeps."""
        if params.keeps_all:
            return (LayerShare(None, KEEP_ALL),) * len(params.k)
        return tuple(_decide_share(params, have, model) for model in range(len(params.k)))

    def decide_model(self, params: SdmWParams, layers: Sequence[LayerDecision]) -> ModelDecision:
        """W of each model: given, or by the magnitude that it kept."""
        count = len(params.k)
        if params.weights is not None:
            return ModelDecision(params.weights, (True,) * count)
        magnitudes = [total_magnitude(layer[model] for layer in layers) for model in range(count)]
        return ModelDecision(weights_by_magnitude(magnitudes, params.power), tuple(m > 0 for m in magnitudes))

    def apply(self, tile: Tile, params: SdmWParams, layer: LayerDecision, model: ModelDecision, target: Target) -> bool:
        """Base plus lambda times the weighted sum of the kept deltas."""
        from sdmw.kernels.tiles import merge_deltas

        # A model without any delta is left out: its weight of 0 would still turn what is not finite into NaN.
        taking = np.flatnonzero(model.takes_part)
        inputs = np.concatenate([[0], taking + 1])
        weights = model.weights if params.weights is None else params.weights
        thresholds = np.array([layer[number].pattern for number in taking], np.uint32).view(np.float32)
        return bool(
            merge_deltas(
                tile.addresses[inputs], tile.codes[inputs], tile.count, thresholds, float32s(weights)[taking],
                np.float32(1), np.float32(params.scale), True, target.address, target.code,
            )
        )  # fmt: skip


def total_magnitude(shares: Any) -> float:
    """M: the exact sum of all kept magnitudes, rounded once to float64."""
    return sum(sum((share.magnitude or {}).values()) for share in shares) / (1 << UNIT_EXPONENT)


def weights_by_magnitude(magnitudes: Sequence[float], power: float) -> tuple[float, ...]:
    """W_i = (M_i / max M)**power over their sum, left to right; 0 where M_i is 0. Source: METHOD.md, "W_i"."""
    largest = max(magnitudes)
    if largest == 0:
        return (0.0,) * len(magnitudes)
    powers = [(m / largest) ** power if m else 0.0 for m in magnitudes]
    total = 0.0
    for each in powers:  # not sum(), which compensates from Python 3.12 on
        total += each
    return tuple(each / total for each in powers)


def _whole(parts: Iterable[Any]) -> Any:
    """The statistic of a layer: its components' added."""
    return functools.reduce(operator.add, parts)


def _histogram(have: Measured, model: int) -> Histogram:
    histogram: Histogram = _whole(statistics[model] for statistics in have[HistogramLook.kind].values())
    return histogram


def _unknown_bins(have: Measured, model: int, k: float) -> tuple[int, ...]:
    """The bins whose low bits are needed and were not listed along with the histogram."""
    histogram = _histogram(have, model)
    bins = percentile.bins_to_open(histogram, k)
    return () if histogram.near.covers(bins) else bins


def _decide_share(params: SdmWParams, have: Measured, model: int) -> LayerShare:
    histogram, k = _histogram(have, model), params.k[model]
    components = {name: statistics[model] for name, statistics in have[HistogramLook.kind].items()}
    if not params.exact:
        low_bits = dict.fromkeys(components, NO_LOW_BITS)
        cut = percentile.approximate(histogram, k)
    else:
        bins = percentile.bins_to_open(histogram, k)
        if histogram.near.covers(bins):
            low_bits = {name: component.near.low_bits(bins) for name, component in components.items()}
        else:
            low_bits = {name: statistics[model] for name, statistics in have[LowBitsLook.kind].items()}
        cut = percentile.exact(histogram, _whole(low_bits.values()), k)
    kept, magnitude = 0, {}
    for name, component in components.items():
        count, magnitude[name] = percentile.kept(component, low_bits[name], cut.pattern)
        kept += count
    return LayerShare(cut.value, cut.pattern, histogram.nonzero, kept, magnitude, cut.rank_error)


METHODS = (SdmW(),)
