"""The Riemannian (Karcher) mean on the sphere. Source: arXiv:2603.04972; METHODS.md, section 3."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdmw.codec import tagged
from sdmw.methods.coefficients import Coefficients, WeightedSum
from sdmw.methods.method import Settings
from sdmw.recipes.recipe import Parameter

Vector = NDArray[np.float64]  # coefficients over the models' units: the whole iteration stays in their span


@tagged
@dataclass(frozen=True, slots=True)
class KarcherParams:
    """What one tensor is merged with.

    Attributes:
        max_iter: the most steps.
        tol: norms, angles and steps below it count as zero.
    """

    max_iter: int
    tol: float


class Karcher(WeightedSum[KarcherParams]):
    """The point of the sphere with the least sum of squared angles to all models, times their mean norm."""

    name = "karcher"
    paper = "arXiv:2603.04972; Karcher, Comm. Pure Appl. Math. 30 (1977), 509-541"
    takes = "values"
    parameters = (
        Parameter("max_iter", "number", 10.0, varies=True, minimum=0, maximum=10_000, whole=True),
        Parameter("tol", "number", 1e-5, varies=True, minimum=0),
    )

    def params(self, settings: Settings) -> KarcherParams:
        """The parameters of one tensor."""
        return KarcherParams(int(settings.number("max_iter")), settings.number("tol"))

    def coefficients(self, params: KarcherParams, gram: NDArray[np.float64]) -> Coefficients:
        """The mean's coefficients over the models, found by steps along its tangents."""
        norms = np.sqrt(np.diagonal(gram))
        left = norms > params.tol
        if not left.any():
            return Coefficients(None, (0.0,) * len(norms))
        units = gram[np.ix_(left, left)] / np.outer(norms[left], norms[left])
        mean = _mean(units, params) / norms[left] * (math.fsum(norms) / len(norms))
        found = np.zeros(len(norms))
        found[left] = mean
        return Coefficients(None, tuple(map(float, found)))


def _mean(units: NDArray[np.float64], params: KarcherParams) -> Vector:
    """The mean of units, by their Gram matrix, as coefficients over them."""
    count = len(units)
    mean = np.full(count, 1 / count)
    if (length := _norm(units, mean)) < params.tol:
        mean, length = np.eye(count)[0], 1.0
    mean = mean / length
    for _ in range(params.max_iter):
        tangent = np.zeros(count)
        for model in range(count):
            cosine = min(1.0, max(-1.0, _dot(units[model], mean)))
            angle = math.acos(cosine)
            if angle >= params.tol:
                share = angle / math.sin(angle) / count
                tangent[model] += share
                tangent -= share * cosine * mean
        if (length := _norm(units, tangent)) < params.tol:
            break
        mean = math.cos(length) * mean + math.sin(length) / length * tangent
        mean = mean / _norm(units, mean)
    return mean


def _norm(units: NDArray[np.float64], vector: Vector) -> float:
    return math.sqrt(max(0.0, math.fsum(share * _dot(row, vector) for share, row in zip(vector, units, strict=True))))


def _dot(one: Vector, other: Vector) -> float:
    """Summed exactly: BLAS has other last bits on other processors."""
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


METHODS = (Karcher(),)
