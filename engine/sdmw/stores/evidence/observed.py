"""What stands out in a store: observations, each with its numbers. Thresholds only say what is worth a line.

No number here predicts whether a merge works: known measures of parameters do not (arXiv:2603.09463).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sdmw.planning.plan import Plan
from sdmw.stores.evidence.agreement import Agreement, Measure, agreement, overlap
from sdmw.stores.evidence.merged import Merged
from sdmw.stores.evidence.numbers import Floats, Numbers
from sdmw.stores.evidence.parts import Part, parts_of

Kind = Literal[
    "unmoved", "nonfinite", "drowned", "short", "far", "alike", "opposed", "conflict", "apart", "sparse", "swallowed",
    "routers", "embeddings", "norms",
]  # fmt: skip

# A model with less than a fifth of an equal part has nearly no say, whatever it was trained for.
DROWNED = 0.2
# Deltas of unrelated fine-tunes are nearly at right angles (arXiv:2212.04089, figure 5): half a right angle and less
# is a common history, and below -0.1 is no chance among millions of elements.
ALIKE, OPPOSED = 0.5, -0.1
# By chance half of the shared elements have unlike signs.
CONFLICT = 0.55
# Dense fine-tunes share nearly all elements; where nine of ten are one model's own, averaging only shortens them.
APART = 0.1
# Reinforcement learning changes 5 to 30 % of the elements, supervised fine-tuning nearly all (arXiv:2505.11711).
SPARSE = 0.3
# Fewer lost changes than one in a hundred are far below what percentiles of SDM-W drop.
SWALLOWED = 0.01
# Optimisers such as Adam move all elements at about the same rate, so that parts of a model differ little.
UNLIKE = 4.0
# Two deltas at right angles, equal in length and weight, come to 0.71 of the sum of their lengths.
SHORT = 0.8
# Half as far again from the base as any of the models is where none of them was trained.
FAR = 1.5
MOST_TENSORS = 5

_STEPS = {"BF16": 0, "F16": 1}  # columns of `unchanged`


@dataclass(frozen=True, slots=True)
class Of:
    """A model, or a pair of them.

    Attributes:
        models: their names.
        numbers: what was measured of them, by its name.
    """

    models: tuple[str, ...]
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor where an observation is strongest.

    Attributes:
        tensor: its name.
        models: of which it is said.
        value: what was measured there.
    """

    tensor: str
    models: tuple[str, ...]
    value: float


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing that stands out.

    Attributes:
        kind: what it is.
        rows: the models of which it is said.
        tensors: at most five, those where it is strongest first.
        more: in how many more it is.
    """

    kind: Kind
    rows: tuple[Of, ...]
    tensors: tuple[Place, ...] = ()
    more: int = 0


def observations(numbers: Numbers, merged: Merged, plan: Plan | None) -> Iterator[Observation]:
    """All of them, those first that concern most of a merge.

    Args:
        numbers: of the store.
        merged: what the settings make of its models.
        plan: of the merge, which knows the output's dtypes; without it bfloat16 is written.
    """
    agreed = agreement(numbers)
    found = chain(
        _unmoved(numbers),
        _nonfinite(numbers),
        _drowned(numbers, merged),
        _lengths(numbers, merged),
        _pairs(agreed),
        _apart(numbers),
        _sparse(numbers),
        _swallowed(numbers, plan),
        _parts(numbers),
    )
    return (each for each in found if each.rows)


def _unmoved(numbers: Numbers) -> Iterator[Observation]:
    still = np.flatnonzero(numbers.nonzero.sum(axis=0) == 0)
    yield Observation("unmoved", tuple(Of((_name(numbers, model),), {}) for model in still.tolist()))


def _nonfinite(numbers: Numbers) -> Iterator[Observation]:
    counts = numbers.nonfinite
    rows = tuple(Of((_name(numbers, m),), {"deltas": count}) for m, count in _counts(counts) if count)
    yield Observation("nonfinite", rows, *_places(numbers, counts, counts > 0))


def _drowned(numbers: Numbers, merged: Merged) -> Iterator[Observation]:
    weights = np.array([(low + high) / 2 for low, high in merged.weights])
    shares = _shares(np.abs(weights) * np.array(numbers.norms))
    moved = numbers.nonzero.sum(axis=0) > 0  # the others are told elsewhere
    if shares is None or not (low := moved & (shares < DROWNED / moved.sum())).any():
        return
    rows = tuple(
        Of((name,), {"norm": norm, "weight": weight, "share": share})
        for name, norm, weight, share in zip(
            numbers.store.models, numbers.norms, weights.tolist(), shares.tolist(), strict=True
        )
    )
    lengths = np.abs(weights) * np.sqrt(numbers.squares)
    sums = lengths.sum(axis=1, keepdims=True)
    by_tensor = np.divide(lengths, sums, out=np.ones_like(lengths), where=sums > 0)
    yield Observation(
        "drowned", rows, *_places(numbers, by_tensor, low & (by_tensor < DROWNED / moved.sum()), least=True)
    )


def _lengths(numbers: Numbers, merged: Merged) -> Iterator[Observation]:
    """What is added to the base against the deltas that it is made of."""
    low, high = merged.norm
    longest, reach = max(numbers.norms), merged.unturned[0]
    measured = {"low": low, "high": high, "unturned": reach, "longest": longest}
    if high < SHORT * reach:
        yield Observation("short", (Of((), measured),))
    if low > FAR * longest:
        yield Observation("far", (Of((), measured),))


def _pairs(agreed: Agreement) -> Iterator[Observation]:
    cosines = [(each.cosine, each.cosines) for each in agreed.pairs]
    conflicts = [(each.conflict, each.conflicts) for each in agreed.pairs]
    yield _of_pairs("opposed", agreed, "cosine", cosines, -1.0, OPPOSED)
    yield _of_pairs("alike", agreed, "cosine", cosines, ALIKE, 1.0)
    yield _of_pairs("conflict", agreed, "conflict", conflicts, CONFLICT, 1.0)


def _of_pairs(
    kind: Kind, agreed: Agreement, what: str, measures: Sequence[tuple[Measure, Sequence[Measure]]], low: float,
    high: float,
) -> Observation:  # fmt: skip
    """The pairs with a measure between two bounds, and the tensors where they have it too."""
    rows, places = [], []
    for pair, (whole, by_tensor) in zip(agreed.pairs, measures, strict=True):
        if whole is None or not low <= whole <= high:
            continue
        models = agreed.models[pair.one], agreed.models[pair.other]
        rows.append(Of(models, {what: whole}))
        places += [
            Place(name, models, value)
            for name, value in zip(agreed.tensors, by_tensor, strict=True)
            if value is not None and low <= value <= high
        ]
    places.sort(key=lambda place: -abs(place.value))
    rows.sort(key=lambda row: -abs(row.numbers[what]))
    return Observation(kind, tuple(rows), tuple(places[:MOST_TENSORS]), max(0, len(places) - MOST_TENSORS))


def _apart(numbers: Numbers) -> Iterator[Observation]:
    found = overlap(numbers)
    if found and found.shared is not None and found.shared < APART and (numbers.nonzero.sum(axis=0) > 0).sum() > 1:
        yield Observation("apart", (Of(numbers.store.models, {"share": found.shared}),))


def _sparse(numbers: Numbers) -> Iterator[Observation]:
    elements = int(numbers.elements.sum())
    rows = tuple(
        Of((_name(numbers, m),), {"share": count / elements})
        for m, count in _counts(numbers.nonzero)
        if 0 < count < SPARSE * elements
    )
    yield Observation("sparse", rows)


def _swallowed(numbers: Numbers, plan: Plan | None) -> Iterator[Observation]:
    """Of what is written as bfloat16 or float16; each tensor in its own dtype."""
    written = {} if plan is None else {tensor.name: tensor.output.dtype.name for tensor in plan.tensors}
    dtypes = [written.get(tensor.name, "BF16") for tensor in numbers.store.tensors]
    lost = np.zeros_like(numbers.nonzero)
    for dtype, column in _STEPS.items():
        own = np.array([each == dtype for each in dtypes], bool)
        lost[own] = numbers.unchanged[own][:, :, column]
    totals = dict(_counts(numbers.nonzero))
    rows = tuple(
        Of((_name(numbers, m),), {"share": count / totals[m]})
        for m, count in _counts(lost)
        if totals[m] and count >= SWALLOWED * totals[m]
    )
    shares = lost / np.maximum(numbers.nonzero, 1)
    named = np.array([name in {row.models[0] for row in rows} for name in numbers.store.models], bool)
    yield Observation("swallowed", rows, *_places(numbers, shares, named & (shares >= SWALLOWED)))


def _parts(numbers: Numbers) -> Iterator[Observation]:
    """Routers that moved at all; embeddings and norms that moved otherwise than the rest."""
    parts = np.array(parts_of(numbers.store.tensors), object)
    rest = _mean_square(numbers, parts == "other")
    by_tensor = numbers.squares / np.maximum(numbers.elements, 1)[:, None]
    kinds: tuple[tuple[Part, Kind, float], ...] = (
        ("router", "routers", 0.0), ("embedding", "embeddings", UNLIKE), ("norm", "norms", UNLIKE),
    )  # fmt: skip
    for part, kind, times in kinds:
        own = parts == part
        found = _mean_square(numbers, own)
        shown = (found > 0) & (found >= times * times * rest)
        rows = tuple(
            Of((_name(numbers, m),), {"rms": float(found[m]) ** 0.5, "rest": float(rest[m]) ** 0.5})
            for m in np.flatnonzero(shown).tolist()
        )
        where = own[:, None] & shown & (by_tensor > 0) & (by_tensor >= times * times * rest)
        yield Observation(kind, rows, *_places(numbers, np.sqrt(by_tensor), where))


def _mean_square(numbers: Numbers, which: NDArray[np.bool_]) -> Floats:
    """(M): of the deltas in some tensors, zeros counted."""
    found: Floats = numbers.squares[which].sum(axis=0) / max(1, int(numbers.elements[which].sum()))
    return found


def _places(
    numbers: Numbers, values: NDArray[np.float64] | NDArray[np.int64], where: NDArray[np.bool_], *, least: bool = False
) -> tuple[tuple[Place, ...], int]:
    """The tensors and models for which something holds, the largest value first, or the least."""
    tensors, models = np.nonzero(where)
    found = values[tensors, models]
    order = np.argsort(found if least else -found, kind="stable")
    first = order[:MOST_TENSORS]
    listed = zip(tensors[first].tolist(), models[first].tolist(), found[first].tolist(), strict=True)
    return (
        tuple(Place(numbers.store.tensors[t].name, (_name(numbers, m),), value) for t, m, value in listed),
        order.size - len(first),
    )


def _counts(by_tensor: NDArray[np.int64]) -> Iterable[tuple[int, int]]:
    """The number of each model, and its sum."""
    return enumerate(by_tensor.sum(axis=0).tolist())


def _shares(lengths: Floats) -> Floats | None:
    total = lengths.sum()
    return lengths / total if total else None


def _name(numbers: Numbers, model: int) -> str:
    return numbers.store.models[model]
