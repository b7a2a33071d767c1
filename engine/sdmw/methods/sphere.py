"""Means on a sphere, of models or of their deltas: nuslerp of two, multislerp of any number.

Source: Shoemake, SIGGRAPH 1985; Goddard, multislerp (2025); METHODS.md, section 3.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from sdmw.codec import Count, tagged
from sdmw.errors import Problem, RunError
from sdmw.methods.coefficients import Coefficients, ColumnShares, Decided, WeightedSum
from sdmw.methods.method import Destination, Settings
from sdmw.recipes.recipe import Parameter
from sdmw.statistics.columns import COLUMN_BYTES, ColumnsLook
from sdmw.statistics.gram import GramLook
from sdmw.statistics.look import Look, Measured, Tile
from sdmw.tensors.tensor import Tensor

_SMALLEST_SUM, _SMALLEST_NORM, _SMALLEST_SINE = 1e-6, 1e-7, 1e-16  # of nuslerp; the last one squared


@tagged
@dataclass(frozen=True, slots=True)
class SphereParams:
    """What one tensor is merged with.

    Attributes:
        weights: of each model.
        normalize: the weights are divided by their sum.
        eps: norms below it count as zero.
        deltas: what is merged are deltas from the base; else values.
    """

    weights: tuple[float, ...]
    normalize: bool
    eps: float
    deltas: bool


@tagged
@dataclass(frozen=True, slots=True)
class NuSlerpParams(SphereParams):
    """What one tensor is merged with.

    Attributes:
        vectors: the tensor is one, as where it has a single row; or each row along the last axis; or each column along
            the first.
        elements: of the tensor, where that counts: by column.
    """

    vectors: Literal["tensor", "row", "column"]
    elements: Count


P = TypeVar("P", bound=SphereParams)


class _OnSphere(WeightedSum[P]):
    takes = "deltas"
    needs_base = False

    def of_deltas(self, params: P) -> bool:
        """With a base_model."""
        return params.deltas

    def arrange(self, params: Sequence[P], tensors: Sequence[Sequence[Tensor]]) -> list[Sequence[Tensor]]:
        """The models alone where no base is given."""
        return [each if own.deltas else each[1:] for own, each in zip(params, tensors, strict=True)]


class NuSlerp(_OnSphere[NuSlerpParams]):
    """Two models, or deltas, on the arc between them, by the share of the second weight in both."""

    name = "nuslerp"
    paper = "Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985"
    fewest = 2
    most = 2
    may_use = ("vectors",)
    parameters = (
        Parameter("weight", "number", None, by_model=True, varies=True, required=True),
        Parameter("nuslerp_flatten", "flag", True, varies=True),
        Parameter("nuslerp_row_wise", "flag", False, varies=True),
    )
    looks: ClassVar[tuple[type[Look[Any]], ...]] = (GramLook, ColumnsLook)

    def params(self, settings: Settings) -> NuSlerpParams:
        """The parameters of one tensor. `nuslerp_row_wise`, mergekit's word for columns, counts where not flattened."""
        vectors: Literal["tensor", "row", "column"] = "tensor"
        if not settings.flag("nuslerp_flatten"):
            if settings.flag("nuslerp_row_wise"):
                vectors = "column"
            elif settings.rows > 1:
                vectors = "row"
        elements = settings.elements if vectors == "column" else 0
        return NuSlerpParams(settings.numbers("weight"), True, _SMALLEST_NORM, settings.base, vectors, elements)

    def by_row(self, params: NuSlerpParams) -> bool:
        """As the recipe says."""
        return params.vectors == "row"

    def models_by_row(self, params: NuSlerpParams) -> int:
        """Two."""
        return 2

    def apply_rows(self, tile: Tile, params: NuSlerpParams, destination: Destination) -> bool:
        """Decide and merge the rows of a tile."""
        from sdmw.kernels.vectors import merge_arc_rows

        return bool(
            merge_arc_rows(
                tile.addresses, tile.codes, tile.count, tile.row, *tile.merged, params.deltas, _t(params),
                destination.address, destination.code,
            )
        )  # fmt: skip

    def decides(self, params: NuSlerpParams) -> type[Any]:
        """By column it is the shares."""
        return ColumnShares if params.vectors == "column" else super().decides(params)

    def column_bytes(self, params: NuSlerpParams) -> int:
        """Sums and shares."""
        return COLUMN_BYTES if params.vectors == "column" else 0

    def needs(self, params: NuSlerpParams, have: Measured) -> Look[Any] | None:
        """The Gram matrix, or that of each column."""
        if params.vectors == "column":
            return ColumnsLook(params.elements, params.deltas) if have.of(ColumnsLook) is None else None
        return super().needs(params, have)

    def decide_layer(self, params: NuSlerpParams, have: Measured) -> Decided:
        """The coefficients, or those of each column; a layer is one tensor."""
        from sdmw.kernels.vectors import shares_of_columns

        if (found := have.of(ColumnsLook)) is None:
            return super().decide_layer(params, have)
        (sums,) = found.values()
        shares = np.empty((2, sums.shape[1]), np.float32)
        shares_of_columns(sums, _t(params), shares)
        return ColumnShares(base64.b64encode(shares.astype("<f4").tobytes()).decode())

    def coefficients(self, params: NuSlerpParams, gram: NDArray[np.float64]) -> Coefficients:
        """By the angle between the two; in a straight line where they are parallel."""
        t = _t(params)
        norms = [max(math.sqrt(gram[i, i]), _SMALLEST_NORM) for i in range(2)]
        cosine = min(1.0, max(-1.0, gram[0, 1] / norms[0] / norms[1]))
        if 1 - cosine * cosine <= _SMALLEST_SINE:
            return Coefficients(None, (1 - t, t))
        angle = math.acos(cosine)
        return Coefficients(None, tuple(math.sin(share * angle) / math.sin(angle) for share in (1 - t, t)))


