"""Task arithmetic: the base plus a weighted sum of deltas. Source: arXiv:2212.04089, section 2; METHOD.md."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sdmw.codec import tagged
from sdmw.methods.method import Destination, Facts, Method, Settings, common_weights, float32s, sum_in_order
from sdmw.recipes.recipe import Parameter
from sdmw.statistics.look import Measured, Tile

SMALLEST_DIVISOR = 1e-8  # a smaller sum of weights is not divided by, as in mergekit


@tagged
@dataclass(frozen=True, slots=True)
class TaskArithmeticParams:
    """What one tensor is merged with.

    Attributes:
        weights: of each model.
        normalize: divide the sum of deltas by the sum of the weights.
        scale: lambda.
    """

    weights: tuple[float, ...]
    normalize: bool
    scale: float


class TaskArithmetic(Method[TaskArithmeticParams, None, None]):
    """Every delta counts, with the weight that the recipe gives."""

    name = "task_arithmetic"
    paper = "arXiv:2212.04089, section 2"
    takes = "deltas"
    parameters = (
        Parameter("weight", "number", 1.0, by_model=True, varies=True),
        Parameter("normalize", "flag", False, varies=True),
        Parameter("lambda", "number", 1.0, varies=True),
    )

    def params(self, settings: Settings) -> TaskArithmeticParams:
        """The parameters of one tensor."""
        return TaskArithmeticParams(settings.numbers("weight"), settings.flag("normalize"), settings.number("lambda"))

    def decide_layer(self, params: TaskArithmeticParams, have: Measured) -> None:
        """Nothing is measured, and nothing is to be decided."""

    def decide_model(self, layers: Sequence[tuple[TaskArithmeticParams, None]]) -> None:
        """The weights are given."""

    def apply(
        self, tile: Tile, params: TaskArithmeticParams, layer: None, model: None, destination: Destination
    ) -> bool:
        """Base plus lambda times the weighted sum of deltas."""
        from sdmw.kernels.tiles import merge_deltas

        weights = float32s(params.weights)
        total = sum_in_order(weights)
        divisor = total if params.normalize and abs(total) >= SMALLEST_DIVISOR else np.float32(1)
        keep_all = np.zeros(weights.size, np.float32)
        return bool(
            merge_deltas(
                tile.addresses, tile.codes, tile.count, keep_all, weights, divisor, np.float32(params.scale), False,
                destination.address, destination.code,
            )
        )  # fmt: skip

    def model_facts(
        self, params: Iterable[TaskArithmeticParams], layers: Sequence[None], model: None
    ) -> tuple[Facts, ...]:
        """The weights as given."""
        return tuple({"weight": weight} for weight in common_weights(each.weights for each in params))


METHODS = (TaskArithmetic(),)
