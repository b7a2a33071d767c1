"""Model stock: towards the centre of the fine-tunes, by their angles. Source: arXiv:2403.19522, section 4."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdmw.codec import Count, tagged
from sdmw.methods.coefficients import Coefficients, WeightedSum
from sdmw.methods.method import Destination, Settings
from sdmw.recipes.recipe import Parameter
from sdmw.statistics.look import Tile

SMALLEST = 1e-6  # of a product of norms, and of the denominator


@tagged
@dataclass(frozen=True, slots=True)
class ModelStockParams:
    """What one tensor is merged with.

    Attributes:
        by_row: each row is a vector of its own; a single one is the whole tensor.
        models: how many are merged.
    """

    by_row: bool
    models: Count


class ModelStock(WeightedSum[ModelStockParams]):
    """The mean of the fine-tunes and the base, the nearer to the mean the smaller the angles between the deltas."""

    name = "model_stock"
    paper = "arXiv:2403.19522, section 4"
    takes = "deltas"
    fewest = 2
    may_use = ("vectors",)
    parameters = (Parameter("filter_wise", "flag", False, varies=True),)

    def params(self, settings: Settings) -> ModelStockParams:
        """The parameters of one tensor."""
        return ModelStockParams(settings.flag("filter_wise") and settings.rows > 1, settings.models)

    def by_row(self, params: ModelStockParams) -> bool:
        """As the recipe says."""
        return params.by_row

    def models_by_row(self, params: ModelStockParams) -> int:
        """All."""
        return params.models

    def apply_rows(self, tile: Tile, params: ModelStockParams, destination: Destination) -> bool:
        """Decide and merge the rows of a tile."""
        from sdmw.kernels.vectors import merge_stock_rows

        return bool(
            merge_stock_rows(
                tile.addresses, tile.codes, tile.count, tile.row, *tile.merged, destination.address, destination.code
            )
        )

    def coefficients(self, params: ModelStockParams, gram: NDArray[np.float64]) -> Coefficients:
        """T = N cos / (1 + (N - 1) cos), shared out among the deltas; cos is the mean over all pairs."""
        count = len(gram)
        norms = [math.sqrt(gram[i, i]) for i in range(count)]
        cosines = [
            min(1.0, max(-1.0, gram[i, j] / max(norms[i] * norms[j], SMALLEST)))
            for i, j in itertools.combinations(range(count), 2)
        ]
        cosine = math.fsum(cosines) / len(cosines)
        denominator = 1 + (count - 1) * cosine
        t = count * cosine / denominator if abs(denominator) >= SMALLEST else 0.0
        return Coefficients(None, (t / count,) * count)


METHODS = (ModelStock(),)
