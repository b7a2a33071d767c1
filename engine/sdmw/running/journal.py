"""What a run has decided and written, kept so that the same run goes on where it was killed."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from sdmw import codec
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import InputChangedError, OutputError, Problem, RunError
from sdmw.methods.method import AnyMethod, decision_type
from sdmw.planning.plan import Piece, Plan
from sdmw.running.deal import Written
from sdmw.running.pool import Task
from sdmw.writing.output import Output

COMMIT_EVERY = 5.0  # seconds between commits: the most work that is lost


class Notes:
    """What a run has done, vouched for every few seconds, once the data are durable."""

    def __init__(self, output: Output | None, inputs: Sequence[Checkpoint]) -> None:
        """Without an output nothing is vouched for."""
        self._output, self._inputs = output, inputs
        self._fresh: list[object] = []
        self._committed = time.monotonic()
        self._committing = False

    def note(self, record: object) -> None:
        """Note a JSON value; what it speaks of was handed to the output."""
        self._fresh.append(record)

    def commit(self) -> Task[None] | None:
        """The task that vouches for what was noted, if it is time for one."""
        output = self._output
        if not (output and self._fresh) or self._committing or time.monotonic() - self._committed < COMMIT_EVERY:
            return None
        records, self._fresh = self._fresh, []
        self._committing = True
        return Task(self._commit, (output, records), self._commit_done, here=True)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A block that carries the run out: where it fails and can be resumed, what was noted is kept.

        Raises:
            InputChangedError: it could not be read on, and an input is another than at the start. Of pages that are
                lost nobody knows which file's they were.
        """
        try:
            yield
        except BaseException as error:
            if type(error) is RunError and (problems := changes(self._inputs)):  # a read error, say
                raise InputChangedError(problems) from error
            if getattr(error, "resumable", True):
                with suppress(OutputError):
                    self._keep()
            raise

    def _keep(self) -> None:
        """Note what is not committed yet, once the kernel has it; a run that ends early cannot wait for the disk.

        Nothing is trusted without its checksum, so a piece that a power cut took after all is written again.
        """
        records, self._fresh = self._fresh, []
        if self._output and not changes(self._inputs):
            self._output.settle()
            self._output.vouch(records)

    def _commit(self, output: Output, records: list[object]) -> None:
        # Data of an input that changed meanwhile, or whose pages were lost, must not be vouched for.
        check_unchanged(self._inputs)
        output.sync()
        output.vouch(records)

    def _commit_done(self, _: None) -> None:
        self._committing, self._committed = False, time.monotonic()


class RunJournal(Notes):
    """What a merge has decided and written.

    Attributes:
        layers: decisions of an earlier run, by the layer's number.
        pieces: what an earlier run wrote, as it said.
        written: all that the output holds.
    """

    def __init__(self, output: Output | None, plan: Plan, method: AnyMethod) -> None:
        super().__init__(output, plan.checkpoints)
        self.layers, self.pieces = _read(output.records if output else (), decision_type(method))
        self.written: dict[Piece, Written] = {}

    def note_layer(self, number: int, decision: object) -> None:
        """A layer was decided."""
        self.note({"layer": number, "decision": codec.encode(decision)})

    def note_piece(self, piece: Piece, written: Written) -> None:
        """A piece was handed to the output."""
        self.written[piece] = written
        odd = {"nonfinite": written.nonfinite} if written.nonfinite else {}
        self.note({"piece": [piece.tensor, piece.start, piece.stop], "xxh3": written.checksum, **odd})

    def found_piece(self, piece: Piece) -> None:
        """The output still holds a piece of an earlier run."""
        self.written[piece] = self.pieces[piece]


def changes(checkpoints: Iterable[Checkpoint]) -> list[Problem]:
    """The input files that are not those whose headers were read."""
    return [
        Problem(shard.path, "", f"input changed while it was read: {change}", "Run again when nothing writes to it")
        for checkpoint in checkpoints
        for shard in checkpoint.shards
        if (change := shard.changed())
    ]


def check_unchanged(checkpoints: Iterable[Checkpoint]) -> None:
    """InputChangedError where an input is not the file whose header was read."""
    if problems := changes(checkpoints):
        raise InputChangedError(problems)


def _read(records: Iterable[object], decision: type[object]) -> tuple[dict[int, object], dict[Piece, Written]]:
    layers: dict[int, object] = {}
    pieces: dict[Piece, Written] = {}
    for record in records:
        if isinstance(record, dict) and "layer" in record:
            layers[record["layer"]] = codec.decode(decision, record["decision"])
        elif isinstance(record, dict) and "piece" in record:
            pieces[Piece(*record["piece"])] = Written(record["xxh3"], record.get("nonfinite", 0))
    return layers, pieces
