"""Compares the tensors of two checkpoints, each read once, tile by tile."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sdmw.planning.comparison import ComparisonPlan, Pair
from sdmw.running.bundles import Bundles
from sdmw.running.context import Context
from sdmw.running.events import Progress
from sdmw.running.journal import check_unchanged
from sdmw.running.pool import Task
from sdmw.running.span import read_tiles
from sdmw.running.stop import GivenUp
from sdmw.running.work import tile_of
from sdmw.statistics.change import Change, change_of
from sdmw.statistics.difference import Difference, DifferenceCounter


@dataclass(frozen=True, slots=True)
class Portion:
    """A tile of a pair."""

    pair: Pair
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Bytes read of both tensors."""
        return (self.stop - self.start) * self.pair.read


@dataclass(frozen=True, slots=True)
class Compared:
    """What changed.

    Attributes:
        total: in all tensors.
        changes: in each, in the plan's order.
    """

    total: Change
    changes: tuple[Change, ...]


def compare(plan: ComparisonPlan, context: Context) -> Compared:
    """Compare all pairs.

    Raises:
        RunError: the data or the machine.
    """
    comparing = _Comparing(plan, context)
    context.pool.run(comparing.next_task)
    check_unchanged((plan.a, plan.b))
    return comparing.result()


def differences(portions: Sequence[Portion], given_up: GivenUp) -> tuple[Difference, ...]:
    """The difference in each portion."""
    counter = DifferenceCounter() if any(portion.pair.floats for portion in portions) else None
    return tuple(_difference(portion, counter, given_up) for portion in portions)


def _difference(portion: Portion, counter: DifferenceCounter | None, given_up: GivenUp) -> Difference:
    pair, changed = portion.pair, 0
    tile = portion.stop - portion.start
    for first, arrays in read_tiles((pair.a, pair.b), portion.start, portion.stop, tile, given_up.check):
        if counter and pair.floats:
            counter.add(tile_of((pair.a, pair.b), arrays, first))
        else:
            one, other = map(_words, arrays)
            changed += int(np.count_nonzero(one != other))
    return counter.result() if counter and pair.floats else Difference(changed)


def _words(elements: NDArray[np.generic]) -> NDArray[np.generic]:
    """The bits of elements."""
    return elements.view(f"<u{elements.itemsize}")


class _Comparing:
    """The portions of all pairs in order; a pair's differences are added up as they come, and then only its change."""

    def __init__(self, plan: ComparisonPlan, context: Context) -> None:
        self._plan, self._context = plan, context
        self._changes: dict[int, Change] = {}
        self._open: dict[int, tuple[Difference, int]] = {}  # what is known, and how many portions are not
        self._total, self._done, self._to_read = Difference(), 0, plan.bytes_read
        portions = self._portions()
        self._bundles: Bundles[tuple[int, Portion]] = Bundles(lambda: next(portions, None), lambda each: each[1].nbytes)

    def next_task(self) -> Task[tuple[Difference, ...]] | None:
        """The next portions."""
        if not (bundle := self._bundles.next()):
            return None
        portions = tuple(portion for _, portion in bundle)
        return Task(differences, (portions, self._context.pool.given_up), partial(self._take, bundle))

    def result(self) -> Compared:
        """Once all tasks are done."""
        pairs = self._plan.pairs
        elements, floats = sum(pair.elements for pair in pairs), any(pair.floats for pair in pairs)
        changes = tuple(self._changes[number] for number in range(len(pairs)))
        return Compared(change_of(self._total, elements, floats=floats), changes)

    def _portions(self) -> Iterator[tuple[int, Portion]]:
        for number, pair in enumerate(self._plan.pairs):
            tiles = list(pair.tiles())
            self._open[number] = Difference(), len(tiles)
            if not tiles:
                self._close(number)
            for start, stop in tiles:
                yield number, Portion(pair, start, stop)

    def _take(self, bundle: Sequence[tuple[int, Portion]], found: Sequence[Difference]) -> None:
        for (number, portion), difference in zip(bundle, found, strict=True):
            known, waiting = self._open[number]
            self._open[number] = known + difference, waiting - 1
            if waiting == 1:
                self._close(number)
            self._done += portion.nbytes
        self._context.tell(Progress("compare", self._done, self._to_read))

    def _close(self, number: int) -> None:
        difference, _ = self._open.pop(number)
        pair = self._plan.pairs[number]
        self._changes[number] = change_of(difference, pair.elements, floats=pair.floats)
        self._total += difference
