"""Merging by how many models share a change: ram, and ramplus_tl, which lifts changes that are a model's alone.

Source: arXiv:2601.13572; METHODS.md, section 3.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from sdmw.codec import Count, tagged
from sdmw.methods.method import Destination, Facts, Method, Settings, common_weights, float32s
from sdmw.recipes.recipe import Parameter
from sdmw.statistics.look import Look, Measured, Tile
from sdmw.statistics.shared import Changes, ChangesLook

_EPSILON = Parameter("epsilon", "number", 1e-5, varies=True, minimum=0)


@tagged
@dataclass(frozen=True, slots=True)
class RamParams:
    """What one tensor is merged with.

    Attributes:
        models: how many there are.
        epsilon: a delta of at most this magnitude is no change.
        r: a model's own changes are multiplied by 1 + r times the number of shared ones for each of them,
        alpha: which counts as this at most.
    """

    models: Count
    epsilon: float
    r: float
    alpha: float


@tagged
@dataclass(frozen=True, slots=True)
class Shared:
    """One model's part in a layer.

    Attributes:
        shared: changes that others share; None where they were not counted.
        alone: changes that are its alone; None likewise.
        factor: of the changes that are its alone.
    """

    shared: Count | None
    alone: Count | None
    factor: float


class Ram(Method[RamParams, tuple[Shared, ...], None]):
    """Each element's changes are averaged over the models that change it."""

    name = "ram"
    paper = "arXiv:2601.13572"
    takes = "deltas"
    uses = ("ram",)
    parameters: ClassVar[tuple[Parameter, ...]] = (_EPSILON,)
    columns: ClassVar[Mapping[str, str]] = {"epsilon": "g"}

    def params(self, settings: Settings) -> RamParams:
        """The parameters of one tensor."""
        return RamParams(settings.models, settings.number("epsilon"), 0.0, 0.0)

    def decide_layer(self, params: RamParams, have: Measured) -> tuple[Shared, ...]:
        """Nothing is measured, and nothing is to be decided."""
        return ()

    def decide_model(self, layers: Sequence[tuple[RamParams, tuple[Shared, ...]]]) -> None:
        """Every layer is decided by itself."""

    def apply(
        self, tile: Tile, params: RamParams, layer: tuple[Shared, ...], model: None, destination: Destination
    ) -> bool:
        """The base plus the mean of the changes."""
        from sdmw.kernels.ram import merge_shared

        factors = float32s([each.factor for each in layer] or [1.0] * params.models)
        epsilon = np.float32(params.epsilon)
        return bool(
            merge_shared(
                tile.addresses, tile.codes, tile.count, epsilon, factors, destination.address, destination.code
            )
        )

    def model_facts(
        self, params: Iterable[RamParams], layers: Sequence[tuple[Shared, ...]], model: None
    ) -> tuple[Facts, ...]:
        """The epsilon that all tensors have."""
        given = list(params)
        (epsilon,) = common_weights([each.epsilon] for each in given)
        return ({"epsilon": epsilon},) * given[0].models

    def describe(self, facts: Facts) -> Iterator[str]:
        """The same, where there is one."""
        yield "epsilon varies" if facts["epsilon"] is None else f"changes above {facts['epsilon']:g}"


class RamPlus(Ram):
    """The same, and what a model alone changes is multiplied, the more of its changes others share the more."""

    name = "ramplus_tl"
    parameters = (
        _EPSILON,
        Parameter("r", "number", 0.1, varies=True),
        Parameter("alpha", "number", 0.2, varies=True, minimum=0),
    )
    looks = (ChangesLook,)
    columns: ClassVar[Mapping[str, str]] = {"shared": ",d", "alone": ",d"}

    def params(self, settings: Settings) -> RamParams:
        """The parameters of one tensor."""
        return RamParams(settings.models, settings.number("epsilon"), settings.number("r"), settings.number("alpha"))

    def needs(self, params: RamParams, have: Measured) -> Look[Any] | None:
        """The counts."""
        return ChangesLook(params.epsilon) if have.of(ChangesLook) is None else None

    def decide_layer(self, params: RamParams, have: Measured) -> tuple[Shared, ...]:
        """1 + r * clamp(shared / max(alone, epsilon), 0, alpha) for each model."""
        (counts,) = cast("Mapping[str, tuple[Changes, ...]]", have.of(ChangesLook)).values()
        return tuple(
            Shared(
                each.shared,
                each.alone,
                1 + params.r * min(max(each.shared / max(each.alone, params.epsilon or 1), 0.0), params.alpha),
            )
            for each in counts
        )

    def layer_facts(self, layer: tuple[Shared, ...], model: None) -> tuple[Facts, ...]:
        """Counts and factor."""
        return tuple({"shared": each.shared, "alone": each.alone, "factor": each.factor} for each in layer)

    def model_facts(
        self, params: Iterable[RamParams], layers: Sequence[tuple[Shared, ...]], model: None
    ) -> tuple[Facts, ...]:
        """The counts over all layers."""
        return tuple(
            {"shared": sum(each.shared or 0 for each in column), "alone": sum(each.alone or 0 for each in column)}
            for column in zip(*layers, strict=True)
        )

    def describe(self, facts: Facts) -> Iterator[str]:
        """The counts."""
        if facts.get("shared") is not None:
            yield f"changes shared with others {facts['shared']:,}, its own {facts['alone']:,}"


METHODS = (Ram(), RamPlus())
