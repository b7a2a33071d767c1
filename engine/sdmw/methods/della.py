"""Deltas dropped at random, the small ones of a row first: della, which votes on signs, and della_linear.

Source: arXiv:2406.11617, section 3 (DELLA); METHODS.md, sections 3 and 5.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from sdmw.codec import Count, Matching, tagged
from sdmw.methods import long_rows
from sdmw.methods.dare import ByChance, DareParams, parameters_of
from sdmw.methods.long_rows import Chance
from sdmw.methods.method import Destination, Settings, float32s
from sdmw.recipes.recipe import Parameter
from sdmw.statistics.kept import SumsLook, keys_of
from sdmw.statistics.look import Look, Measured, Tile
from sdmw.statistics.ranked import RankedLook, SteppedLook, flattened

_MORE = (Parameter("epsilon", "number", 0.15, by_model=True, varies=True, minimum=0, maximum=1),)
_SORTING, _BOUND = 16, 4  # bytes of an element of a row: two patterns with places; and the bound of one model's word


@tagged
@dataclass(frozen=True, slots=True)
class DellaParams(DareParams):
    """What one tensor is merged with.

    Attributes:
        epsilons: of each model, by how much the largest of a row is likelier to be kept than the density says, and the
            smallest less likely.
        long_row: elements of a single row that is not held whole; 0 where rows are.
    """

    epsilons: tuple[float, ...]
    long_row: Count

    @property
    def chances(self) -> tuple[Chance, ...]:
        """Of each model, in a long row. One of which all is kept, or nothing, needs no rank."""
        own = zip(self.densities, self.epsilons, strict=True)
        return tuple(
            Chance(density, epsilon, self.long_row) if 0 < density < 1 else Chance(0.0, 0.0, self.long_row)
            for density, epsilon in own
        )


@tagged
@dataclass(frozen=True, slots=True)
class DellaLayer:
    """What one tensor is merged with.

    Attributes:
        factors: what the kept deltas of each model are multiplied by.
        steps: of each model's long row the patterns at which ranges of magnitudes begin, then the bounds below which
            words keep an element: uint32, little-endian, in base64; nothing where all is kept. Empty where rows are
            held whole.
    """

    factors: tuple[float, ...]
    steps: tuple[Annotated[str, Matching("[0-9A-Za-z+/]*=*")], ...]

    def packed(self) -> tuple[bytes, ...]:
        """The steps. ValueError where a text is none of these."""
        return tuple(map(base64.b64decode, self.steps))


class DellaLinear(ByChance[DellaParams, DellaLayer]):
    """The larger a delta is among those of its row, the likelier it is kept. What is kept is added."""

    name = "della_linear"
    paper = "arXiv:2406.11617, section 3"
    parameters = parameters_of(normalize=False, more=_MORE)
    looks = (RankedLook, *long_rows.LOOKS, SteppedLook)
    uses = ("chance", "ranks")
    may_use = ("steps",)
    vote = False

    def params(self, settings: Settings) -> DellaParams:
        """The parameters of one tensor."""
        long_row = settings.elements if settings.one_long_row else 0
        return DellaParams(**self.in_common(settings), epsilons=settings.numbers("epsilon"), long_row=long_row)

    def kernels(self, params: Iterable[DellaParams]) -> tuple[str, ...]:
        """Those of long rows only where there is one."""
        return (*self.uses, *self.may_use) if any(each.long_row for each in params) else self.uses

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

    def row_bytes(self, params: DellaParams) -> int | None:
        """A row is sorted for each model in turn, and the bounds of all are kept."""
        return None if params.long_row else _SORTING + _BOUND * len(params.weights)

    def ranges(self, params: DellaParams) -> int:
        """Those of each model."""
        return sum(chance.ranges for chance in params.chances) if params.long_row else 0

    def needs(self, params: DellaParams, have: Measured) -> Look[Any] | None:
        """What the ranks of a long row ask for; the sums before and after, where what is left is scaled."""
        ranked = params.long_row and min(params.densities) < 1
        if ranked and (look := long_rows.next_look(params.seed, params.chances, have)):
            return look
        return super().needs(params, have)

    def look(self, params: DellaParams, have: Measured) -> SumsLook:
        """At the sums before and after."""
        if params.long_row:
            return SteppedLook(params.seed, _steps(params, have))
        return RankedLook(params.seed, params.densities, params.epsilons)

    def decide_layer(self, params: DellaParams, have: Measured) -> DellaLayer:
        """The factors, and the steps of a long row; a layer is one tensor."""
        if not params.long_row:
            return DellaLayer(self.scaled(params, have.of(RankedLook)), ())
        steps = tuple(base64.b64encode(each).decode() for each in _steps(params, have))
        return DellaLayer(self.scaled(params, have.of(SteppedLook)), steps)

    def decide_model(self, layers: Sequence[tuple[DellaParams, DellaLayer]]) -> None:
        """Every tensor is decided by itself. ValueError where a decision is not one on its tensor's rows."""
        for params, layer in layers:
            wanted = [density < 1 for density in params.densities] if params.long_row else []
            if [bool(each) and len(each) % 8 == 0 for each in layer.packed()] != wanted:
                raise ValueError(f"a decision with steps of {len(layer.steps)} models")

    def factors(self, layer: DellaLayer) -> tuple[float, ...]:
        """A part of what is decided."""
        return layer.factors

    def apply(self, tile: Tile, params: DellaParams, layer: DellaLayer, model: None, destination: Destination) -> bool:
        """Rank, drop, scale, weigh, vote, divide, add."""
        from sdmw.kernels.ranks import merge_by_rank
        from sdmw.kernels.steps import merge_by_step

        keys = keys_of(params.seed, len(layer.factors), tile.tensor)
        numbers: tuple[Any, ...] = (
            float32s(layer.factors), float32s(params.weights), params.vote, params.normalize, np.float32(params.scale),
            destination.address, destination.code,
        )  # fmt: skip
        if params.long_row:
            steps = flattened(layer.packed())
            return bool(merge_by_step(tile.addresses, tile.codes, tile.count, tile.first, keys, *steps, *numbers))
        chances = np.array(params.densities), np.array(params.epsilons)
        return bool(
            merge_by_rank(
                tile.addresses, tile.codes, tile.count, tile.first, tile.row, *tile.merged, keys, *chances, *numbers
            )
        )


class Della(DellaLinear):
    """The same; what is kept votes on the sign of every element, as in ties."""

    name = "della"
    parameters = parameters_of(normalize=True, more=_MORE)
    vote = True


def _steps(params: DellaParams, have: Measured) -> tuple[bytes, ...]:
    """Of each model's long row; nothing where all of it is kept."""
    if min(params.densities) >= 1:
        return (b"",) * len(params.densities)
    found = long_rows.bounded(params.chances, have)
    return tuple(each.steps() if density < 1 else b"" for density, each in zip(params.densities, found, strict=True))


METHODS = (DellaLinear(), Della())
