"""How long the weighted sum of kept deltas is, by the dot products of unfiltered ones and bounds of what is dropped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sdmw.methods.preserve_norm import SMALLEST
from sdmw.statistics.histogram import UNIT_EXPONENT
from sdmw.stores.cuts import Bounds
from sdmw.stores.law import Interval

_SQUARE = 1 << 2 * UNIT_EXPONENT
ROUNDED = 2.0**-20  # by which a lambda of bounded weights may be off, relative to it: more than float32's rounding


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """Tensors that are merged with the same weights: a layer, or the whole model.

    Attributes:
        gram: (M, M), dot products of the unfiltered deltas; NaN of a pair that was not measured.
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

    @property
    def unfiltered(self) -> Interval:
        """Bounds of the norm of the weighted sum of the unfiltered deltas.

        What the weights may be off moves it by no more than the deltas' norms: the triangle's inequality. Where the
        dot product of a pair is unknown (NaN), norms alone give bounds.
        """
        if np.isnan(self.gram).any():
            lengths = [_lengths(weight, norm) for weight, norm in zip(self.weights, self.norms, strict=True)]
            longest = math.fsum(high for _, high in lengths)
            return max(0.0, *(low + high - longest for low, high in lengths)), longest
        middle = np.array([(low + high) / 2 for low, high in self.weights])
        whole = math.sqrt(max(0.0, float(middle @ self.gram @ middle)))
        halves = ((high - low) / 2 for low, high in self.weights)
        off = math.fsum(half * norm for half, norm in zip(halves, self.norms, strict=True))
        return max(0.0, whole - off), whole + off

    @property
    def kept(self) -> Interval:
        """The same of the kept deltas: what is dropped moves it by no more than its norms."""
        low, high = self.unfiltered
        weights = (max(abs(least), abs(most)) for least, most in self.weights)
        off = math.fsum(weight * most for weight, (_, most) in zip(weights, self.dropped, strict=True))
        return max(0.0, low - off), high + off


@dataclass(slots=True)
class Together:
    """Parts of a model that share no tensor: squares of their norms add up.

    Attributes:
        kept: bounds of the square of the norm of the weighted sum of the kept deltas.
        unfiltered: bounds of that of the unfiltered deltas.
        alone: of each model, bounds of the square of the norm of its weighted delta, unfiltered.
    """

    kept: Interval = (0.0, 0.0)
    unfiltered: Interval = (0.0, 0.0)
    alone: list[Interval] = field(default_factory=list)

    def add(self, part: Part) -> None:
        """Add the squares of a part's norms."""
        self.kept = _more(self.kept, part.kept)
        self.unfiltered = _more(self.unfiltered, part.unfiltered)
        alone = self.alone or [(0.0, 0.0)] * len(part.weights)
        lengths = (_lengths(weight, norm) for weight, norm in zip(part.weights, part.norms, strict=True))
        self.alone = [_more(before, length) for before, length in zip(alone, lengths, strict=True)]

    @property
    def norm(self) -> Interval:
        """Bounds of the norm of the weighted sum of the kept deltas."""
        return math.sqrt(self.kept[0]), math.sqrt(self.kept[1])

    @property
    def unturned(self) -> Interval:
        """Bounds of the sum of the models' weighted norms: what the norm would be if all deltas were parallel."""
        return math.fsum(math.sqrt(low) for low, _ in self.alone), math.fsum(math.sqrt(high) for _, high in self.alone)

    @property
    def preserving(self) -> Interval:
        """Bounds of the lambda that preserves norms; equal, as `merge` finds it, where all weights are known."""
        (least, most), whole = self.unturned, (math.sqrt(self.unfiltered[0]), math.sqrt(self.unfiltered[1]))
        if whole[1] <= SMALLEST * least or not most:
            return 1.0, 1.0
        if least == most and whole[0] == whole[1]:
            scale = float(np.float32(most / whole[0]))
            return scale, scale
        low, high = least / whole[1] * (1 - ROUNDED), most / max(whole[0], SMALLEST * most) * (1 + ROUNDED)
        # Where deltas may cancel, lambda may be 1.
        return (min(low, 1.0) if whole[0] <= SMALLEST * most else low), high


def dropped(whole: int, kept: Bounds) -> Interval:
    """The norm of what is left out, from sums of squares as multiples of 2**-298."""
    return math.sqrt(max(0, whole - kept[1]) / _SQUARE), math.sqrt(max(0, whole - kept[0]) / _SQUARE)


def scaled(bounds: Interval, scale: Interval) -> Interval:
    """Bounds of a product with numbers between others, of whatever sign."""
    products = [one * other for one in bounds for other in scale]
    return min(products), max(products)


def _lengths(weight: Interval, norm: float) -> Interval:
    """The least and the largest length."""
    low, high = abs(weight[0]) * norm, abs(weight[1]) * norm
    return min(low, high), max(low, high)


def _more(squares: Interval, lengths: Interval) -> Interval:
    return squares[0] + lengths[0] ** 2, squares[1] + lengths[1] ** 2
