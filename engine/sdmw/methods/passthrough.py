"""One model as it is, or scaled: what stacks of slices are made with."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sdmw.codec import tagged
from sdmw.methods.method import Destination, Facts, Method, Settings, common_weights
from sdmw.recipes.recipe import Parameter
from sdmw.statistics.look import Measured, Tile


@tagged
@dataclass(frozen=True, slots=True)
class PassthroughParams:
    """What one tensor is passed on with.

    Attributes:
        scale: its factor.
    """

    scale: float


class Passthrough(Method[PassthroughParams, None, None]):
    """The model's own tensors; a scale of 0 takes a module out of the residual stream."""

    name = "passthrough"
    paper = "none"
    takes = "values"
    most = 1
    uses = ("single",)
    parameters = (Parameter("scale", "number", 1.0, by_model=True, varies=True),)
    columns: ClassVar[Mapping[str, str]] = {"scale": "g"}

    def params(self, settings: Settings) -> PassthroughParams:
        """The parameters of one tensor."""
        (scale,) = settings.numbers("scale")
        return PassthroughParams(scale)

    def decide_layer(self, params: PassthroughParams, have: Measured) -> None:
        """Nothing is measured, and nothing is to be decided."""

    def decide_model(self, layers: Sequence[tuple[PassthroughParams, None]]) -> None:
        """Nothing is to be decided."""

    def apply(self, tile: Tile, params: PassthroughParams, layer: None, model: None, destination: Destination) -> bool:
        """One multiplication."""
        from sdmw.kernels.single import scaled

        scale = np.float32(params.scale)
        return bool(scaled(tile.addresses, tile.codes, tile.count, scale, destination.address, destination.code))

    def model_facts(
        self, params: Iterable[PassthroughParams], layers: Sequence[None], model: None
    ) -> tuple[Facts, ...]:
        """The scale that all tensors have."""
        return tuple({"scale": scale} for scale in common_weights([each.scale] for each in params))

    def describe(self, facts: Facts) -> Iterator[str]:
        """The same, where there is one."""
        yield "scale varies" if facts["scale"] is None else f"scale {facts['scale']:g}"


METHODS = (Passthrough(),)
