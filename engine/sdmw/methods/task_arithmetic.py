"""Task arithmetic: the base plus a weighted sum of deltas. Source: arXiv:2212.04089, section 2; METHOD.md."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdmw.codec import tagged
from sdmw.methods.method import Destination, Facts, Method, Settings, common_weights, float32s, sum_in_order
from sdmw.methods.preserve_norm import (
    LAMBDA,
    Preserved,
    Scaling,
    Scope,
    Weighed,
    cancelled,
    facts_of,
    preserved,
    products_of,
)
from sdmw.recipes.recipe import Parameter, Setting
from sdmw.statistics.gram import GramLook
from sdmw.statistics.look import Look, Measured, Tile

SMALLEST_DIVISOR = 1e-8  # a smaller sum of weights is not divided by, as in mergekit


@tagged
@dataclass(frozen=True, slots=True)
class TaskArithmeticParams:
    """What one tensor is merged with.

    Attributes:
        weights: of each model.
        normalize: divide the sum of deltas by the sum of the weights.
        scale: lambda; 1 where it preserves norms.
        preserve: over what lambda preserves norms; None where it is a number.
    """

    weights: tuple[float, ...]
    normalize: bool
    scale: float
    preserve: Scope | None = None

    @property
    def divisor(self) -> np.float32:
        """What the sum of deltas is divided by."""
        total = sum_in_order(float32s(self.weights))
        return total if self.normalize and abs(total) >= SMALLEST_DIVISOR else np.float32(1)


class TaskArithmetic(Method[TaskArithmeticParams, Weighed | None, Preserved | None]):
    """Every delta counts, with the weight that the recipe gives."""

    name = "task_arithmetic"
    paper = "arXiv:2212.04089, section 2"
    takes = "deltas"
    parameters = (
        Parameter("weight", "number", 1.0, by_model=True, varies=True),
        Parameter("normalize", "flag", False, varies=True),
        LAMBDA,
    )
    looks = (GramLook,)
    may_use = ("dots",)

    def params(self, settings: Settings) -> TaskArithmeticParams:
        """The parameters of one tensor."""
        scaling = Scaling.of(settings)
        return TaskArithmeticParams(
            settings.numbers("weight"), settings.flag("normalize"), scaling.scale, scaling.preserve
        )

    def weighs_wholes(self, top: Mapping[str, Setting]) -> bool:
        """Only where the norms of the whole model are preserved."""
        chosen = top.get("lambda", ())
        return isinstance(chosen, str) or (isinstance(chosen, Mapping) and chosen["preserve_norm"] == "model")

    def kernels(self, params: Iterable[TaskArithmeticParams]) -> tuple[str, ...]:
        """Those of dot products where norms are preserved."""
        return self.may_use if any(each.preserve for each in params) else ()

    def needs(self, params: TaskArithmeticParams, have: Measured) -> Look[Any] | None:
        """Norms and dot products, where they are preserved."""
        if params.preserve is None or have.of(GramLook) is not None:
            return None
        return GramLook(base=True, deltas=True)

    def decide_layer(self, params: TaskArithmeticParams, have: Measured) -> Weighed | None:
        """What the deltas weigh and measure; nothing where lambda is a number."""
        if (found := have.of(GramLook)) is None:
            return None
        divisor = float(params.divisor)
        return Weighed(tuple(weight / divisor for weight in params.weights), products_of(found))

    def decide_model(self, layers: Sequence[tuple[TaskArithmeticParams, Weighed | None]]) -> Preserved | None:
        """The lambda, where the norms of the whole model are preserved."""
        first, _ = layers[0]
        return preserved(layer for _, layer in layers if layer) if first.preserve == "model" else None

    def apply(
        self,
        tile: Tile,
        params: TaskArithmeticParams,
        layer: Weighed | None,
        model: Preserved | None,
        destination: Destination,
    ) -> bool:
        """Base plus lambda times the weighted sum of deltas."""
        from sdmw.kernels.tiles import merge_deltas

        weights = float32s(params.weights)
        keep_all = np.zeros(weights.size, np.float32)
        found = _found(layer, model)
        scale = np.float32(params.scale if found is None else found.scale)
        return bool(
            merge_deltas(
                tile.addresses, tile.codes, tile.count, keep_all, weights, params.divisor, scale, False,
                destination.address, destination.code,
            )
        )  # fmt: skip

    def layer_facts(self, layer: Weighed | None, model: Preserved | None) -> tuple[Facts, ...]:
        """The lambda, where each layer has its own."""
        if layer is None or model is not None:
            return ()
        return (facts_of([preserved([layer])]),) * len(layer.weights)

    def model_facts(
        self, params: Iterable[TaskArithmeticParams], layers: Sequence[Weighed | None], model: Preserved | None
    ) -> tuple[Facts, ...]:
        """The weights as given."""
        return tuple({"weight": weight} for weight in common_weights(each.weights for each in params))

    def facts(
        self, params: Iterable[TaskArithmeticParams], layers: Sequence[Weighed | None], model: Preserved | None
    ) -> Facts:
        """The lambda that was found."""
        return facts_of(_all_found(layers, model))

    def warnings(self, layers: Sequence[Weighed | None], model: Preserved | None, *, strict: bool) -> tuple[str, ...]:
        """That deltas cancel, whose norms were to be preserved."""
        return cancelled(_all_found(layers, model))


def _found(layer: Weighed | None, model: Preserved | None) -> Preserved | None:
    """What a layer is scaled by, where that was found: for the model, or for the layer."""
    return preserved([layer]) if model is None and layer is not None else model


def _all_found(layers: Sequence[Weighed | None], model: Preserved | None) -> list[Preserved]:
    """Of the model, or of each layer; nothing where lambda is a number."""
    return [model] if model else [preserved([layer]) for layer in layers if layer]


METHODS = (TaskArithmetic(),)
