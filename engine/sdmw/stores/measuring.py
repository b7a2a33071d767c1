"""Measures a store: pieces are looked at by workers, tensors are added up and written in order by the driver.

Workers are threads of this process: a survey of a piece is a megabyte a model, too much to send for what it costs.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from sdmw.archives import shards
from sdmw.archives.group import Chunk
from sdmw.planning.plan import Piece, Plan
from sdmw.running import work
from sdmw.running.bundles import LARGEST, Bundles
from sdmw.running.context import Context
from sdmw.running.events import Progress, Resuming
from sdmw.running.in_order import InOrder
from sdmw.running.job import span_of
from sdmw.running.pool import AHEAD, Task
from sdmw.statistics.blocks import BlockSums
from sdmw.statistics.survey import Magnitudes, Survey, SurveyLook, subsets_of
from sdmw.stores.rows import Row, row_of
from sdmw.stores.spool import SurveyNotes
from sdmw.stores.writing import StoreWriter
from sdmw.views.layers import layer_index

BUNDLED = 1 << 15  # elements that are handed over together: a survey of them is no larger than of one piece
LOOK = SurveyLook()


@dataclass(frozen=True, slots=True)
class _Asked:
    """A piece that is to be looked at."""

    piece: Piece
    looking: work.Looking
    nbytes: int


def measure(
    plan: Plan,
    writer: StoreWriter,
    context: Context,
    row: Callable[[int, Survey], Row] | None = None,
    notes: SurveyNotes | None = None,
) -> None:
    """Write the statistics of all tensors of a plan.

    Args:
        plan: of measuring, without problems.
        writer: of a store without tensors.
        context: of the run.
        row: what is written of a tensor, by its number, and of the survey of the plan's models; None for that alone.
        notes: where surveys are kept, and those of an earlier run found; None where the run is not resumed.

    Raises:
        RunError: the data or the machine.
    """
    _Measuring(plan, writer, context, row or (lambda _, survey: row_of(survey)), notes).carry_out()


class _Measuring:
    """The pieces of all tensors in order, surveyed and compressed by the pool."""

    def __init__(
        self,
        plan: Plan,
        writer: StoreWriter,
        context: Context,
        row: Callable[[int, Survey], Row],
        notes: SurveyNotes | None,
    ) -> None:
        self._plan, self._writer, self._context, self._row, self._notes = plan, writer, context, row, notes
        self._kept = {each for each in notes.found if notes.survey_of(each)} if notes else set()
        self._total, self._done = plan.bytes_of(range(len(plan.tensors))), plan.bytes_of(self._kept)
        self._next = 0  # the tensor that is written next
        self._open: Survey | None = None
        self._chunks: deque[Chunk] = deque()
        pieces, most = self._asked(), AHEAD * plan.threads
        bundles = Bundles(lambda: next(pieces, None), _weight)
        self._looking = InOrder(lambda: self._task(bundles.next()), most)
        self._compressing = InOrder(self._compression, most)

    def carry_out(self) -> None:
        """Write all arrays, but not what the store says of them."""
        run = self._context.pool.run
        if self._kept:
            self._context.tell(Resuming(self._done, self._total))
            self._context.tell(Progress("measure", self._done, self._total))
        run(self._next_task)
        while self._next < len(self._plan.tensors):  # the last ones were found by an earlier run
            self._add_kept()
            run(self._next_task)
        self._chunks.extend(self._writer.rest())
        run(self._compressing.next_task)

    def _next_task(self) -> Task[Any] | None:
        """Chunks that wait go first, so that they never become many."""
        if self._notes and (commit := self._notes.commit()):
            return commit
        while not self._chunks and self._next in self._kept:
            self._add_kept()
        return (self._compressing if self._chunks else self._looking).next_task()

    def _add_kept(self) -> None:
        """Write what an earlier run found of the next tensor."""
        assert self._notes
        survey = self._notes.survey_of(self._next)
        assert survey is not None  # looked at before: nobody else writes there
        self._add(survey)

    def _add(self, survey: Survey) -> None:
        tensor = self._plan.tensors[self._next]
        row = self._row(self._next, survey)
        self._chunks.extend(self._writer.add(tensor.elements, layer_index(tensor.name), row))
        self._next += 1

    def _asked(self) -> Iterator[_Asked]:
        for number, tensor in enumerate(self._plan.tensors):
            for piece in () if number in self._kept else self._plan.looked_at(number, LOOK):
                span = span_of(self._plan, piece, self._context.pool.given_up)
                yield _Asked(piece, work.Looking(span, LOOK, len(tensor.among)), span.nbytes)

    def _task(self, asked: Sequence[_Asked]) -> Task[Any] | None:
        if not asked:
            return None
        return Task(work.measure_all, (tuple(each.looking for each in asked),), partial(self._take, asked))

    def _take(self, asked: Sequence[_Asked], found: Sequence[Survey]) -> None:
        for each, survey in zip(asked, found, strict=True):
            self._open = survey if self._open is None else LOOK.add(self._open, survey)
            tensor = self._plan.tensors[each.piece.tensor]
            if each.piece.stop == tensor.elements:
                while self._next < each.piece.tensor:
                    self._add_kept()
                whole = among(self._open, tensor.among, len(self._plan.models))
                self._add(whole)
                if self._notes:
                    self._notes.note_survey(each.piece.tensor, whole)
                self._open = None
            self._done += each.nbytes
        self._context.tell(Progress("measure", self._done, self._total))

    def _compression(self) -> Task[bytes] | None:
        if not self._chunks:
            return None
        name, chunk = self._chunks.popleft()
        return Task(shards.compressed, (chunk, "shuffle"), partial(self._writer.store, name))


def _weight(asked: _Asked) -> int:
    """Of a piece in a bundle, by its elements."""
    return (asked.piece.stop - asked.piece.start) * LARGEST // BUNDLED


def among(survey: Survey, taking: Sequence[int], models: int) -> Survey:
    """The survey of all models, of which only some take part in a tensor; the others change nothing.

    Args:
        survey: of those that do.
        taking: their numbers.
        models: how many there are.
    """
    if len(taking) == models:
        return survey
    each = [Magnitudes()] * models
    for number, model in zip(taking, survey.models, strict=True):
        each[number] = model
    conflict = np.zeros((models, models), np.int64)
    conflict[np.ix_(taking, taking)] = survey.conflict
    overlap = np.zeros(subsets_of(models), np.int64)
    if overlap.size > 1:
        for subset, count in enumerate(survey.overlap.tolist()):
            overlap[sum(1 << number for bit, number in enumerate(taking) if subset >> bit & 1)] = count
    totals = dict.fromkeys(combinations_with_replacement(range(models), 2), 0)
    totals.update(zip(combinations_with_replacement(taking, 2), survey.products.totals, strict=True))
    products = BlockSums(tuple(totals.values()), survey.products.finite)
    return Survey(tuple(each), products, conflict, overlap)
