"""Methods whose result is a weighted sum of the models, decided by the Gram matrix alone."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from sdmw.codec import tagged
from sdmw.methods.method import Destination, Facts, Method, float32s
from sdmw.statistics.gram import Gram, GramLook
from sdmw.statistics.look import Look, Measured, Tile

P = TypeVar("P")


@tagged
@dataclass(frozen=True, slots=True)
class Coefficients:
    """What a layer is merged with.

    Attributes:
        base: coefficient of the base's values; None where tiles do not have them, or hold deltas from them.
        models: of each model's values, or of its delta.
    """

    base: float | None
    models: tuple[float, ...]


class WeightedSum(Method[P, Coefficients, None]):
    """Looks once, at all norms and dot products; decides in float64; adds in float32, one rounding an operation."""

    looks = (GramLook,)
    columns: ClassVar[Mapping[str, str]] = {"mean_coefficient": ".4f"}

    @abstractmethod
    def coefficients(self, params: P, gram: NDArray[np.float64]) -> Coefficients:
        """From the Gram matrix, of deltas or of values with the base's first, to the coefficients."""

    def of_deltas(self, params: P) -> bool:
        """Whether tiles hold the base and deltas are added to it."""
        return self.takes == "deltas"

    def needs(self, params: P, have: Measured) -> Look[Any] | None:
        """The Gram matrix."""
        deltas = self.of_deltas(params)
        look = GramLook(base=deltas or self.takes == "values and base", deltas=deltas)
        return look if have.of(GramLook) is None else None

    def decide_layer(self, params: P, have: Measured) -> Coefficients:
        """The coefficients; a layer is one tensor."""
        (gram,) = cast("Mapping[str, Gram]", have.of(GramLook)).values()
        return self.coefficients(params, gram.matrix())

    def decide_model(self, layers: Sequence[tuple[P, Coefficients]]) -> None:
        """Every layer is decided by itself."""

    def apply(self, tile: Tile, params: P, layer: Coefficients, model: None, destination: Destination) -> bool:
        """The weighted sum, in the order of the recipe."""
        from sdmw.kernels.tiles import average, merge_deltas

        one = np.float32(1)
        if self.of_deltas(params):
            weights, keep_all = float32s(layer.models), np.zeros(len(layer.models), np.float32)
            return bool(
                merge_deltas(
                    tile.addresses, tile.codes, tile.count, keep_all, weights, one, one, False,
                    destination.address, destination.code,
                )
            )  # fmt: skip
        weights = float32s(layer.models if layer.base is None else (layer.base, *layer.models))
        return bool(
            average(tile.addresses, tile.codes, tile.count, weights, one, destination.address, destination.code)
        )

    def layer_facts(self, layer: Coefficients) -> tuple[Facts, ...]:
        """The coefficients."""
        return tuple({"coefficient": each} for each in layer.models)

    def model_facts(self, params: Iterable[P], layers: Sequence[Coefficients], model: None) -> tuple[Facts, ...]:
        """The mean of each model's coefficients over all layers."""
        return tuple(
            {"mean_coefficient": sum(column) / len(layers)} for column in zip(*(x.models for x in layers), strict=True)
        )

    def describe(self, facts: Facts) -> Iterator[str]:
        """The mean coefficient."""
        if (mean := facts.get("mean_coefficient")) is not None:
            yield f"mean coefficient {mean:.6g}"
