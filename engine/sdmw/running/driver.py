"""Drives a plan: measure layer by layer, decide each as soon as it can be, then apply, what was measured last first."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sdmw.errors import some
from sdmw.methods import all_methods
from sdmw.methods.method import AnyMethod
from sdmw.planning.plan import Piece, Plan
from sdmw.planning.timing import read_apart, shared_tiles
from sdmw.running import work
from sdmw.running.bundles import Bundles
from sdmw.running.context import Context
from sdmw.running.deal import Written
from sdmw.running.events import Progress, Resuming, Stage
from sdmw.running.job import Decisions, Job, span_of
from sdmw.running.journal import RunJournal
from sdmw.running.measuring import Known, Measuring
from sdmw.running.pool import Task
from sdmw.running.span import Span
from sdmw.sizes import counted
from sdmw.statistics.look import Measured
from sdmw.writing.output import Output, Tiles
from sdmw.writing.sink import Sink

SMALL = 1 << 20  # bytes of a tensor that is compared before anything is measured
RUN = (
    1 << 30
)  # bytes that are read in order where what was measured last is applied first; less wastes what is read ahead


def nothing_known(layer: int) -> Measured:
    """Of a layer that is to be measured."""
    return Measured()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found.

    Attributes:
        decisions: of every layer, in the plan's order, and of the model.
        pieces: the checksum of each piece of the output, XXH3-128 in hex.
        nonfinite: how many elements of the output are NaN or infinite, by tensor.
        bytes_read: bytes of tensors read in all.
        bytes_read_again: those among them that a further look at a layer took.
        warnings: what is odd in the data.
    """

    decisions: Decisions
    pieces: Mapping[Piece, str]
    nonfinite: Mapping[str, int]
    bytes_read: int
    bytes_read_again: int
    warnings: tuple[str, ...]


