"""How long the weighted sum of kept deltas is, by the dot products of unfiltered ones and bounds of what is dropped."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdmw.methods.preserve_norm import Weighed, preserved
from sdmw.stores.law import Interval

ROUNDED = 2.0**-20  # by which a lambda of bounded weights may be off, relative to it: more than float32's rounding


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """Tensors that are merged with the same weights: a layer, or the whole model.

    Attributes:
        gram: (M, M), dot products of the unfiltered deltas.
        weights: of each model.
        dropped: the norm of what is left out of each model's delta.
    """

    gram: NDArray[np.float64]
    weights: Sequence[Interval]
    dropped: Sequence[Interval]

    @property
    def norms(self) -> list[float]:
        """Of the unfiltered deltas."""
        return [math.sqrt(max(0.0, square)) for square in np.diagonal(self.gram).tolist()]


def norm_of(part: Part) -> Interval:
    """Bounds of the norm of the weighted sum of the kept deltas.

    What is dropped, and what the weights may be off, moves it by no more than their norms: the triangle's inequality.
    """
    whole, off = _whole(part)
    most = [max(abs(low), abs(high)) for low, high in part.weights]
    off += math.fsum(weight * left[1] for weight, left in zip(most, part.dropped, strict=True))
    return max(0.0, whole - off), whole + off


def norm_of_all(norms: Iterable[Interval]) -> Interval:
    """The norm of parts that share no tensor."""
    bounds = list(norms)
    return math.hypot(*(low for low, _ in bounds)), math.hypot(*(high for _, high in bounds))


def unturned(parts: Iterable[Part]) -> Interval:
    """Bounds of the sum of the weighted norms, parts together: what the norm would be if all deltas were parallel.

    Squares under each root are added up over the parts, as `preserved` does.
    """
    squares = [([low * norm for (low, _), norm in zip(part.weights, part.norms, strict=True)],
                [high * norm for (_, high), norm in zip(part.weights, part.norms, strict=True)])
               for part in parts]  # fmt: skip
    least, most = (zip(*(each[side] for each in squares), strict=True) for side in (0, 1))
    return math.fsum(math.hypot(*each) for each in least), math.fsum(math.hypot(*each) for each in most)


def preserving(parts: Sequence[Part]) -> Interval:
    """Bounds of the lambda that preserves norms over parts; equal, as `merge` finds it, where all weights are known."""
    if all(low == high for part in parts for low, high in part.weights):
        weighed = (Weighed(tuple(low for low, _ in part.weights), _rows(part.gram)) for part in parts)
        scale = preserved(weighed).scale
        return scale, scale
    low, high = unturned(parts)
    bounds = [(max(0.0, whole - off), whole + off) for whole, off in map(_whole, parts)]
    least, most = norm_of_all(bounds)
    return low / most * (1 - ROUNDED) if most else 1.0, high / least * (1 + ROUNDED) if least else math.inf


def _whole(part: Part) -> tuple[float, float]:
    """The norm of the unfiltered sum with the weights in the middle of their bounds, and by how much they move it."""
    middle = np.array([(low + high) / 2 for low, high in part.weights])
    whole = math.sqrt(max(0.0, float(middle @ part.gram @ middle)))
    halves = ((high - low) / 2 for low, high in part.weights)
    return whole, math.fsum(half * norm for half, norm in zip(halves, part.norms, strict=True))


def _rows(gram: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, gram.tolist()))
