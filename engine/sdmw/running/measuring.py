"""Measures layer by layer, and decides each as soon as it can be."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sdmw.methods.method import AnyMethod
from sdmw.planning.plan import Piece, Plan
from sdmw.running import work
from sdmw.running.bundles import Bundles
from sdmw.running.deal import Deal
from sdmw.running.journal import RunJournal
from sdmw.running.pool import Task
from sdmw.running.span import Span
from sdmw.running.work import Decided
from sdmw.statistics.look import Look, Measured


@dataclass(slots=True)
class _OpenLayer:
    """A layer between its first tile and its decision: only these hold statistics."""

    look: Look[Any]
    waiting: int
    have: Measured
    found: dict[str, Any]  # of this look, by component


@dataclass(frozen=True, slots=True)
class _Asked:
    """A share of a piece that is to be looked at, the bytes that it reads, and what takes its statistic."""

    looking: work.Looking
    nbytes: int
    take: Callable[[Any], None]


Known = Callable[[int], Measured | Decided]  # what is known of a layer before it is looked at, by its number


def _take_all(asked: Sequence[_Asked], results: Sequence[Any]) -> None:
    for each, result in zip(asked, results, strict=True):
        each.take(result)


class Measuring:
    """Looks at each layer until the method needs no more, and decides it; further looks go first, while cached.

    Attributes:
        read_again: bytes that further looks have read.
    """

    def __init__(
        self,
        plan: Plan,
        method: AnyMethod,
        span: Callable[[Piece], Span],
        shares: Callable[[Span], int],
        told: Callable[[int, bool], None],
        journal: RunJournal,
        known: Known,
    ) -> None:
        """`told` hears of bytes, and whether they were read; `known` gives what need not be measured of each layer."""
        self.read_again = 0
        self._plan, self._method, self._span, self._shares = plan, method, span, shares
        self._told, self._journal, self._known = told, journal, known
        self._open: dict[int, _OpenLayer] = {}
        self._decided: dict[int, object] = dict(journal.layers)
        self._again: deque[Iterator[_Asked]] = deque()
        self._first = self._first_looks()
        self._bundles = Bundles(self._next, lambda asked: asked.nbytes)

    def next_task(self) -> Task[Any] | None:
        """The next pieces to look at; None where there is none now, though a result to come may bring one."""
        if not (asked := self._bundles.next()):
            return None
        return Task(work.measure_all, (tuple(each.looking for each in asked),), partial(_take_all, asked))

    def _next(self) -> "_Asked | None":
        while self._again:
            if asked := next(self._again[0], None):
                return asked
            self._again.popleft()
        return next(self._first, None)

    def decisions(self) -> tuple[object, ...]:
        """Of every layer, in the plan's order; once all tasks are done."""
        return tuple(self._decided[number] for number in range(len(self._plan.layers)))

    def _first_looks(self) -> "Iterator[_Asked]":
        for number in range(len(self._plan.layers)):
            if number not in self._decided:
                have = self._known(number)
                if isinstance(have, Decided) or have.looks:
                    self._told(self._plan.bytes_of(self._plan.layers[number].tensors), False)
                if isinstance(have, Decided):
                    self._decide(number, have.decision)
                else:
                    yield from self._advance(number, have)

    def _advance(self, number: int, have: Measured) -> "Iterator[_Asked]":
        """Look once more, or decide."""
        tensors = self._plan.layers[number].tensors
        params = self._plan.tensors[tensors[0]].params
        while look := self._method.needs(params, have):
            nothing = look.nothing(len(self._plan.tensors[tensors[0]].among))
            found = {self._plan.tensors[tensor].component: nothing for tensor in tensors}
            if dealt := list(self._dealt(number, look)):
                self._open[number] = _OpenLayer(look, sum(shares for *_, shares in dealt), have, found)
                return self._tasks(number, look, dealt)
            have = have.with_look(type(look), found)
        decision = self._method.decide_layer(params, have)
        if have.looks:
            self._decide(number, decision)
        else:
            self._decided[number] = decision
        return iter(())

    def _decide(self, number: int, decision: object) -> None:
        """Keep what was measured, for a run that goes on too."""
        self._decided[number] = decision
        self._journal.note_layer(number, decision)

    def _dealt(self, number: int, look: Look[Any]) -> Iterator[tuple[int, Span, int]]:
        """Tensor and span of each piece of a layer, and by how many workers it is looked at."""
        for tensor in self._plan.layers[number].tensors:
            for piece in self._plan.looked_at(tensor, look):
                span = self._span(piece)
                yield tensor, span, 1 if look.in_order else self._shares(span)

    def _tasks(self, number: int, look: Look[Any], dealt: Sequence[tuple[int, Span, int]]) -> "Iterator[_Asked]":
        first = not self._open[number].have.looks
        for tensor, span, shares in dealt:
            models, shared = len(self._plan.tensors[tensor].among), Deal(span) if shares > 1 else span
            read = sum(each.cost.read for each in span.looked_at(look, models)) * (span.stop - span.start)
            size = span.nbytes if first else read
            alone = first and len(dealt) == shares == len(self._plan.layers[number].tensors) == 1
            looking = work.Looking(shared, look, models, self._method if alone else None)
            for share in range(shares):
                told = size * (share + 1) // shares - size * share // shares
                take = partial(self._take, number, span.tensor.component, told)
                yield _Asked(looking, told, take)

    def _take(self, number: int, component: str, size: int, result: Any) -> None:
        """Add a share's statistics to its layer's; the last one of a look leads to the next, or to the decision.

        Of a layer that is one share the worker may have decided already.
        """
        layer = self._open[number]
        layer.waiting -= 1
        if isinstance(result, Decided):
            del self._open[number]
            self._decide(number, result.decision)
            self._told(size, True)
            return
        layer.found[component] = layer.look.add(layer.found[component], result)
        if not layer.waiting:
            del self._open[number]
            self._again.append(self._advance(number, layer.have.with_look(type(layer.look), layer.found)))
        if layer.have.looks:
            self.read_again += size
        else:
            self._told(size, True)