class Run:
    """One run of a plan: `carry_out` does all of it, `decide` the first half."""

    def __init__(self, plan: Plan, context: Context, known: Known = nothing_known) -> None:
        """`known` is what need not be measured of each layer, by its number."""
        self._plan, self._context, self._pool = plan, context, context.pool
        self._method = all_methods()[plan.recipe.merge_method]
        self._strict = plan.recipe.nonfinite == "error"
        self._read = self._read_again = 0
        self._known = known

    def carry_out(self, output: Output) -> Outcome:
        """Measure, decide, apply; what an earlier run has done is not done again.

        Raises:
            RunError: inputs changed, are not finite, disagree, or a signal came; nothing is running any more.
        """
        self._journal = RunJournal(output, self._plan, self._method)
        self._tell_resuming()
        with self._journal.kept():
            return self._carry_out(output)

    def decide(self) -> Decisions:
        """Measure and decide, for callers that apply the result themselves; no journal is kept.

        Raises:
            RunError: as for `carry_out`.
        """
        self._journal = RunJournal(None, self._plan, self._method)
        return self._decide()

    def _tell_resuming(self) -> None:
        if self._journal.layers or self._journal.pieces:
            done = self._decided_bytes() + sum(self._span(piece).nbytes for piece in self._kept_pieces())
            self._context.tell(Resuming(done, self._plan.bytes_read))

    def _decided_bytes(self) -> int:
        """Bytes that measuring the layers read which an earlier run decided."""
        layers = (self._plan.layers[number] for number in self._journal.layers)
        return self._plan.bytes_of(tensor for layer in layers for tensor in layer.tensors)

    def _kept_pieces(self) -> list[Piece]:
        """What an earlier run wrote, as it said, and cut as this plan cuts: another budget may have cut otherwise."""
        if not self._journal.pieces:
            return []
        planned = {piece for tensor in range(len(self._plan.tensors)) for piece in self._plan.pieces_of(tensor)}
        return [piece for piece in self._journal.pieces if piece in planned]

    def _decide(self) -> Decisions:
        told = self._told("measure", self._plan.measured_bytes, self._decided_bytes())
        measuring = Measuring(self._plan, self._method, self._span, self._shares, told, self._journal, self._known)
        self._run(measuring.next_task)
        self._read_again = measuring.read_again
        layers = measuring.decisions()
        return Decisions(layers, decide_model(self._plan, self._method, layers))

    def _carry_out(self, output: Output) -> Outcome:
        self._check_small_copies()
        decisions = self._decide()
        warnings = list(self._method.warnings(decisions.layers, decisions.model, strict=self._strict))
        kept = self._checked(output.sink) if isinstance(output.sink, Sink) else set()  # no other keeps anything
        tasks = self._applying(Job(self._plan, decisions), output.sink, kept)
        self._run(lambda: next(tasks, None))
        self._check_complete()
        pieces = {piece: written.checksum for piece, written in self._journal.written.items()}
        nonfinite = self._nonfinite()
        warnings += _passed(nonfinite)
        return Outcome(decisions, pieces, nonfinite, self._read + self._read_again, self._read_again, tuple(warnings))

    def _check_complete(self) -> None:
        """RuntimeError where a piece was not written: an executor gave results of what it had not done."""
        planned = sum(1 for tensor in range(len(self._plan.tensors)) for _ in self._plan.pieces_of(tensor))
        if (written := len(self._journal.written)) != planned:
            raise RuntimeError(f"{written} of {planned} pieces were written")

    def _nonfinite(self) -> dict[str, int]:
        """How many elements of the output are NaN or infinite, by tensor, where any is."""
        counts: Counter[int] = Counter()
        for piece, written in self._journal.written.items():
            counts[piece.tensor] += written.nonfinite
        return {self._plan.tensors[number].name: counts[number] for number in sorted(counts) if counts[number]}

    def _check_small_copies(self) -> None:
        """What must be equal in all inputs is looked at first where that takes no time: measuring may take hours."""
        small = (
            Piece(number, 0, tensor.elements)
            for number, tensor in enumerate(self._plan.tensors)
            if tensor.action == "copy" and len(tensor.inputs) > 1 and tensor.output.nbytes <= SMALL
        )
        tasks = (Task(work.check_copy, (self._span(piece),), lambda _: None) for piece in small)
        self._run(lambda: next(tasks, None))

    def _checked(self, sink: Sink) -> set[Piece]:
        """The pieces of an earlier run that the output still holds."""
        kept: set[Piece] = set()

        pieces = self._kept_pieces()
        checked, total = 0, sum(self._span(piece).written for piece in pieces)

        def take(piece: Piece, same: bool) -> None:
            nonlocal checked
            checked += self._span(piece).written
            self._context.tell(Progress("check", checked, total))
            if same:
                kept.add(piece)
                self._journal.found_piece(piece)

        tasks = (
            Task(work.holds, (self._span(piece), self._journal.pieces[piece].checksum, sink), partial(take, piece))
            for piece in pieces
        )
        self._run(lambda: next(tasks, None))
        return kept

    def _applying(self, job: Job, sink: Tiles, kept: set[Piece]) -> Iterator[Task[Any]]:
        told = self._told("apply", self._plan.applied_bytes, sum(self._span(piece).nbytes for piece in kept))

        def take(pieces: Sequence[Piece], found: Sequence[Written | None]) -> None:
            for piece, written in zip(pieces, found, strict=True):
                if written:
                    self._journal.note_piece(piece, written)
                    told(self._plan.read_of(piece), True)

        for group in self._ordered(sink):
            if pieces := [piece for piece in group if piece not in kept]:
                shares = self._shares(self._span(pieces[0])) if len(pieces) == 1 else 1
                portions = tuple(job.portion(piece, self._pool.given_up, shared=shares > 1) for piece in pieces)
                arguments = (portions, job.method, job.decisions.model, sink)
                for _ in range(shares):
                    yield Task(work.write_portions, arguments, partial(take, pieces))

    def _ordered(self, sink: Tiles) -> Iterator[Sequence[Piece]]:
        """All pieces as they are applied, in groups that are one task."""
        if not isinstance(sink, Sink):
            return _in_the_order_of_shards(self._plan)
        return _apart(self._plan) if self._pool.apart else _last_measured_first(self._plan)

    def _run(self, next_task: Callable[[], Task[Any] | None]) -> None:
        """Run every task, with the journal's between them when it is its turn."""
        self._pool.run(lambda: self._journal.commit() or next_task())

    def _span(self, piece: Piece) -> Span:
        return span_of(self._plan, piece, self._pool.given_up)

    def _shares(self, span: Span) -> int:
        """How many workers take tiles of a piece; one of another process would not know what is dealt."""
        threads, tiles = self._plan.threads, -(-(span.stop - span.start) // span.tile)
        return 1 if self._pool.apart else min(threads, -(-tiles // shared_tiles(threads)))

    def _told(self, stage: Stage, total: int, kept: int = 0) -> Callable[[int, bool], None]:
        """A receiver of bytes that are done in a stage, and whether they were read; an earlier run has spared some."""
        done = kept
        if kept:
            self._context.tell(Progress(stage, done, total))

        def told(size: int, read: bool) -> None:
            nonlocal done
            done += size
            self._read += size if read else 0
            self._context.tell(Progress(stage, done, total))

        return told


def _passed(nonfinite: Mapping[str, int]) -> Iterator[str]:
    if nonfinite:
        elements = counted(sum(nonfinite.values()), "element")
        yield f"NaN or infinite, as `nonfinite: pass` allows: {elements} of {some(list(nonfinite))}"


def decide_model(plan: Plan, method: AnyMethod, decisions: Sequence[object]) -> object:
    """What all layers together decide; None where nothing is merged."""
    params = (plan.tensors[layer.tensors[0]].params for layer in plan.layers)
    return method.decide_model(list(zip(params, decisions, strict=True))) if plan.layers else None


def _in_the_order_of_shards(plan: Plan) -> Iterator[list[Piece]]:
    """All pieces as they lie in the output, small neighbours together."""
    numbers = {tensor.name: number for number, tensor in enumerate(plan.tensors)}
    places = (place for shard in plan.shards for place in shard.tensors)
    pieces = (piece for place in places for piece in plan.pieces_of(numbers[place.name]))
    bundles = Bundles(lambda: next(pieces, None), plan.read_of)
    while bundle := bundles.next():
        yield bundle


def _apart(plan: Plan) -> Iterator[list[Piece]]:
    """All pieces for workers that are processes, in tasks that share no block of a file."""
    most = read_apart(plan.applied_bytes, plan.threads)
    groups = plan.groups_apart()
    bundles = Bundles(lambda: next(groups, None), lambda group: sum(map(plan.read_of, group)), most, most)
    while bundle := bundles.next():
        yield [piece for group in bundle for piece in group]


def _last_measured_first(plan: Plan) -> Iterator[list[Piece]]:
    """All pieces, small neighbours together, in runs of which the last is the first, since it may still be cached.

    Within a run they come in order, as the kernel's read-ahead wants it.
    """
    pieces = (piece for number in range(len(plan.tensors)) for piece in plan.pieces_of(number))
    bundles = Bundles(lambda: next(pieces, None), plan.read_of)
    runs: list[list[list[Piece]]] = [[]]
    size = 0
    while bundle := bundles.next():
        if size >= RUN:
            runs.append([])
            size = 0
        runs[-1].append(bundle)
        size += sum(map(plan.read_of, bundle))
    for run in reversed(runs):
        yield from run
