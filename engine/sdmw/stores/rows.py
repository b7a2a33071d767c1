"""What a store has of one tensor: the part of each array that grows by it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmw.statistics.survey import MOST_OVERLAPPING, NO_PATTERN, Magnitudes, Survey, subsets_of
from sdmw.stores.forms import ENTRIES

UNKNOWN = -1  # in the place of a count of pairs that was not measured; of a dot product it is NaN
_BY_MODEL = ("nonzero", "nonfinite", "unchanged", "largest", "smallest")


@dataclass(frozen=True, eq=False, slots=True)
class Row:
    """One tensor.

    Attributes:
        sizes: occupied bins of each model.
        columns: by array; those of bins hold all models one after the other.
    """

    sizes: Sequence[int]
    columns: Mapping[str, NDArray[Any]]


def row_of(survey: Survey) -> Row:
    """Of what was measured."""
    return Row([model.bins.size for model in survey.models], {**_by_model(survey), **_by_pair(survey)})


def with_model(row: Row, added: Row) -> Row:
    """One model more, of whose pairs with the others nothing is known; of shared elements then nothing at all.

    Args:
        row: of the models before it.
        added: of this model alone.
    """
    models = len(row.sizes) + 1
    columns = {name: np.concatenate([row.columns[name], added.columns[name]]) for name in (*ENTRIES, *_BY_MODEL)}
    gram, conflict = np.full((models, models), np.nan), np.full((models, models), UNKNOWN, np.int64)
    for whole, name in ((gram, "gram"), (conflict, "conflict")):
        whole[:-1, :-1], whole[-1:, -1:] = row.columns[name], added.columns[name]
    overlap = np.full(subsets_of(models), UNKNOWN, np.int64)
    pairs = {"gram": gram, "conflict": conflict, **({"overlap": overlap} if models <= MOST_OVERLAPPING else {})}
    return Row([*row.sizes, *added.sizes], columns | pairs)


def _by_model(survey: Survey) -> dict[str, NDArray[Any]]:
    models = survey.models
    return {
        "bin": np.concatenate([model.bins for model in models]),
        "count": np.concatenate([model.counts for model in models]),
        "at_edge": np.concatenate([model.counts - model.odds for model in models]),
        "low_sum": np.concatenate([model.low_sums for model in models]),
        "low_squares": np.concatenate([_words(model.squares) for model in models]),
        "nonzero": np.array([model.nonzero for model in models]),
        "nonfinite": np.array([model.nonfinite for model in models]),
        "unchanged": np.array([model.unchanged for model in models]),
        "largest": _values([model.largest for model in models]),
        "smallest": _values([_least(model) for model in models]),
    }


def _least(model: Magnitudes) -> int:
    return 0 if model.smallest == NO_PATTERN else model.smallest


def _values(patterns: list[int]) -> NDArray[np.float32]:
    return np.array(patterns, np.uint32).view(np.float32)


def _words(squares: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Sums given by a low word and one that counts 2**32, as words of 64 bits, the low one first."""
    low, high = squares.astype(np.uint64)
    first = low + (high << np.uint64(32))
    carried = (high >> np.uint64(32)) + (first < low)
    return np.stack([first, carried], axis=1)


def _by_pair(survey: Survey) -> dict[str, NDArray[Any]]:
    size = len(survey.models)
    upper = np.triu_indices(size)
    gram = np.zeros((size, size))
    gram[upper] = survey.products.numbers()
    gram.T[upper] = gram[upper]
    return {"gram": gram, "conflict": survey.conflict + survey.conflict.T, "overlap": survey.overlap}
