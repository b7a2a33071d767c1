"""What a run has decided and written, kept so that the same run goes on where it was killed."""

import time
from collections.abc import Callable, Iterable, Iterator

import xxhash

from sdmw import codec
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import InputChangedError, Problem
from sdmw.methods.method import AnyMethod, decision_type
from sdmw.planning.plan import Piece, Plan, TensorPlan
from sdmw.version import __version__
from sdmw.writing.publication import Publication

COMMIT_EVERY = 5.0  # seconds between commits: the most work that is lost


def head(plan: Plan) -> dict[str, object]:
    """What must be the same for a run to be resumed: version, recipe, plan, and the fingerprint of each input.

    Threads, budget and tile may differ: the bits do not depend on them.
    """
    layout = (shard.header for shard in plan.shards)
    steps = (part for t in plan.tensors for part in _step(t))
    layers = (codec.digest((layer.name, layer.tensors)) for layer in plan.layers)
    return {
        "version": __version__,
        "recipe": _hash([plan.recipe.text.encode()]),
        "plan": _hash([*layout, *steps, *layers]),
        "inputs": {
            shard.path: [shard.size, shard.mtime_ns, shard.ctime_ns, shard.inode, shard.header_hash]
            for checkpoint in plan.checkpoints
            for shard in checkpoint.shards
        },
    }


def _step(tensor: TensorPlan) -> Iterator[bytes]:
    yield codec.digest((tensor.name, tensor.action, tensor.params))
    for each in tensor.inputs:
        yield each.fingerprint()


class RunJournal:
    """Notes what the driver is told, and vouches for it every few seconds, once the data are durable.

    Attributes:
        layers: decisions of an earlier run, by the layer's number.
        pieces: checksums of what an earlier run wrote, as it said.
        written: checksums of all that the output holds.
    """

    def __init__(self, output: Publication | None, plan: Plan, method: AnyMethod) -> None:
        """Without an output nothing is vouched for."""
        self._output, self._plan = output, plan
        self.layers, self.pieces = _read(output.records if output else (), decision_type(method))
        self.written: dict[Piece, str] = {}
        self._fresh: list[object] = []
        self._committed = time.monotonic()
        self._committing = False

    def note_layer(self, number: int, decision: object) -> None:
        """A layer was decided."""
        self._fresh.append({"layer": number, "decision": codec.encode(decision)})

    def note_piece(self, piece: Piece, checksum: str) -> None:
        """A piece was handed to the output; `checksum` is the XXH3-128 of its bytes, in hex."""
        self.written[piece] = checksum
        self._fresh.append({"piece": [piece.tensor, piece.start, piece.stop], "xxh3": checksum})

    def found_piece(self, piece: Piece) -> None:
        """The output still holds a piece of an earlier run."""
        self.written[piece] = self.pieces[piece]

    def due(self) -> Callable[[], None] | None:
        """The commit to be run by a worker, if it is time for one; `committed` is to be called when it is done."""
        output = self._output
        if not (output and self._fresh) or self._committing or time.monotonic() - self._committed < COMMIT_EVERY:
            return None
        records, self._fresh = self._fresh, []
        self._committing = True
        return lambda: self._commit(output, records)

    def committed(self) -> None:
        """A commit is done."""
        self._committing, self._committed = False, time.monotonic()

    def keep(self) -> None:
        """Note what is not committed yet, once the kernel has it; a run that ends early cannot wait for the disk.

        Nothing is trusted without its checksum, so a piece that a power cut took after all is written again.

        Raises:
            OutputError: something could not be written.
        """
        records, self._fresh = self._fresh, []
        if self._output and not changes(self._plan.checkpoints):
            self._output.settle()
            self._output.vouch(records)

    def _commit(self, output: Publication, records: list[object]) -> None:
        # Data of an input that changed meanwhile, or whose pages were lost, must not be vouched for.
        check_unchanged(self._plan.checkpoints)
        output.sync()
        output.vouch(records)


def changes(checkpoints: Iterable[Checkpoint]) -> list[Problem]:
    """The input files that are not those whose headers were read."""
    return [
        Problem(shard.path, "", f"input changed while it was read: {change}", "Run again when nobody writes to it")
        for checkpoint in checkpoints
        for shard in checkpoint.shards
        if (change := shard.changed())
    ]


def check_unchanged(checkpoints: Iterable[Checkpoint]) -> None:
    """InputChangedError where an input is not the file whose header was read."""
    if problems := changes(checkpoints):
        raise InputChangedError(problems)


def _read(records: Iterable[object], decision: type[object]) -> tuple[dict[int, object], dict[Piece, str]]:
    layers: dict[int, object] = {}
    pieces: dict[Piece, str] = {}
    for record in records:
        if isinstance(record, dict) and "layer" in record:
            layers[record["layer"]] = codec.decode(decision, record["decision"])
        elif isinstance(record, dict) and "piece" in record:
            pieces[Piece(*record["piece"])] = record["xxh3"]
    return layers, pieces


def _hash(parts: Iterable[bytes]) -> str:
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
