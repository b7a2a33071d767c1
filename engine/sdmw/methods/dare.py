"""Deltas dropped at random and scaled to what they were: dare_linear, and dare_ties, which votes on signs.

Source: arXiv:2311.03099, section 3 (DARE); METHODS.md, sections 3 and 5.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from sdmw.codec import tagged
from sdmw.methods.method import Destination, Facts, Method, Settings, common_weights, float32s
from sdmw.methods.ties import rescaled
from sdmw.recipes.recipe import Parameter
from sdmw.statistics.kept import KeptLook, Sums, SumsLook, bounds_of, keys_of
from sdmw.statistics.look import Look, Measured, Tile


@tagged
@dataclass(frozen=True, slots=True)
class DareParams:
    """What one tensor is merged with.

    Attributes:
        weights: of each model.
        densities: the share of each model's elements that is kept, 0 to 1.
        seed: of the random words.
        vote: only deltas of the elected sign count.
        normalize: the sum is divided by that of the weights that count.
        rescale: what is kept of a model is scaled to its whole magnitude.
        scale: lambda.
    """

    weights: tuple[float, ...]
    densities: tuple[float, ...]
    seed: int
    vote: bool
    normalize: bool
    rescale: bool
    scale: float


P = TypeVar("P", bound=DareParams)
D = TypeVar("D")


class ByChance(Method[P, D, None]):
    """The base plus a weighted sum of deltas, of which a random share is kept."""

    takes = "deltas"
    draws = True
    columns: ClassVar[Mapping[str, str]] = {"weight": ".4f", "mean_factor": ".4f"}
    vote: ClassVar[bool]

    def in_common(self, settings: Settings) -> dict[str, Any]:
        """The parameters that all such methods have, of one tensor."""
        return {
            "weights": settings.numbers("weight"),
            "densities": settings.numbers("density"),
            "seed": settings.seed,
            "vote": self.vote,
            "normalize": settings.flag("normalize"),
            "rescale": settings.flag("rescale"),
            "scale": settings.number("lambda"),
        }

    @abstractmethod
    def look(self, params: P, have: Measured) -> SumsLook:
        """At the sums before and after."""

    @abstractmethod
    def factors(self, layer: D) -> tuple[float, ...]:
        """What the kept deltas of each model are multiplied by."""

    def needs(self, params: P, have: Measured) -> Look[Any] | None:
        """The sums before and after, where what is left is scaled."""
        if not params.rescale or min(params.densities) >= 1:
            return None
        look = self.look(params, have)
        return look if have.of(type(look)) is None else None

    def scaled(self, params: P, sums: Mapping[str, tuple[Sums, ...]] | None) -> tuple[float, ...]:
        """The factors that follow from the sums of a layer, which is one tensor."""
        if sums is None:
            return (1.0,) * len(params.weights)
        (found,) = sums.values()
        return tuple(
            rescaled(each.whole, each.kept) if density < 1 else 1.0
            for each, density in zip(found, params.densities, strict=True)
        )

    def decide_model(self, layers: Sequence[tuple[P, D]]) -> None:
        """Every tensor is decided by itself."""

    def layer_facts(self, layer: D, model: None) -> tuple[Facts, ...]:
        """The factors."""
        return tuple({"factor": each} for each in self.factors(layer))

    def model_facts(self, params: Iterable[P], layers: Sequence[D], model: None) -> tuple[Facts, ...]:
        """The weight that all tensors have, and the mean factor."""
        weights = common_weights(each.weights for each in params)
        means = (sum(column) / len(column) for column in zip(*map(self.factors, layers), strict=True))
        return tuple({"weight": weight, "mean_factor": mean} for weight, mean in zip(weights, means, strict=True))

    def describe(self, facts: Facts) -> Iterator[str]:
        """The weight and the mean factor."""
        yield from super().describe(facts)
        if (mean := facts.get("mean_factor")) is not None:
            yield f"kept deltas times {mean:.4g} on average"


def parameters_of(*, normalize: bool, more: Sequence[Parameter] = ()) -> tuple[Parameter, ...]:
    """What all of them take, and what one takes of each model beside."""
    return (
        Parameter("weight", "number", None, by_model=True, varies=True, required=True),
        Parameter("density", "number", 1.0, by_model=True, varies=True, minimum=0, maximum=1),
        *more,
        Parameter("normalize", "flag", normalize, varies=True),
        Parameter("rescale", "flag", True, varies=True),
        Parameter("lambda", "number", 1.0, varies=True),
    )


class Dare(ByChance[DareParams, tuple[float, ...]]):
    """Each element is kept with the probability that its model's density says."""

    paper = "arXiv:2311.03099, section 3"
    parameters = parameters_of(normalize=False)
    looks = (KeptLook,)
    uses = ("chance",)

    def params(self, settings: Settings) -> DareParams:
        """The parameters of one tensor."""
        return DareParams(**self.in_common(settings))

    def look(self, params: DareParams, have: Measured) -> KeptLook:
        """At the sums before and after."""
        return KeptLook(params.seed, params.densities)

    def decide_layer(self, params: DareParams, have: Measured) -> tuple[float, ...]:
        """The factors."""
        return self.scaled(params, have.of(KeptLook))

    def factors(self, layer: tuple[float, ...]) -> tuple[float, ...]:
        """What is decided."""
        return layer

    def apply(
        self, tile: Tile, params: DareParams, layer: tuple[float, ...], model: None, destination: Destination
    ) -> bool:
        """Drop, scale, weigh, vote, divide, add."""
        from sdmw.kernels.chance import merge_by_chance

        return bool(
            merge_by_chance(
                tile.addresses, tile.codes, tile.count, tile.first, keys_of(params.seed, len(layer), tile.tensor),
                bounds_of(params.densities), float32s(layer), float32s(params.weights), params.vote, params.normalize,
                np.float32(params.scale), destination.address, destination.code,
            )
        )  # fmt: skip


class DareLinear(Dare):
    """What is kept is added."""

    name = "dare_linear"
    vote = False


class DareTies(Dare):
    """What is kept votes on the sign of every element, as in ties."""

    name = "dare_ties"
    vote = True


METHODS = (DareLinear(), DareTies())
