"""What every run shares: where events go, signals, the memory of tiles, workers; and how an output is published."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from sdmw.addresses import is_remote
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import Problem, UsageError, quoted
from sdmw.kernels import ready
from sdmw.planning.limits import Apart
from sdmw.running.collector import collect_from_here
from sdmw.running.elsewhere import Setting
from sdmw.running.events import Compiling, Published, Receiver
from sdmw.running.journal import check_unchanged
from sdmw.running.pool import ExecutorLike, Pool
from sdmw.running.stop import StopSignals
from sdmw.tensors.read_ahead import HELD
from sdmw.tensors.tile_memory import tile_memory
from sdmw.writing.kept_run import Identity
from sdmw.writing.layout import ShardLayout
from sdmw.writing.output import Output
from sdmw.writing.publication import Publication
from sdmw.writing.upload import Upload


@dataclass(frozen=True, slots=True)
class Context:
    """What a run works with.

    Attributes:
        tell: hears of what happens.
        signals: that end it.
        pool: its workers.
    """

    tell: Receiver
    signals: StopSignals
    pool: Pool


def load_kernels(tell: Receiver, groups: Collection[str] = ()) -> bool:
    """Load the kernels of a run before it: compiling one in the middle of it would take time, and memory.

    Args:
        tell: hears of what happens.
        groups: of kernels, beside those that every run needs.

    Returns:
        False where this process has to compile them itself, which takes more memory.

    Raises:
        StoppedError: a signal came while they were loaded.
    """
    signals = StopSignals()
    loaded = ready.prepare(lambda once: tell(Compiling(once)), signals, groups)
    signals.check()
    return loaded


@contextmanager
def working(
    tell: Receiver,
    workers: int,
    executor: ExecutorLike = None,
    kernels: Collection[str] = (),
    inputs: Iterable[Checkpoint] = (),
) -> Iterator[Context]:
    """A context in which signals are noted, lost pages do not end the process, and nothing stays mapped behind.

    Args:
        tell: hears of what happens.
        workers: number of threads, or of the executor's workers to be kept busy.
        executor: None for threads; an executor that the caller owns; or a function that makes one.
        kernels: groups that the run needs beside those that every run does.
        inputs: what is read; workers in other processes make sure that they see the same files.

    Raises:
        UsageError: the function makes no executor.
    """
    apart = getattr(executor, "apart", None)
    together = apart.most_threads if isinstance(apart, Apart) else 1  # threads of one process, elsewhere
    if executor is not None and not isinstance(executor, Executor):
        executor = partial(_made, executor)
    load_kernels(tell, kernels)  # before signals are noted: while they are compiled, one ends the process at once
    collect_from_here()
    shards = {shard.path: shard for checkpoint in inputs for shard in checkpoint.shards}
    ahead = HELD * len({os.path.dirname(path) for path in shards if is_remote(path)})
    setting = Setting(tuple(kernels), tuple(shards.values()), together * ahead)
    with StopSignals() as signals, tile_memory(workers * ahead), Pool(executor, workers, signals, setting) as pool:
        yield Context(tell, signals, pool)


def _made(make: Callable[[], Executor]) -> Executor:
    """What a function of the caller's makes."""
    found: object = make()
    if not isinstance(found, Executor):
        raise UsageError([Problem("executor", "a function that makes an Executor", f"one that makes {quoted(found)}")])
    return found


@contextmanager
def publishing(
    context: Context,
    target: str,
    shards: Sequence[ShardLayout],
    inputs: Iterable[Checkpoint],
    *,
    overwrite: bool,
    identity: Identity | None = None,
    resume: bool = False,
    threads: int = 1,
) -> Iterator[Publication]:
    """An output that appears when the block ends, if its inputs are still those whose headers were read.

    Args:
        context: of the run.
        target: the directory to appear, as checked by `check_target`.
        shards: as laid out; the block writes them and finishes the output.
        inputs: that the output is made from.
        overwrite: a directory there may be replaced.
        identity: of the run; an earlier one is resumed only if it has the same.
        resume: False removes what an earlier run left.
        threads: of this process that compute what is written.

    Raises:
        ResumeError, OutputError: as `Publication` does.
        InputChangedError: an input changed.
        StoppedError: a signal came.
    """
    with Publication.begin(
        target, shards, overwrite=overwrite, identity=identity, resume=resume, threads=threads
    ) as publication:
        yield publication
        _publish(context, publication, target, inputs)


@contextmanager
def uploading(
    context: Context,
    target: str,
    shards: Sequence[ShardLayout],
    inputs: Iterable[Checkpoint],
    *,
    overwrite: bool,
    threads: int,
) -> Iterator[Upload]:
    """As `publishing`, for a target that is the address of a folder in a store; nothing is resumed there.

    Raises:
        OutputError: as `Upload` does.
        InputChangedError: an input changed.
        StoppedError: a signal came.
    """
    check = context.pool.given_up.check
    with Upload(target, shards, overwrite=overwrite, threads=threads, check=check) as upload:
        yield upload
        _publish(context, upload, target, inputs)


def _publish(context: Context, output: Output, target: str, inputs: Iterable[Checkpoint]) -> None:
    check_unchanged(inputs)
    context.signals.check()
    output.publish()
    context.tell(Published(target))
