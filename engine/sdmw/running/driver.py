"""Drives a plan: measure layer by layer, decide each as soon as it can be, then apply, last measured first."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sdmw.errors import DisagreementError, OutputError, Problem, quoted
from sdmw.methods.method import LayerDecision, Method, ModelDecision
from sdmw.planning.plan import Piece, Plan, TiedHead
from sdmw.running import work
from sdmw.running.events import Progress, Receiver, Stage
from sdmw.running.journal import RunJournal
from sdmw.running.stop import GivenUp, StopSignals
from sdmw.statistics.look import Look
from sdmw.writing.output import Output

AHEAD = 2  # pieces handed over for each thread: one that runs, one that waits
SIGNAL_CHECK = 0.1  # seconds
EQUAL = "every fine-tune equals the base: so does the result"
UNMOVED = "no fine-tune has a finite change: the result is the base"  # where NaN and infinity may pass


@dataclass(frozen=True, slots=True)
class Task:
    """One call for an executor, and what to do with its result in the driving thread."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    then: Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found.

    Attributes:
        layers: the decision of each layer, in the plan's order.
        model: the model's decision.
        pieces: the checksum of each piece of the output, XXH3-128 in hex.
        bytes_read: bytes of tensors read in all.
        bytes_read_again: those among them that a further look at a layer took.
        warnings: what is odd in the data.
    """

    layers: tuple[LayerDecision, ...]
    model: ModelDecision
    pieces: Mapping[Piece, str]
    bytes_read: int
    bytes_read_again: int
    warnings: tuple[str, ...]


class Run:
    """One run of a plan with an executor: `carry_out` does all of it, `decide` the first half."""

    def __init__(self, plan: Plan, method: Method, executor: Executor, tell: Receiver, signals: StopSignals) -> None:
        self._plan, self._method = plan, method
        self._executor, self._tell, self._signals = executor, tell, signals
        self._strict = plan.recipe.nonfinite == "error"
        self._given_up = GivenUp()
        self._read = self._read_again = 0

    def carry_out(self, output: Output) -> Outcome:
        """Measure, decide, apply; what an earlier run has done is not done again.

        Raises:
            RunError: inputs changed, are not finite, disagree, or a signal came; nothing is running any more.
        """
        self._journal = RunJournal(output, self._plan)
        try:
            return self._carry_out(output)
        except BaseException as error:
            if getattr(error, "resumable", True):
                with suppress(OutputError):
                    self._journal.keep()
            raise

    def decide(self) -> tuple[LayerDecision, ...]:
        """Measure and decide each layer, in the plan's order, for who applies it in a way of his own; keeps no journal.

        Raises:
            RunError: as for `carry_out`.
        """
        self._journal = RunJournal(None, self._plan)
        return self._measure()

    def _measure(self) -> tuple[LayerDecision, ...]:
        told = self._told("measure", self._plan.measured_bytes)
        layers = Measuring(self._plan, self._method, self._span, told, self._journal)
        self._all(layers.next_task)
        self._read_again = layers.read_again
        return layers.decisions()

    def _carry_out(self, output: Output) -> Outcome:
        warnings = [self._check_head(tied) for tied in self._plan.heads]
        decisions = self._measure()
        model = self._method.decide_model(self._first_params(), decisions)
        if not any(model.takes_part) or self._unchanged(decisions):
            warnings.append(EQUAL if self._strict else UNMOVED)
        kept = self._checked(output)
        tasks = self._applying(output.write, decisions, model, kept)
        self._all(lambda: next(tasks, None))
        pieces = self._journal.written
        return Outcome(decisions, model, pieces, self._read + self._read_again, self._read_again, tuple(warnings))

    def _checked(self, output: Output) -> set[Piece]:
        """The pieces of an earlier run that the output still holds."""
        kept: set[Piece] = set()

        def take(piece: Piece, same: bool) -> None:
            if same:
                kept.add(piece)
                self._journal.found_piece(piece)

        planned = {piece for tensor in range(len(self._plan.tensors)) for piece in self._plan.pieces_of(tensor)}
        tasks = (
            Task(work.holds, (self._span(piece), checksum, output.read), partial(take, piece))
            for piece, checksum in self._journal.pieces.items()
            if piece in planned  # another budget may have cut the tensors otherwise
        )
        self._all(lambda: next(tasks, None))
        return kept

    def _applying(
        self, write: work.Write, layers: tuple[LayerDecision, ...], model: ModelDecision, kept: set[Piece]
    ) -> Iterator[Task]:
        """Last measured first: what was read last may still be in the page cache."""
        told = self._told("apply", self._plan.applied_bytes)

        def take(piece: Piece, size: int, checksum: str) -> None:
            self._journal.note_piece(piece, checksum)
            told(size)

        for number in range(len(layers) - 1, -1, -1):
            for piece in _backwards(self._plan, self._plan.layers[number].tensors):
                if piece not in kept:
                    span = self._span(piece)
                    arguments = (span, self._method, layers[number], model, write)
                    yield Task(work.apply, arguments, partial(take, piece, span.nbytes))
        others = [number for number, tensor in enumerate(self._plan.tensors) if tensor.action != "merge"]
        for piece in _backwards(self._plan, others):
            if piece not in kept:
                span = self._span(piece)
                function = work.copy if span.tensor.action == "copy" else work.convert
                yield Task(function, (span, write), partial(take, piece, span.nbytes))

    def _check_head(self, tied: TiedHead) -> str:
        """A tied head is dropped where it equals the embedding, else it would be lost."""
        same: list[bool] = []
        tasks = iter([Task(work.equal, (tied.head, tied.embedding, self._plan.tile), same.append)])
        self._all(lambda: next(tasks, None))
        if not all(same):
            where = f"{tied.head.file}: tensor {quoted(tied.head.name)}"
            expected = (
                f"the same values as {quoted(tied.embedding.name)}, since the base ties its head to its embedding"
            )
            mend = (
                "Either tie this model's head (drop the tensor), or untie the base: store its embedding again as "
                f"{quoted(tied.head.name)} and set tie_word_embeddings to false"
            )
            raise DisagreementError([Problem(where, expected, "others", mend)])
        head, embedding = quoted(tied.head.name), quoted(tied.embedding.name)
        return f"model {quoted(tied.model)}: {head} equals {embedding} and is tied in the base: dropped"

    def _unchanged(self, layers: tuple[LayerDecision, ...]) -> bool:
        """No model changed anything; under `nonfinite: pass` a NaN may have been, which no count shows."""
        counts = [share.nonzero for layer in layers for share in layer]
        return bool(counts) and not any(count is None or count for count in counts) and self._strict

    def _all(self, next_task: Callable[[], Task | None]) -> None:
        """Run every task, a few at a time, with their results taken here; on an error nothing is left running."""
        running: dict[Future[Any], Task] = {}
        try:
            while True:
                while len(running) < AHEAD * self._plan.threads and (task := self._commit() or next_task()):
                    running[self._executor.submit(task.function, *task.arguments)] = task
                if not running:
                    return
                done, _ = wait(running, SIGNAL_CHECK, FIRST_COMPLETED)
                self._signals.check()
                for future in done:
                    running.pop(future).then(future.result())
        except BaseException:
            self._given_up.set()
            raise
        finally:
            for future in running:
                future.cancel()
            wait(running)

    def _commit(self) -> Task | None:
        """The journal's turn, if it is."""
        commit = self._journal.due()
        return commit and Task(commit, (), lambda _: self._journal.committed())

    def _span(self, piece: Piece) -> work.Span:
        plan = self._plan
        return work.Span(
            plan.tensors[piece.tensor],
            piece.start,
            piece.stop,
            plan.tile_of(piece.tensor),
            self._strict,
            self._given_up,
        )

    def _told(self, stage: Stage, total: int) -> Callable[[int], None]:
        done = 0

        def told(size: int) -> None:
            nonlocal done
            done += size
            self._read += size
            self._tell(Progress(stage, done, total))

        return told

    def _first_params(self) -> Any:
        return next(tensor.params for tensor in self._plan.tensors if tensor.params is not None)


