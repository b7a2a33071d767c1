"""Task arithmetic: the base plus a weighted sum of deltas. Source: arXiv:2212.04089, section 2; METHOD.md."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdmw.methods.method import LayerDecision, Method, ModelDecision, Target, Values, float32s, sum_in_order
from sdmw.recipes.recipe import Parameter
from sdmw.statistics.look import Tile

SMALLEST_DIVISOR = 1e-8  # a smaller sum of weights is not divided by, as in mergekit


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


class TaskArithmetic(Method):
    """Every delta counts, with the weight that the recipe gives."""

    name = "task_arithmetic"
    paper = "arXiv:2212.04089, section 2"
    needs_base = True
    parameters = (
        Parameter("weight", "number", 1.0, by_model=True, varies=True),
        Parameter("normalize", "flag", False, varies=True),
        Parameter("lambda", "number", 1.0, varies=True),
    )

    def params(self, values: Values) -> TaskArithmeticParams:
        """The parameters of one tensor."""
        return TaskArithmeticParams(values.by_model["weight"], values.top["normalize"], values.top["lambda"])

    def decide_model(
        self, params: TaskArithmeticParams, layers: Sequence[LayerDecision]
    ) -> ModelDecision:  # fmt: skip
        """The weights as given."""
        return ModelDecision(params.weights, (True,) * len(params.weights))

    def apply(
        self, tile: Tile, params: TaskArithmeticParams, layer: LayerDecision, model: ModelDecision, target: Target
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
                target.address, target.code,
            )
        )  # fmt: skip


METHODS = (TaskArithmetic(),)
