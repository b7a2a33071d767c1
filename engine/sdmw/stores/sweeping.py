"""What SDM-W would decide at many settings, from a store alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from sdmw.errors import Problem, UsageError
from sdmw.stores.cuts import Bounds, Cut, in_units
from sdmw.stores.evidence.numbers import Floats, Numbers, added, numbers_of
from sdmw.stores.grid import PRESERVE_NORM, Grid
from sdmw.stores.law import Interval, bounded_weights
from sdmw.stores.layered import gathered, layers_of, places_of
from sdmw.stores.norms import Part, Together, dropped, scaled
from sdmw.stores.store import MEND, Store
from sdmw.views.layers import layer_of

Law = tuple[float, int, float]  # k, norm, power


@dataclass(frozen=True, slots=True)
class _Merge:
    """What one law decides, before lambda."""

    weights: tuple[Interval, ...]
    norms: Together
    exact: bool


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


@dataclass(slots=True)
class _ByLayer:
    """Of one law whose weights are the layers' own."""

    sums: list[Interval]
    layers: int = 0
    norms: Together = field(default_factory=Together)
    exact: bool = True

    def add(self, part: Part) -> None:
        self.sums = [(a + low, b + high) for (a, b), (low, high) in zip(self.sums, part.weights, strict=True)]
        self.layers += 1
        self.norms.add(part)
        self.exact = self.exact and all(low == high for low, high in part.weights)

    def merge(self) -> _Merge:
        """With the mean weights, as in the report."""
        count = max(1, self.layers)
        return _Merge(tuple((low / count, high / count) for low, high in self.sums), self.norms, self.exact)


@dataclass(slots=True)
class _Collected:
    """Of one granularity, over all layers."""

    totals: dict[float, list[_Total]]
    by_layer: dict[Law, _ByLayer]
    squares: list[int]  # of each model's deltas, as multiples of 2**-298


def sweep_rows(store: Store, grid: Grid) -> tuple[Mapping[str, Any], ...]:
    """A row for each setting of a grid: all that SDM-W decides of the model.

    Raises:
        UsageError: the grid has problems.
        StoreError: the store is damaged.
    """
    if problems := grid.problems():
        raise UsageError(problems)
    numbers, found, merges = numbers_of(store), {}, {}
    if PRESERVE_NORM in grid.scale and not numbers.paired:
        raise UsageError(
            [Problem("lambda", "a number, since some pairs of models were not measured", PRESERVE_NORM, MEND)]
        )
    for granularity in dict.fromkeys(grid.granularity):
        collected = found[granularity] = _collected(numbers, grid, granularity)
        for law in _laws(grid):
            merges[granularity, "model", law] = _of_model(numbers, collected, law)
        for law, each in collected.by_layer.items():
            merges[granularity, "layer", law] = each.merge()
    nonzero = tuple(numbers.nonzero.sum(axis=0).tolist())
    rows = []
    for k, power, norm, scope, granularity, scale in product(
        grid.k, grid.power, grid.norm, grid.scope, grid.granularity, grid.scale
    ):
        merge, totals = merges[granularity, scope, (float(k), norm, float(power))], found[granularity].totals[float(k)]
        asked = merge.norms.preserving if isinstance(scale, str) else (float(scale), float(scale))
        rows.append(
            {
                "k": float(k), "power": float(power), "norm": int(norm), "scope": scope, "granularity": granularity,
                "lambda": scale if isinstance(scale, str) else float(scale),
                "weights": merge.weights,
                "magnitudes": tuple(in_units(each.magnitude) for each in totals),
                "kept": tuple(each.kept for each in totals),
                "nonzero": nonzero,
                "scale": asked,
                "merged_norm": _length(merge.norms.norm, asked),
                "exact": merge.exact and all(each.kept[0] == each.kept[1] for each in totals),
            }
        )  # fmt: skip
    return tuple(rows)


def _laws(grid: Grid) -> Iterator[Law]:
    for k, norm, power in product(grid.k, grid.norm, grid.power):
        yield float(k), norm, float(power)


def _collected(numbers: Numbers, grid: Grid, granularity: str) -> _Collected:
    """What each model keeps at each k, in one pass over the layers."""
    store, models = numbers.store, range(len(numbers.norms))
    names = [layer_of(tensor.name, granularity) for tensor in store.tensors]
    places = places_of(names)
    laws = list(_laws(grid)) if "layer" in grid.scope else []
    found = _Collected(
        {float(k): [_Total() for _ in models] for k in grid.k},
        {law: _ByLayer([(0.0, 0.0) for _ in models]) for law in laws},
        [0 for _ in models],
    )
    for name, layer in gathered(store, names):
        squares = [ranked.squares for ranked in layer]
        found.squares = [before + own for before, own in zip(found.squares, squares, strict=True)]
        cuts = {k: [ranked.cut(k) for ranked in layer] for k in found.totals}
        for k, totals in found.totals.items():
            for total, cut in zip(totals, cuts[k], strict=True):
                total.add(cut)
        if laws and any(squares):
            gram = added(numbers.gram[places[name]])
            for law, each in found.by_layer.items():
                each.add(_part(gram, cuts[law[0]], squares, law))
    return found


def _of_model(numbers: Numbers, collected: _Collected, law: Law) -> _Merge:
    """Weights that follow from the sums over all layers."""
    part = _part(numbers.total, collected.totals[law[0]], collected.squares, law)
    norms = Together()
    norms.add(part)
    return _Merge(tuple(part.weights), norms, all(low == high for low, high in part.weights))


def _part(gram: Floats, kept: Sequence[Cut | _Total], squares: Sequence[int], law: Law) -> Part:
    """Tensors with the weights that a law gives for what they keep."""
    _, norm, power = law
    sums = [in_units(each.magnitude) if norm == 1 else in_units(each.squares, 2) for each in kept]
    left_out = [dropped(whole, each.squares) for whole, each in zip(squares, kept, strict=True)]
    return Part(gram, bounded_weights(sums, power / norm), left_out)


def _length(norm: Interval, scale: Interval) -> Interval:
    """Of a vector times lambda."""
    low, high = sorted(map(abs, scale))
    return scaled(norm, (low, high))


def thresholds_of(store: Store, k: float, granularity: str) -> dict[str, tuple[Interval | None, ...]]:
    """Bounds of P of each layer and model; None where nothing changed.

    Raises:
        UsageError: k or granularity are none.
        StoreError: the store is damaged.
    """
    if problems := Grid((k,), (1.0,), (1,), (granularity,), (1.0,)).problems():
        raise UsageError(problems)
    return {name: tuple(each.cut(k).threshold for each in layer) for name, layer in layers_of(store, granularity)}