def _t(params: SphereParams) -> float:
    """The share of the second of two."""
    one, other = params.weights
    return other / (one + other) if abs(one + other) >= _SMALLEST_SUM else 0.5


class MultiSlerp(_OnSphere[SphereParams]):
    """Any number of models, or deltas: their mean direction, turned along the tangent, times their mean norm."""

    name = "multislerp"
    paper = "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea"
    parameters = (
        Parameter("weight", "number", None, by_model=True, varies=True, required=True),
        Parameter("normalize_weights", "flag", True, varies=True),
        Parameter("eps", "number", 1e-8, varies=True, minimum=0),
    )

    def params(self, settings: Settings) -> SphereParams:
        """The parameters of one tensor."""
        return SphereParams(
            settings.numbers("weight"), settings.flag("normalize_weights"), settings.number("eps"), settings.base
        )

    def objection(self, params: SphereParams) -> str | None:
        """Weights that add up to zero cannot be normalised."""
        if params.normalize and not math.fsum(params.weights):
            shown = ", ".join(f"{weight:g}" for weight in params.weights)
            return f"the weights {shown} add up to zero and normalize_weights is true"
        return None

    def coefficients(self, params: SphereParams, gram: NDArray[np.float64]) -> Coefficients:
        """In the span of the units u: their mean m, and T, what is left of each beside m."""
        count, eps = len(gram), params.eps
        total = math.fsum(params.weights) if params.normalize else 1.0
        weights = np.array([weight / total for weight in params.weights])
        if count == 1:
            return Coefficients(None, (1.0,))
        norms = np.sqrt(np.diagonal(gram))
        if not norms.any():  # a tensor that no model changed, or of zeros: a sum of nothing
            return Coefficients(None, (0.0,) * count)
        units = gram / np.outer(norms + eps, norms + eps)
        length = math.sqrt(max(0.0, _product(weights, units, weights)))
        if length < eps:
            if count == 2:
                return Coefficients(None, tuple(map(float, weights)))
            mend = "Change a weight, or leave one of them out"
            raise RunError([Problem("multislerp", "models with a mean direction", "they cancel each other", mend)])
        mean = weights / length
        along = np.array([_product(unit, units, mean) for unit in np.eye(count)])
        tangent = weights - math.fsum(weights * along) * mean
        angle = math.sqrt(max(0.0, _product(tangent, units, tangent))) + eps
        found = (mean * math.cos(angle) + tangent * (math.sin(angle) / angle)) * math.fsum(weights * norms)
        return Coefficients(None, tuple(map(float, found / (norms + eps))))


def _product(one: NDArray[np.float64], units: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The dot product of two sums of units, summed exactly."""
    return math.fsum((np.outer(one, other) * units).ravel())


METHODS = (NuSlerp(), MultiSlerp())
