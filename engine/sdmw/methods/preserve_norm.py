"""The lambda that gives a sum of weighted deltas the norm that they have together, each alone.

With weights that add up to 1, the sum of N deltas that are nearly at right angles shrinks by about the root of N.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from sdmw.codec import tagged
from sdmw.methods.method import Fact, Settings
from sdmw.recipes.recipe import Key, Parameter
from sdmw.statistics.gram import Gram

LAMBDA = Parameter(
    "lambda",
    "number",
    1.0,
    varies=True,
    choices=("preserve_norm",),
    keyed=(Key("preserve_norm", ("model", "layer")),),
)
SMALLEST = 1e-6  # of the norm of a sum over the sum of the norms; below it the deltas cancel

Scope = Literal["model", "layer"]


@dataclass(frozen=True, slots=True)
class Scaling:
    """What `lambda` asks for.

    Attributes:
        scale: lambda; 1 where it is found.
        preserve: over what norms are preserved; None where lambda is a number.
    """

    scale: float
    preserve: Scope | None

    @classmethod
    def of(cls, settings: Settings) -> "Scaling":
        """Of one tensor."""
        chosen = settings.top["lambda"]
        if isinstance(chosen, Mapping):
            return cls(1.0, cast(Scope, chosen["preserve_norm"]))
        return cls(1.0, "model") if isinstance(chosen, str) else cls(cast(float, chosen), None)


@tagged
@dataclass(frozen=True, slots=True)
class Weighed:
    """A layer's deltas, none of them left out.

    Attributes:
        weights: W of each model.
        products: the dot products of each model's delta with all models', its own included.
    """

    weights: tuple[float, ...]
    products: tuple[tuple[float, ...], ...]


@tagged
@dataclass(frozen=True, slots=True)
class Preserved:
    """What preserves norms.

    Attributes:
        scale: lambda, a float32.
        cancel: the weighted deltas cancel, so that it is 1.
    """

    scale: float
    cancel: bool


def products_of(found: Mapping[str, Gram]) -> tuple[tuple[float, ...], ...]:
    """The dot products of a layer, from those of its components: exact sums, rounded once."""
    first, *others = found.values()
    return tuple(map(tuple, sum(others, first).matrix().tolist()))


def preserved(layers: Iterable[Weighed]) -> Preserved:
    """The lambda sum |W_i| sqrt(G_ii) / sqrt(max(W'GW, 0)), in float64 and in recipe order; rounded once to float32.

    G is the sum of the layers' products, exact and rounded once, of all layers with the same weights. Where weights
    differ, the squares under each root are added up over these groups, in the order of their first layers.
    """
    groups: dict[tuple[float, ...], list[tuple[tuple[float, ...], ...]]] = {}
    for layer in layers:
        groups.setdefault(layer.weights, []).append(layer.products)
    squares, square = [0.0] * max(map(len, groups), default=0), 0.0
    for weights, products in groups.items():
        gram = [[math.fsum(each) for each in zip(*rows, strict=True)] for rows in zip(*products, strict=True)]
        for model, weight in enumerate(weights):
            squares[model] += (abs(weight) * math.sqrt(gram[model][model])) ** 2  # its root is what was squared
        square += _sum(weight * _dot(row, weights) for weight, row in zip(weights, gram, strict=True))
    parts, whole = _sum(map(math.sqrt, squares)), math.sqrt(max(square, 0.0))
    if whole <= SMALLEST * parts:
        return Preserved(1.0, cancel=parts > 0)
    return Preserved(float(np.float32(parts / whole)), cancel=False)


def cancelled(found: Sequence[Preserved]) -> tuple[str, ...]:
    """A warning where deltas cancel, of the model or of some of its layers."""
    count = sum(each.cancel for each in found)
    if not count:
        return ()
    where = f" in {count:,} of {len(found):,} layers" if len(found) > 1 else ""
    return (f"the weighted deltas cancel{where}: preserve_norm leaves lambda at 1 there",)


def facts_of(found: Sequence[Preserved]) -> dict[str, Fact]:
    """Lambda; its range where layers have their own."""
    scales = [each.scale for each in found]
    if len(scales) == 1:
        return {"lambda": scales[0]}
    return {"smallest_lambda": min(scales), "largest_lambda": max(scales)} if scales else {}


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return _sum(a * b for a, b in zip(one, other, strict=True))


def _sum(numbers: Iterable[float]) -> float:
    """Left to right: not sum(), which compensates from Python 3.12 on."""
    total = 0.0
    for each in numbers:
        total += each
    return total
