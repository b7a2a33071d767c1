"""Model averaging: a weighted mean of the models themselves. Source: arXiv:2203.05482, section 2; METHOD.md."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sdmw.codec import tagged
from sdmw.methods.method import (
    Destination,
    Facts,
    Method,
    Settings,
    common_weights,
    float32s,
    objection_to_sum,
    sum_in_order,
)
from sdmw.recipes.recipe import Parameter
from sdmw.statistics.look import Measured, Tile


@tagged
@dataclass(frozen=True, slots=True)
class LinearParams:
    """What one tensor is averaged with.

    Attributes:
        weights: of each model.
        normalize: divide by the sum of the weights.
    """

    weights: tuple[float, ...]
    normalize: bool


class Linear(Method[LinearParams, None, None]):
    """The article's DefaultAVG where no weights are given."""

    name = "linear"
    paper = "arXiv:2203.05482 (model soups), section 2"
    takes = "values"
    parameters = (
        Parameter("weight", "number", 1.0, by_model=True, varies=True),
        Parameter("normalize", "flag", True, varies=True),
    )

    def params(self, settings: Settings) -> LinearParams:
        """The parameters of one tensor."""
        return LinearParams(settings.numbers("weight"), settings.flag("normalize"))

    def objection(self, params: LinearParams) -> str | None:
        """Weights that add up to zero, or to infinity, cannot be normalised."""
        return objection_to_sum(params.weights) if params.normalize else None

    def decide_layer(self, params: LinearParams, have: Measured) -> None:
        """Nothing is measured, and nothing is to be decided."""

    def decide_model(self, layers: Sequence[tuple[LinearParams, None]]) -> None:
        """The weights are given."""

    def apply(self, tile: Tile, params: LinearParams, layer: None, model: None, destination: Destination) -> bool:
        """The weighted sum, over the weights' sum."""
        from sdmw.kernels.tiles import average

        weights = float32s(params.weights)
        divisor = sum_in_order(weights) if params.normalize else np.float32(1)
        return bool(
            average(tile.addresses, tile.codes, tile.count, weights, divisor, destination.address, destination.code)
        )

    def model_facts(self, params: Iterable[LinearParams], layers: Sequence[None], model: None) -> tuple[Facts, ...]:
        """The weights as given."""
        return tuple({"weight": weight} for weight in common_weights(each.weights for each in params))


METHODS = (Linear(),)
