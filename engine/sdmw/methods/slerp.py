"""Spherical interpolation between the base and one model. Source: Shoemake, SIGGRAPH 1985; METHODS.md, section 3."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdmw.codec import tagged
from sdmw.methods.coefficients import Coefficients, WeightedSum
from sdmw.methods.method import Settings
from sdmw.recipes.recipe import Parameter

SMALLEST_NORM = 1e-8  # a vector that is shorter counts as one of length 1
NEARLY_PARALLEL = 0.9995  # beyond this cosine the arc is taken for a line


@tagged
@dataclass(frozen=True, slots=True)
class SlerpParams:
    """What one tensor is interpolated with.

    Attributes:
        t: 0 is the base, 1 the model; any number.
    """

    t: float


class Slerp(WeightedSum[SlerpParams]):
    """The point at t on the arc between base and model, each a vector of all its elements."""

    name = "slerp"
    paper = "Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985"
    takes = "values and base"
    most = 1
    parameters = (Parameter("t", "number", None, varies=True, required=True),)

    def params(self, settings: Settings) -> SlerpParams:
        """The parameters of one tensor."""
        return SlerpParams(settings.number("t"))

    def coefficients(self, params: SlerpParams, gram: NDArray[np.float64]) -> Coefficients:
        """By the angle between the two; in a straight line where it is small, as it is for most fine-tunes."""
        t, norms = params.t, [math.sqrt(gram[i, i]) for i in range(2)]
        one, other = (norm if norm > SMALLEST_NORM else 1.0 for norm in norms)
        cosine = min(1.0, max(-1.0, gram[0, 1] / one / other))
        if abs(cosine) > NEARLY_PARALLEL:
            return Coefficients(1 - t, (t,))
        angle = math.acos(cosine)
        return Coefficients(math.sin((1 - t) * angle) / math.sin(angle), (math.sin(t * angle) / math.sin(angle),))


METHODS = (Slerp(),)
