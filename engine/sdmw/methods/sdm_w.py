"""Significant Deltas Merging with Weights. Source: Smirnov, Rachkov 2025, pp. 735-743; METHOD.md closes its gaps."""

from collections.abc import Sequence
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
from sdmw.statistics.histogram import UNIT_EXPONENT, HistogramLook
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
            return HistogramLook()
        if not params.exact or LowBitsLook.kind in have:
            return None
        whole = _of_layer(have, HistogramLook.kind)
        bins = tuple(map(percentile.bins_to_open, whole, params.k))
        return LowBitsLook(bins) if any(bins) else None

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


def _of_layer(have: Measured, kind: str) -> list[Any]:
    """The statistics of the whole layer, for each model: its components' added."""
    first, *others = have[kind].values()
    whole = list(first)
    for component in others:
        whole = [mine + theirs for mine, theirs in zip(whole, component, strict=True)]
    return whole


def _decide_share(params: SdmWParams, have: Measured, model: int) -> LayerShare:
    histogram = _of_layer(have, HistogramLook.kind)[model]
    opened = LowBitsLook.kind in have
    low_bits = _of_layer(have, LowBitsLook.kind)[model] if opened else NO_LOW_BITS
    k = params.k[model]
    cut = percentile.exact(histogram, low_bits, k) if params.exact else percentile.approximate(histogram, k)
    kept, magnitude = 0, {}
    for component, statistics in have[HistogramLook.kind].items():
        component_bits = have[LowBitsLook.kind][component][model] if opened else NO_LOW_BITS
        count, magnitude[component] = percentile.kept(statistics[model], component_bits, cut.pattern)
        kept += count
    return LayerShare(cut.value, cut.pattern, histogram.nonzero, kept, magnitude, cut.rank_error)


METHODS = (SdmW(),)
