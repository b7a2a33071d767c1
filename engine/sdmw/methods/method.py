"""What a merge method is: the parameters it takes, the looks it needs, two decisions, and one kernel."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdmw.recipes.recipe import Parameter
from sdmw.statistics.look import Look, Tile
from sdmw.tensors.tensor import TensorInfo

Measured = Mapping[str, Mapping[str, tuple[Any, ...]]]  # kind of look -> component -> a statistic for each model


@dataclass(frozen=True, slots=True)
class Values:
    """What the recipe's levels resolve to for one tensor.

    Attributes:
        top: a value for each parameter that stands at the top only.
        by_model: a value for each model, of each parameter that may differ between them.
    """

    top: Mapping[str, Any]
    by_model: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class LayerShare:
    """One model's part in a layer, as decided.

    Attributes:
        threshold: P, None where nothing changed or none was needed.
        pattern: the float32 pattern that a magnitude must reach to be kept.
        nonzero: finite deltas that are not zero; None where the data were not measured.
        kept: how many of them reach the threshold; None likewise.
        magnitude: the exact sum of the kept magnitudes as a multiple of 2**-149, for each component of the layer.
        rank_error: the most ranks by which the cut can be off.
    """

    threshold: float | None
    pattern: int
    nonzero: int | None = None
    kept: int | None = None
    magnitude: Mapping[str, int] | None = None
    rank_error: int = 0


LayerDecision = tuple[LayerShare, ...]  # one for each model


@dataclass(frozen=True, slots=True)
class ModelDecision:
    """What all layers together decide.

    Attributes:
        weights: W of each model; where the recipe gives weights, those of the first tensor.
        takes_part: whether a model has anything to add.
    """

    weights: tuple[float, ...]
    takes_part: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a kernel puts the merged tile: an address and a dtype's code (`sdmw.kernels.tiles`)."""

    address: int
    code: int


class Method(ABC):
    """One merge method. A subclass says only what is special about it; it is found by its file's `METHODS`."""

    name: ClassVar[str]
    paper: ClassVar[str]
    needs_base: ClassVar[bool]
    parameters: ClassVar[tuple[Parameter, ...]]

    @abstractmethod
    def params(self, values: Values) -> Any:
        """The parameters of one tensor, as a frozen dataclass of the method's own."""

    def arrange(self, params: Sequence[Any], tensors: Sequence[Sequence[TensorInfo]]) -> list[Sequence[TensorInfo]]:
        """What each merged tensor is read from, in the order in which a tile has it.

        Args:
            params: of each.
            tensors: for each the base's, and what each model has in its place: values, a delta, or the base's itself.

        Raises:
            PlanError: all that cannot be read so.
        """
        return [tensor if self.needs_base else tensor[1:] for tensor in tensors]

    def objection(self, params: Any) -> str | None:
        """What makes these parameters unusable, which no single one of them shows; None where nothing does."""
        return None

    def needs(self, params: Any, have: Measured) -> Look | None:
        """The next look at a layer that is needed to decide it, given what was measured; None when nothing more is."""
        return None

    def decide_layer(self, params: Any, have: Measured) -> LayerDecision:
        """From a layer's statistics to its numbers; pure."""
        return ()

    @abstractmethod
    def decide_model(self, params: Any, layers: Sequence[LayerDecision]) -> ModelDecision:
        """From all layers' numbers to the model's; pure."""

    @abstractmethod
    def apply(self, tile: Tile, params: Any, layer: LayerDecision, model: ModelDecision, target: Target) -> bool:
        """Merge one tile into the target. Whether a result is NaN or infinite."""


def float32s(numbers: Sequence[float]) -> NDArray[np.float32]:
    """Each rounded once to float32, as a kernel takes weights."""
    return np.array(numbers, np.float32)


def sum_in_order(weights: NDArray[np.float32]) -> np.float32:
    """The float32 sum, left to right, each addition rounded."""
    total = np.float32(0)
    with np.errstate(over="ignore"):
        for weight in weights:
            total = np.float32(total + weight)
    return total


def objection_to_sum(weights: Sequence[float]) -> str | None:
    """Why weights cannot be normalised by their float32 sum; None where they can."""
    total = sum_in_order(float32s(weights))
    if total and np.isfinite(total):
        return None
    said = "zero" if not total else "more than float32 holds"
    return f"the weights {', '.join(f'{w:g}' for w in weights)} add up to {said} and normalize is true"
