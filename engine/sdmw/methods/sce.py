"""Where models differ most, those that agree on the sign are averaged: select, calculate, erase.

Source: arXiv:2408.07990, section 3.2 (SCE); METHODS.md, sections 3 and 4.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from sdmw.codec import Count, tagged
from sdmw.methods.cuts import Cut, Place, bins_of, place_of, taken_of
from sdmw.methods.method import Destination, Facts, Method, Settings, float32s
from sdmw.recipes.recipe import Parameter
from sdmw.statistics.histogram import Histogram
from sdmw.statistics.look import Look, Measured, Tile
from sdmw.statistics.low_bits import LowBits
from sdmw.statistics.squares import UNIT_EXPONENT
from sdmw.statistics.ties import ALL_MODELS, LastTakenLook, Tied, TiesLook
from sdmw.statistics.variance import LowVarianceLook, SquaresLook, VarianceLook

SMALLEST_SUM = 1e-6  # of mean squares: below it all models weigh the same


@tagged
@dataclass(frozen=True, slots=True)
class SceParams:
    """What one tensor is merged with.

    Attributes:
        models: how many are merged.
        select_topk: the share of the elements at which models differ that is kept; all elements where it is 1 or more.
        elements: of the tensor.
    """

    models: Count
    select_topk: float
    elements: Count


@tagged
@dataclass(frozen=True, slots=True)
class Consensus:
    """What a tensor is merged with.

    Attributes:
        weights: of each model.
        equal: the mean squares are so small that they do not count, and all weights are the same.
        cut: behind the elements that are kept, by falling variance; None where all are.
        varied: elements at which models differ; None where nothing is cut.
        kept: how many of them are kept; None likewise.
        tied: how many have the variance at the cut, of which only some are kept.
    """

    weights: tuple[float, ...]
    equal: bool
    cut: Cut | None = None
    varied: Count | None = None
    kept: Count | None = None
    tied: Count = 0


class Sce(Method[SceParams, Consensus, None]):
    """At elements where models differ most, the mean of those that agree, weighed by their mean squares."""

    name = "sce"
    paper = "arXiv:2408.07990, section 3.2"
    takes = "deltas"
    parameters = (Parameter("select_topk", "number", 1.0, varies=True),)
    uses = ("chance", "consensus", "cuts")
    looks = (VarianceLook, LowVarianceLook, TiesLook, LastTakenLook, SquaresLook)
    columns: ClassVar[Mapping[str, str]] = {"mean_weight": ".4f"}

    def params(self, settings: Settings) -> SceParams:
        """The parameters of one tensor."""
        return SceParams(settings.models, settings.number("select_topk"), settings.elements)

    def needs(self, params: SceParams, have: Measured) -> Look[Any] | None:
        """Where the variance is to be cut, if it is; then the squares of what is kept."""
        if params.select_topk < 1 and (look := _look_for_cut(params, have)):
            return look
        if have.of(SquaresLook) is not None:
            return None
        cut = _cut(params, have)
        return SquaresLook(cut.pattern, cut.element) if cut else SquaresLook(None, 0)

    def decide_layer(self, params: SceParams, have: Measured) -> Consensus:
        """Weights by mean squares over all elements; a layer is one tensor."""
        squares = [each / (max(1, params.elements) << UNIT_EXPONENT) for each in _only(have, SquaresLook)]
        total = sum(squares)
        equal = total < SMALLEST_SUM
        weights = tuple(1 / params.models if equal else each / total for each in squares)
        if params.select_topk >= 1:
            return Consensus(weights, equal)
        histogram, place = _only(have, VarianceLook), _place(params, have)
        tied = place.tied if place.splits else 0
        return Consensus(weights, equal, _cut(params, have), histogram.nonzero, _count(params, histogram), tied)

    def decide_model(self, layers: Sequence[tuple[SceParams, Consensus]]) -> None:
        """Every tensor is decided by itself."""

    def apply(self, tile: Tile, params: SceParams, layer: Consensus, model: None, destination: Destination) -> bool:
        """Cut, vote, weigh, divide, add."""
        from sdmw.kernels.consensus import merge_agreeing

        cut = layer.cut or Cut(0, 0)
        return bool(
            merge_agreeing(
                tile.addresses, tile.codes, tile.count, tile.first, layer.cut is None, np.uint32(cut.pattern),
                cut.element, float32s(layer.weights), destination.address, destination.code,
            )
        )  # fmt: skip

    def layer_facts(self, layer: Consensus, model: None) -> tuple[Facts, ...]:
        """The weights."""
        return tuple({"weight": each} for each in layer.weights)

    def model_facts(self, params: Iterable[SceParams], layers: Sequence[Consensus], model: None) -> tuple[Facts, ...]:
        """The mean of each model's weights over all tensors."""
        return tuple(
            {"mean_weight": sum(column) / len(layers)} for column in zip(*(x.weights for x in layers), strict=True)
        )

    def facts(self, params: Iterable[SceParams], layers: Sequence[Consensus], model: None) -> Facts:
        """In how many tensors all models weigh the same because their changes are small; and counts of what was cut."""
        cut = [each for each in layers if each.cut is not None]
        return {
            "equally_weighed": sum(each.equal for each in layers),
            "varied": sum(each.varied or 0 for each in cut) if cut else None,
            "kept": sum(each.kept or 0 for each in cut) if cut else None,
            "tied": sum(each.tied for each in cut) if cut else None,
        }

    def describe(self, facts: Facts) -> Iterator[str]:
        """The mean weight."""
        if (mean := facts.get("mean_weight")) is not None:
            yield f"mean weight {mean:.6g}"


def _only(have: Measured, look: type[Look[Any]]) -> Any:
    """The statistic of a layer of one tensor; None where there is none."""
    found = have.of(look)
    return None if found is None else next(iter(found.values()))


def _count(params: SceParams, histogram: Histogram) -> int:
    """How many elements are kept."""
    return max(0, int(params.select_topk * histogram.nonzero))


def _place(params: SceParams, have: Measured) -> Place:
    """Where the variances are cut."""
    histogram = _only(have, VarianceLook)
    low_bits = _only(have, LowVarianceLook) or LowBits({}, {})
    return place_of(histogram, low_bits, _count(params, histogram))


def _look_for_cut(params: SceParams, have: Measured) -> Look[Any] | None:
    """The histogram; low bits of the cut's bin; and where the equal ones lie that it divides."""
    if (histogram := _only(have, VarianceLook)) is None:
        return VarianceLook()
    bins = bins_of(histogram, [_count(params, histogram)])
    if bins and have.of(LowVarianceLook) is None:
        return LowVarianceLook(*bins)
    place = _place(params, have)
    if not place.splits:
        return None
    if (counts := _only(have, TiesLook)) is None:
        return TiesLook((Tied(ALL_MODELS, place.pattern),), params.elements)
    if have.of(LastTakenLook) is None:
        return LastTakenLook((taken_of(ALL_MODELS, place, counts[0], params.elements),))
    return None


def _cut(params: SceParams, have: Measured) -> Cut | None:
    """The cut; None where nothing is cut."""
    if params.select_topk >= 1:
        return None
    last = cast("tuple[int, ...] | None", _only(have, LastTakenLook))
    return _place(params, have).cut(last[0] if last else None)


METHODS = (Sce(),)