@dataclass(slots=True)
class _OpenLayer:
    """A layer between its first tile and its decision: only these hold statistics."""

    look: Look
    waiting: int
    have: dict[str, dict[str, tuple[Any, ...]]] = field(default_factory=dict)


class Measuring:
    """Looks at each layer until the method needs no more, and decides it; further looks go first, while cached.

    Attributes:
        read_again: bytes that further looks have read.
    """

    def __init__(
        self,
        plan: Plan,
        method: Method,
        span: Callable[[Piece], work.Span],
        told: Callable[[int], None],
        journal: RunJournal,
    ) -> None:
        self.read_again = 0
        self._plan, self._method, self._span, self._told, self._journal = plan, method, span, told, journal
        self._open: dict[int, _OpenLayer] = {}
        self._decided: dict[int, LayerDecision] = dict(journal.layers)
        self._again: deque[Iterator[Task]] = deque()
        self._first = self._first_looks()

    def next_task(self) -> Task | None:
        """The next piece to look at; None where there is none now, though results to come may bring some."""
        while self._again:
            if task := next(self._again[0], None):
                return task
            self._again.popleft()
        return next(self._first, None)

    def decisions(self) -> tuple[LayerDecision, ...]:
        """Of every layer, in the plan's order; once all tasks are done."""
        return tuple(self._decided[number] for number in range(len(self._plan.layers)))

    def _first_looks(self) -> Iterator[Task]:
        for number in range(len(self._plan.layers)):
            if number not in self._decided:
                yield from self._advance(number, {})

    def _advance(self, number: int, have: dict[str, dict[str, tuple[Any, ...]]]) -> Iterator[Task]:
        """Look once more, or decide."""
        params = self._plan.tensors[self._plan.layers[number].tensors[0]].params
        while look := self._method.needs(params, have):
            tensors = self._plan.layers[number].tensors
            pieces = sum(map(self._plan.piece_count, tensors))
            nothing = look.nothing(len(self._plan.models))
            have[look.kind] = {self._plan.tensors[tensor].component: nothing for tensor in tensors}
            if pieces:
                self._open[number] = _OpenLayer(look, pieces, have)
                return self._tasks(number, look)
        self._decided[number] = decision = self._method.decide_layer(params, have)
        if have:
            self._journal.note_layer(number, decision)
        return iter(())

    def _tasks(self, number: int, look: Look) -> Iterator[Task]:
        for tensor in self._plan.layers[number].tensors:
            for piece in self._plan.pieces_of(tensor):
                span = self._span(piece)
                yield Task(work.measure, (span, look), partial(self._take, number, span))

    def _take(self, number: int, span: work.Span, result: tuple[Any, ...]) -> None:
        """Add a piece's statistics to its layer's; the last one of a look leads to the next, or to the decision."""
        layer = self._open[number]
        sums = layer.have[layer.look.kind]
        component = span.tensor.component
        sums[component] = tuple(mine + more for mine, more in zip(sums[component], result, strict=True))
        first = len(layer.have) == 1
        layer.waiting -= 1
        if not layer.waiting:
            del self._open[number]
            self._again.append(self._advance(number, layer.have))
        if first:
            self._told(span.nbytes)
        else:
            self.read_again += span.nbytes


def _backwards(plan: Plan, tensors: Iterable[int]) -> Iterator[Piece]:
    for tensor in reversed(tuple(tensors)):
        yield from reversed(tuple(plan.pieces_of(tensor)))
