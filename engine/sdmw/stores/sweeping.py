"""What SDM-W would decide at many settings, from a store alone."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmw.errors import Problem, UsageError, quoted
from sdmw.statistics.histogram import UNIT_EXPONENT
from sdmw.stores.bins import StoredBins
from sdmw.stores.cuts import Bounds, Cut, Ranked, in_units
from sdmw.stores.law import Interval, bounded_weights
from sdmw.stores.reading import StoreReader
from sdmw.stores.store import Store
from sdmw.views.layers import layer_of

GRANULARITIES = ("tensor", "module", "block", "component", "model")
MOST_SETTINGS = 10_000
MOST_POWER = 1000.0
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Grid:
    """Settings of which every combination is asked for.

    Attributes:
        k: percent of the nonzero deltas dropped.
        power: p of the weights.
        norm: q of the weights, 1 or 2: W_i is proportional to (sum |delta|**q)**(p/q).
        granularity: which tensors are cut together.
        scale: lambda.
    """

    k: Sequence[float]
    power: Sequence[float]
    norm: Sequence[int]
    granularity: Sequence[str]
    scale: Sequence[float]

    @property
    def size(self) -> int:
        """How many combinations there are."""
        return len(self.k) * len(self.power) * len(self.norm) * len(self.granularity) * len(self.scale)

    def problems(self) -> list[Problem]:
        """What is wrong with it; its size is said first."""
        lengths = {"k": self.k, "power": self.power, "norm": self.norm, "granularity": self.granularity,
                   "lambda": self.scale}  # fmt: skip
        if not 0 < self.size <= MOST_SETTINGS:
            said = " × ".join(f"{len(each):,} {name}" for name, each in lengths.items())
            return [Problem("grid", f"1 to {MOST_SETTINGS:,} settings", f"{self.size:,} ({said})")]
        return [
            *_outside("k", self.k, lambda each: 0 <= each <= 100, "a number from 0 to 100"),
            *_outside("power", self.power, lambda each: abs(each) <= MOST_POWER, "a number from -1000 to 1000"),
            *_outside("lambda", self.scale, lambda each: abs(each) <= LARGEST, "a number that float32 holds"),
            *(Problem("norm", "1 or 2", quoted(each)) for each in self.norm if each not in (1, 2)),
            *(
                Problem("granularity", ", ".join(GRANULARITIES), quoted(each))
                for each in self.granularity
                if each not in GRANULARITIES
            ),
        ]


def _outside(name: str, values: Iterable[Any], fits: Callable[[Any], bool], expected: str) -> Iterator[Problem]:
    for each in values:
        if isinstance(each, bool) or not isinstance(each, Real) or not fits(each):
            yield Problem(name, expected, quoted(each))


@dataclass(slots=True)
class _Total:
    """Of one model at one k, over all layers."""

    kept: Bounds = (0, 0)
    magnitude: Bounds = (0, 0)
    squares: Bounds = (0, 0)

    def add(self, cut: Cut) -> None:
        self.kept = self.kept[0] + cut.kept[0], self.kept[1] + cut.kept[1]
        self.magnitude = self.magnitude[0] + cut.magnitude[0], self.magnitude[1] + cut.magnitude[1]
        self.squares = self.squares[0] + cut.squares[0], self.squares[1] + cut.squares[1]


def layers_of(store: Store, granularity: str) -> Iterator[tuple[str, tuple[Ranked, ...]]]:
    """Each layer with the deltas of each model, as soon as all its tensors are read.

    Raises:
        StoreError: the store is damaged.
    """
    return gathered(store, [layer_of(tensor.name, granularity) for tensor in store.tensors])


def gathered(store: Store, names: Sequence[str]) -> Iterator[tuple[str, tuple[Ranked, ...]]]:
    """Each layer as `layers_of` gives it, by the layer of each tensor.

    Raises:
        StoreError: the store is damaged.
    """
    waiting, held, reader = Counter(names), dict[str, list[StoredBins]](), StoreReader(store)
    for number, name in enumerate(names):
        found = reader.magnitudes(number)
        held[name] = [one + other for one, other in zip(held[name], found, strict=True)] if name in held else found
        waiting[name] -= 1
        if not waiting[name]:
            yield name, tuple(map(Ranked, held.pop(name)))


def sweep_rows(store: Store, grid: Grid) -> tuple[Mapping[str, Any], ...]:
    """A row for each setting of a grid: all that SDM-W decides of the model.

    Raises:
        UsageError: the grid has problems.
        StoreError: the store is damaged.
    """
    if problems := grid.problems():
        raise UsageError(problems)
    reader, rows = StoreReader(store), []
    gram = np.array([[math.fsum(column) for column in row] for row in reader.numbers("gram").transpose(1, 2, 0)])
    nonzero = tuple(reader.numbers("nonzero").sum(axis=0).tolist())
    totals, squares = {}, [0]
    for granularity in dict.fromkeys(grid.granularity):
        totals[granularity], squares = _totals(store, granularity, list(map(float, grid.k)))
    for k, power, norm, granularity, scale in product(grid.k, grid.power, grid.norm, grid.granularity, grid.scale):
        found = totals[granularity][k]
        weights = bounded_weights([_measure(each, norm) for each in found], power / norm)
        dropped = [_dropped(whole, each.squares) for whole, each in zip(squares, found, strict=True)]
        rows.append(
            {
                "k": float(k), "power": float(power), "norm": int(norm), "scope": "model",
                "granularity": granularity, "lambda": float(scale),
                "weights": weights,
                "magnitudes": tuple(in_units(each.magnitude) for each in found),
                "kept": tuple(each.kept for each in found),
                "nonzero": nonzero,
                "merged_norm": merged_norm(gram, weights, dropped, scale),
                "exact": all(low == high for low, high in weights) and all(e.kept[0] == e.kept[1] for e in found),
            }
        )  # fmt: skip
    return tuple(rows)


def _totals(store: Store, granularity: str, ks: Sequence[float]) -> tuple[dict[float, list[_Total]], list[int]]:
    """What each model keeps at each k; and the sums of all its squares, as multiples of 2**-298."""
    models = range(len(store.models))
    totals, squares = {k: [_Total() for _ in models] for k in ks}, [0 for _ in models]
    for _, layer in layers_of(store, granularity):
        for model, ranked in enumerate(layer):
            squares[model] += ranked.squares
            for k, each in totals.items():
                each[model].add(ranked.cut(k))
    return totals, squares


def merged_norm(
    gram: NDArray[np.float64], weights: Sequence[Interval], dropped: Sequence[Interval], scale: float
) -> Interval:
    """Bounds of the Euclidean norm of lambda times the weighted sum of the kept deltas.

    What is dropped, and what the weights may be off, moves it by no more than their norms: the triangle's inequality.

    Args:
        gram: of the unfiltered deltas.
        weights: of each model.
        dropped: the norm of what is left out of each.
        scale: lambda.
    """
    middle = np.array([(low + high) / 2 for low, high in weights])
    whole = math.sqrt(max(0.0, float(middle @ gram @ middle)))
    off = math.fsum(
        high * left[1] + (high - low) / 2 * math.sqrt(max(0.0, gram[model, model]))
        for model, ((low, high), left) in enumerate(zip(weights, dropped, strict=True))
    )
    return abs(scale) * max(0.0, whole - off), abs(scale) * (whole + off)


def _measure(total: _Total, norm: int) -> Interval:
    return in_units(total.magnitude) if norm == 1 else in_units(total.squares, 2)


def _dropped(whole: int, kept: Bounds) -> Interval:
    """The norm of what is left out, from sums of squares."""
    unit = 1 << 2 * UNIT_EXPONENT
    return math.sqrt(max(0, whole - kept[1]) / unit), math.sqrt(max(0, whole - kept[0]) / unit)


def thresholds_of(store: Store, k: float, granularity: str) -> dict[str, tuple[Interval | None, ...]]:
    """Bounds of P of each layer and model; None where nothing changed.

    Raises:
        UsageError: k or granularity are none.
        StoreError: the store is damaged.
    """
    if problems := Grid((k,), (1.0,), (1,), (granularity,), (1.0,)).problems():
        raise UsageError(problems)
    return {name: tuple(each.cut(k).threshold for each in layer) for name, layer in layers_of(store, granularity)}
