"""Deltas dropped at random, the small ones of a row first: della, which votes on signs, and della_linear.

Source: arXiv:2406.11617, section 3 (DELLA); METHODS.md, sections 3 and 5.
"""

from dataclasses import dataclass

import numpy as np

from sdmw.codec import tagged
from sdmw.methods.dare import ByChance, DareParams, parameters_of
from sdmw.methods.method import Destination, Settings, float32s
from sdmw.recipes.recipe import Parameter
from sdmw.statistics.kept import keys_of
from sdmw.statistics.look import Tile
from sdmw.statistics.ranked import RankedLook

_MORE = (Parameter("epsilon", "number", 0.15, by_model=True, varies=True, minimum=0, maximum=1),)
_SORTING, _BOUND = 16, 4  # bytes of an element of a row: two patterns and two places; and the bound of one model's word


@tagged
@dataclass(frozen=True, slots=True)
class DellaParams(DareParams):
    """What one tensor is merged with.

    Attributes:
        epsilons: of each model, by how much the largest of a row is likelier to be kept than the density says, and the
            smallest less likely.
    """

    epsilons: tuple[float, ...]


class DellaLinear(ByChance[DellaParams]):
    """The larger a delta is among those of its row, the likelier it is kept. What is kept is added."""

    name = "della_linear"
    paper = "arXiv:2406.11617, section 3"
    parameters = parameters_of(normalize=False, more=_MORE)
    looks = (RankedLook,)
    uses = ("chance", "ranks")
    vote = False

    def params(self, settings: Settings) -> DellaParams:
        """The parameters of one tensor."""
        return DellaParams(**self.in_common(settings), epsilons=settings.numbers("epsilon"))

    def objection(self, params: DellaParams) -> str | None:
        """Probabilities beyond 0 and 1. A density of 1 keeps all and one of 0 nothing, whatever epsilon is."""
        for density, epsilon in zip(params.densities, params.epsilons, strict=True):
            lowest = density - epsilon
            if 0 < density < 1 and not (lowest > 0 and density + epsilon < 1 and lowest + 2 * epsilon < 1):
                most = min(density, 1 - density)
                return (
                    f"density {density:g} with epsilon {epsilon:g} keeps deltas with probabilities from {lowest:g} to "
                    f"{density + epsilon:g}, not between 0 and 1: choose an epsilon below {most:g}, or another density"
                )
        return None

    def row_bytes(self, params: DellaParams) -> int:
        """A row is sorted for each model in turn, and the bounds of all are kept."""
        return _SORTING + _BOUND * len(params.weights)

    def look(self, params: DellaParams) -> RankedLook:
        """At the sums before and after."""
        return RankedLook(params.seed, params.densities, params.epsilons)

    def apply(
        self, tile: Tile, params: DellaParams, layer: tuple[float, ...], model: None, destination: Destination
    ) -> bool:
        """Rank, drop, scale, weigh, vote, divide, add."""
        from sdmw.kernels.ranks import merge_by_rank

        return bool(
            merge_by_rank(
                tile.addresses, tile.codes, tile.count, tile.first, tile.row, *tile.merged,
                keys_of(params.seed, len(layer), tile.tensor), np.array(params.densities), np.array(params.epsilons),
                float32s(layer), float32s(params.weights), params.vote, params.normalize, np.float32(params.scale),
                destination.address, destination.code,
            )
        )  # fmt: skip


class Della(DellaLinear):
    """The same; what is kept votes on the sign of every element, as in ties."""

    name = "della"
    parameters = parameters_of(normalize=True, more=_MORE)
    vote = True


METHODS = (DellaLinear(), Della())
