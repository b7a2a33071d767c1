"""Towards the model where it lies near the base. Source: METHODS.md, section 3 (alchemonaut, QuartetAnemoi-70B)."""

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
class NearswapParams:
    """What one tensor is merged with.

    Attributes:
        t: the distance up to which an element is the model's.
    """

    t: float


class Nearswap(Method[NearswapParams, None, None]):
    """Each element is the model's where it is within t of the base's, and beyond goes t towards it."""

    name = "nearswap"
    paper = "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001"
    takes = "values and base"
    most = 1
    uses = ("single",)
    parameters = (Parameter("t", "number", None, varies=True, required=True),)
    columns: ClassVar[Mapping[str, str]] = {"t": "g"}

    def params(self, settings: Settings) -> NearswapParams:
        """The parameters of one tensor."""
        return NearswapParams(settings.number("t"))

    def decide_layer(self, params: NearswapParams, have: Measured) -> None:
        """Nothing is measured, and nothing is to be decided."""

    def decide_model(self, layers: Sequence[tuple[NearswapParams, None]]) -> None:
        """Nothing is to be decided."""

    def apply(self, tile: Tile, params: NearswapParams, layer: None, model: None, destination: Destination) -> bool:
        """Each element by its own distance."""
        from sdmw.kernels.single import swap_near

        t = np.float32(params.t)
        return bool(swap_near(tile.addresses, tile.codes, tile.count, t, destination.address, destination.code))

    def model_facts(self, params: Iterable[NearswapParams], layers: Sequence[None], model: None) -> tuple[Facts, ...]:
        """The t that all tensors have."""
        return tuple({"t": t} for t in common_weights([each.t] for each in params))

    def describe(self, facts: Facts) -> Iterator[str]:
        """The same, where there is one."""
        yield "t varies" if facts["t"] is None else f"t {facts['t']:g}"


METHODS = (Nearswap(),)
