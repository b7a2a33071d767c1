"""Model averaging: a weighted mean of the models themselves. Source: arXiv:2203.05482, section 2; METHOD.md."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdmw.methods.method import (
    LayerDecision,
    Method,
    ModelDecision,
    Target,
    Values,
    float32s,
    objection_to_sum,
    sum_in_order,
)
from sdmw.recipes.recipe import Parameter
from sdmw.statistics.look import Tile


@dataclass(frozen=True, slots=True)
class LinearParams:
    """What one tensor is averaged with.

    Attributes:
        weights: of each model.
        normalize: divide by the sum of the weights.
    """

    weights: tuple[float, ...]
    normalize: bool


class Linear(Method):
    """The article's DefaultAVG where no weights are given."""

    name = "linear"
    paper = "arXiv:2203.05482 (model soups), section 2"
    needs_base = False
    parameters = (
        Parameter("weight", "number", 1.0, by_model=True, varies=True),
        Parameter("normalize", "flag", True, varies=True),
    )

    def params(self, values: Values) -> LinearParams:
        """The parameters of one tensor."""
        return LinearParams(values.by_model["weight"], values.top["normalize"])

    def objection(self, params: LinearParams) -> str | None:
        """Weights that add up to zero, or to infinity, cannot be normalised."""
        return objection_to_sum(params.weights) if params.normalize else None

    def decide_model(self, params: LinearParams, layers: Sequence[LayerDecision]) -> ModelDecision:
        """The weights as given."""
        return ModelDecision(params.weights, (True,) * len(params.weights))

    def apply(
        self, tile: Tile, params: LinearParams, layer: LayerDecision, model: ModelDecision, target: Target
    ) -> bool:
        """The weighted sum, over the weights' sum."""
        from sdmw.kernels.tiles import average

        weights = float32s(params.weights)
        divisor = sum_in_order(weights) if params.normalize else np.float32(1)
        return bool(average(tile.addresses, tile.codes, tile.count, weights, divisor, target.address, target.code))


METHODS = (Linear(),)
