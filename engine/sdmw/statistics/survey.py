"""All that is kept of a tensor to answer questions without the models: magnitudes, and pairs of models."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sdmw.kernels.bins import BINS, FIRST_NONFINITE_BIN
from sdmw.kernels.blocks import GRAIN
from sdmw.statistics.blocks import BlockSums, OpenBlocks
from sdmw.statistics.look import Look, LookMemory, Tile, add_by_model, check_models

Integers = NDArray[np.int64]
MOST_OVERLAPPING = 8  # models of which every subset is counted
NO_PATTERN = 0xFFFFFFFF  # above every pattern


def _none() -> Integers:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False, slots=True)
class Magnitudes:
    """What one model changed: its nonzero deltas by bin, as in `Histogram`, with the squares of their low bits.

    Attributes:
        bins: uint16, the finite bins that hold anything, rising.
        counts: int64, deltas in each.
        odds: int64, those among them whose low bits are not zero.
        low_sums: int64, the sum of the low 16 bits.
        squares: int64, (2, bins): the sum of their squares, in two words of which the second counts 2**32.
        nonfinite: deltas that are NaN or infinite; they are in no other number here.
        unchanged: deltas that bfloat16 swallows, since base + delta rounds to what the base rounds to; and float16.
        smallest, largest: patterns of the extreme magnitudes; of no delta above every pattern, and zero.
    """

    bins: NDArray[np.uint16] = field(default_factory=lambda: np.empty(0, np.uint16))
    counts: Integers = field(default_factory=_none)
    odds: Integers = field(default_factory=_none)
    low_sums: Integers = field(default_factory=_none)
    squares: Integers = field(default_factory=lambda: np.empty((2, 0), np.int64))
    nonfinite: int = 0
    unchanged: tuple[int, int] = (0, 0)
    smallest: int = NO_PATTERN
    largest: int = 0

    @property
    def nonzero(self) -> int:
        """How many finite deltas are not zero."""
        return int(self.counts.sum())

    def __add__(self, other: "Magnitudes") -> "Magnitudes":
        bins, places = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        mine, more = places[: self.bins.size], places[self.bins.size :]

        def added(one: Integers, two: Integers) -> Integers:
            found = np.zeros((*one.shape[:-1], bins.size), np.int64)
            found[..., mine] = one
            found[..., more] += two
            return found

        return Magnitudes(
            bins,
            added(self.counts, other.counts),
            added(self.odds, other.odds),
            added(self.low_sums, other.low_sums),
            added(self.squares, other.squares),
            self.nonfinite + other.nonfinite,
            (self.unchanged[0] + other.unchanged[0], self.unchanged[1] + other.unchanged[1]),
            min(self.smallest, other.smallest),
            max(self.largest, other.largest),
        )


@dataclass(frozen=True, eq=False, slots=True)
class Survey:
    """Of all models.

    Attributes:
        models: what each changed.
        products: of the pairs (0, 0), (0, 1), …, (1, 1), …: dot products of deltas, as in `Gram`.
        conflict: (n, n), int64, above the diagonal: elements that both change, in opposed directions.
        overlap: (2**n): elements by the subset of models that change them, bit i of its number standing for model i;
            (1), and zero, for more than 8 models.
    """

    models: tuple[Magnitudes, ...]
    products: BlockSums
    conflict: Integers
    overlap: Integers

    def __add__(self, other: "Survey") -> "Survey":
        return Survey(
            add_by_model(self.models, other.models),
            self.products + other.products,
            self.conflict + other.conflict,
            self.overlap + other.overlap,
        )


@dataclass(frozen=True, slots=True)
class SurveyLook(Look[Survey]):
    """Asks for everything."""

    # Packed bins are 0.8 MB in a worker, what they are added to 1.3; a result has at most 32,641 bins of 42 bytes; and
    # adding puts two side by side.
    memory: ClassVar[LookMemory] = LookMemory(counter=9 << 18, result=11 << 17, kept=11 << 18)
    grain: ClassVar[int] = GRAIN
    in_order: ClassVar[bool] = True

    def counter(self, models: int) -> "SurveyCounter":
        """A new counter, at zero."""
        return SurveyCounter(models)

    def nothing(self, models: int) -> Survey:
        """No element."""
        pairs, shape = models * (models + 1) // 2, (models, models)
        overlap = np.zeros(subsets_of(models), np.int64)
        return Survey((Magnitudes(),) * models, BlockSums((0,) * pairs), np.zeros(shape, np.int64), overlap)

    def add(self, one: Survey, other: Survey) -> Survey:
        """Model by model and pair by pair."""
        return one + other

    def nonfinite(self, statistic: Survey) -> int:
        """Of all models."""
        return sum(each.nonfinite for each in statistic.models)


class SurveyCounter:
    """Counts tiles, which come in order, the first of them at a block's beginning."""

    def __init__(self, models: int) -> None:
        from sdmw.kernels import survey, tiles

        self._survey = survey.survey
        self._packed = np.zeros((models, tiles.PACKED), np.uint64)
        self._low = np.zeros((models, BINS), np.uint64)
        self._counts, self._low_sums, self._odds = np.zeros((3, models, BINS), np.int64)
        self._squares = np.zeros((models, 2, BINS), np.int64)
        self._unchanged = np.zeros((models, 2), np.int64)
        self._extremes = np.array([[survey.NOTHING, 0]] * models, np.int64)
        self._conflict = np.zeros((models, models), np.int64)
        self._overlap = np.zeros((survey.COPIES, subsets_of(models)), np.int64)
        self._blocks = OpenBlocks(models * (models + 1) // 2)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        check_models(tile, len(self._counts))
        lanes, sums = self._blocks.lanes, self._blocks.room(tile)
        ended = self._survey(
            tile.addresses, tile.codes, tile.count, tile.first, self._packed, self._low, self._counts, self._low_sums,
            self._odds, self._squares, self._unchanged, self._extremes, self._conflict, self._overlap, lanes, sums,
        )  # fmt: skip
        self._blocks.take(tile, sums[:ended])

    def result(self) -> Survey:
        """All that was added; counting begins again."""
        models = tuple(map(self._of_model, range(len(self._counts))))
        found = Survey(models, self._blocks.result(), self._conflict.copy(), self._overlap.sum(axis=0))
        self._unchanged[:] = self._conflict[:] = self._overlap[:] = 0
        self._extremes[:] = NO_PATTERN, 0
        return found

    def _of_model(self, model: int) -> Magnitudes:
        held = np.flatnonzero(self._counts[model] != 0)
        bins = held[: np.searchsorted(held, FIRST_NONFINITE_BIN)]
        counts, low_sums, odds = (each[model, bins] for each in (self._counts, self._low_sums, self._odds))
        unchanged, (least, largest) = self._unchanged[model].tolist(), self._extremes[model].tolist()
        found = Magnitudes(
            bins.astype(np.uint16),
            counts,
            odds,
            low_sums,
            self._squares[model][:, bins],
            int(self._counts[model, held[bins.size :]].sum()),
            (unchanged[0], unchanged[1]),
            NO_PATTERN if least == NO_PATTERN else least + 1,
            largest,
        )
        for each in (self._counts, self._low_sums, self._odds):
            each[model, held] = 0
        self._squares[model][:, held] = 0
        return found


def subsets_of(models: int) -> int:
    """How many subsets of so many models are counted apart."""
    return 1 << models if models <= MOST_OVERLAPPING else 1
