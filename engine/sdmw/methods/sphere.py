"""Means on a sphere, of models or of their deltas: nuslerp of two, multislerp of any number.

Source: Shoemake, SIGGRAPH 1985; Goddard, multislerp (2025); METHODS.md, section 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdmw.codec import tagged
from sdmw.errors import Problem, RunError
from sdmw.methods.coefficients import Coefficients, WeightedSum
from sdmw.methods.method import Settings
from sdmw.recipes.recipe import Parameter
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


class _OnSphere(WeightedSum[SphereParams]):
    takes = "deltas"
    needs_base = False

    def of_deltas(self, params: SphereParams) -> bool:
        """With a base_model."""
        return params.deltas

    def arrange(self, params: Sequence[SphereParams], tensors: Sequence[Sequence[Tensor]]) -> list[Sequence[Tensor]]:
        """The models alone where no base is given."""
        return [each if own.deltas else each[1:] for own, each in zip(params, tensors, strict=True)]


class NuSlerp(_OnSphere):
    """Two models, or deltas, on the arc between them, by the share of the second weight in both."""

    name = "nuslerp"
    paper = "Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985"
    fewest = 2
    most = 2
    parameters = (Parameter("weight", "number", None, by_model=True, varies=True, required=True),)

    def params(self, settings: Settings) -> SphereParams:
        """The parameters of one tensor."""
        return SphereParams(settings.numbers("weight"), True, _SMALLEST_NORM, settings.base)

    def coefficients(self, params: SphereParams, gram: NDArray[np.float64]) -> Coefficients:
        """By the angle between the two; in a straight line where they are parallel."""
        one, other = params.weights
        t = other / (one + other) if abs(one + other) >= _SMALLEST_SUM else 0.5
        norms = [max(math.sqrt(gram[i, i]), _SMALLEST_NORM) for i in range(2)]
        cosine = min(1.0, max(-1.0, gram[0, 1] / norms[0] / norms[1]))
        if 1 - cosine * cosine <= _SMALLEST_SINE:
            return Coefficients(None, (1 - t, t))
        angle = math.acos(cosine)
        return Coefficients(None, tuple(math.sin(share * angle) / math.sin(angle) for share in (1 - t, t)))


class MultiSlerp(_OnSphere):
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
