"""How the models of a store agree: angles, signs, and which elements they share."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sdmw.stores.evidence.numbers import Floats, Integers, Numbers, numbers_of
from sdmw.stores.store import Store

Measure = float | None  # None where there is nothing to measure


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models.

    Attributes:
        one, other: their numbers in the store.
        cosine: of the angle between their deltas, -1 to 1; None where one of them changes nothing, or the pair was not
            measured.
        conflict: share of the elements that both change which they move in opposed directions; None where there is no
            such element, and where the store has no counts of shared elements: above 8 models, or without some pair.
        cosines, conflicts: of each tensor, in the store's order.
    """

    one: int
    other: int
    cosine: Measure
    conflict: Measure
    cosines: tuple[Measure, ...]
    conflicts: tuple[Measure, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """All pairs of a store's models.

    Attributes:
        models: their names.
        tensors: the names of the store's tensors, in the order of `Pair.cosines`.
        pairs: each pair once.
    """

    models: tuple[str, ...]
    tensors: tuple[str, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Which elements models share. Only of up to 8 models, of which a store counts every subset, all measured together.

    Attributes:
        changed: elements that any model changes.
        by_models: how many of them exactly one model changes, two models, and so on.
        shared: share of the changed elements that more than one model changes; None where nothing changed.
        by_tensor: the same of each tensor, in the store's order.
    """

    changed: int
    by_models: tuple[int, ...]
    shared: Measure
    by_tensor: tuple[Measure, ...]


def agreement(store: Store | Numbers) -> Agreement:
    """Cosine and sign conflict of each pair of models, over all tensors and by tensor.

    Raises:
        StoreError: the store is damaged.
    """
    numbers = read_once(store)
    own = numbers.store
    pairs = tuple(_pair(numbers, one, other) for one, other in combinations(range(len(own.models)), 2))
    return Agreement(own.models, tuple(tensor.name for tensor in own.tensors), pairs)


def overlap(store: Store | Numbers) -> Overlap | None:
    """Which elements models share; None above 8 models, and where a pair was not measured.

    Raises:
        StoreError: the store is damaged.
    """
    found = read_once(store).overlap
    if found is None:
        return None
    models = found.shape[1].bit_length() - 1
    sizes = np.array([subset.bit_count() for subset in range(1 << models)])
    by_models = np.stack([found[:, sizes == size].sum(axis=1) for size in range(1, models + 1)], axis=1)
    changed, shared = by_models.sum(axis=1), by_models[:, 1:].sum(axis=1)
    total, *by_tensor = _ratios(_with_total(shared), _with_total(changed))
    return Overlap(int(changed.sum()), tuple(by_models.sum(axis=0).tolist()), total, tuple(by_tensor))


def read_once(store: Store | Numbers) -> Numbers:
    """The numbers of a store, read only where they were not before."""
    return store if isinstance(store, Numbers) else numbers_of(store)


def _pair(numbers: Numbers, one: int, other: int) -> Pair:
    first, second = (np.append(numbers.norms[model], np.sqrt(numbers.squares[:, model])) for model in (one, other))
    products = np.append(numbers.total[one, other], numbers.gram[:, one, other])
    cosine, *cosines = _ratios(products, first * second)
    conflict: Measure = None
    conflicts: list[Measure] = [None] * len(cosines)
    if numbers.both is not None:
        opposed, both = numbers.conflict[:, one, other], numbers.both[:, one, other]
        conflict, *conflicts = _ratios(_with_total(opposed), _with_total(both))
    return Pair(one, other, cosine, conflict, tuple(cosines), tuple(conflicts))


def _with_total(counts: Integers) -> Integers:
    """The sum of all before them."""
    return np.append(counts.sum(), counts)


def _ratios(parts: Integers | Floats, wholes: Integers | Floats) -> Iterator[Measure]:
    """Within -1 and 1, which roundings may pass by a little; None of nothing, and of what was not measured."""
    for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True):
        yield min(1.0, max(-1.0, part / whole)) if whole and not math.isnan(part) else None
