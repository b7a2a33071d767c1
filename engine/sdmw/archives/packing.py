"""Packs what a fine-tune changed: tiles are compared by workers, the archive is written in order by the driver.

Workers are threads of this process. To another process a tile would travel as several times the bytes that are read of
it, which costs more than comparing it. A run that was interrupted starts over: an archive is a few streams over all
tensors, of which a part is of no use without all that lies before it.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import xxhash

from sdmw.archives import planning, shards
from sdmw.archives.archive import SIDES, Archive, ArchivedTensor, Files, Names, Side
from sdmw.archives.arrays import ArchiveWriter, shuffle_of
from sdmw.archives.group import Chunk
from sdmw.archives.planning import PackingPlan, tiles_of
from sdmw.archives.runs import Run, Words, drop_small, run_of, words_of
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import quoted
from sdmw.methods.shares import Shares
from sdmw.running import driver
from sdmw.running.context import Context
from sdmw.running.events import Progress
from sdmw.running.in_order import InOrder
from sdmw.running.pool import AHEAD, Task
from sdmw.running.span import read_tiles
from sdmw.running.stop import GivenUp
from sdmw.tensors.staging import staging
from sdmw.tensors.tensor import Tensor
from sdmw.writing import side_files
from sdmw.writing.publication import Publication


def pack(plan: PackingPlan, output: Publication, context: Context) -> Archive:
    """Write the archive into an output without shards.

    Args:
        plan: without problems.
        output: that is not published yet.
        context: of the run.

    Raises:
        RunError: the data or the machine.
    """
    patterns = _patterns(plan, context)
    models: Mapping[Side, Checkpoint] = {"base": plan.base, "model": plan.model}
    beside = {
        side: side_files.all_but_weights(model.path, follow_links=model.follow_links) for side, model in models.items()
    }
    files, shared = _compared({side: checksums(models[side], beside[side][0]) for side in SIDES})
    left_out: Files = {side: dict(beside[side][1]) for side in SIDES}
    for side in SIDES:
        output.warnings += [f"{models[side].path}: {quoted(n)} is not in the archive: {r}" for n, r in beside[side][1]]
    with ArchiveWriter(output.path) as writer:
        packing = _Packing(plan, patterns, writer, context)
        archive = Archive(output.path, plan.k, packing.carry_out(), files, shared, left_out)
        for side in SIDES:
            follow_links = models[side].follow_links
            side_files.copy(models[side].path, list(files[side]), archive.files_of(side), follow_links=follow_links)
        writer.close(archive)
    return archive


def checksums(model: Checkpoint, names: Sequence[str]) -> dict[str, str]:
    """XXH3-128 of files beside a model's weights, in hex, by name."""
    return {name: side_files.fingerprint(model.path, name, follow_links=model.follow_links) for name in names}


@dataclass(frozen=True, slots=True)
class Compared:
    """What a worker found of a tile: both sides as words, for their checksums, and what is kept of it."""

    base: Words
    model: Words
    run: Run


def compare(base: Tensor, model: Tensor, start: int, stop: int, pattern: int | None, given_up: GivenUp) -> Compared:
    """Compare a tile of two tensors.

    Args:
        base: the tensor of one side.
        model: that of the other.
        start: first element, of a block.
        stop: the one behind the last.
        pattern: float32 pattern that a delta's magnitude must reach to be kept; None keeps all.
        given_up: when it is set, the tile is left.
    """
    elements, itemsize = stop - start, base.dtype.itemsize
    memory = staging.array(0, elements * (3 * itemsize + 2))
    before, after, xor = memory[: 3 * elements * itemsize].view(f"<u{itemsize}").reshape(3, elements)
    for first, (below, above) in read_tiles((base, model), start, stop, planning.TILE, given_up.check):
        part = slice(first - start, first - start + below.size)
        before[part], after[part] = words_of(below), words_of(above)
    np.bitwise_xor(before, after, out=xor)
    if pattern is not None:
        drop_small(xor, before, after, base.dtype, pattern)
        np.bitwise_xor(before, xor, out=after)
    return Compared(before, after, run_of(xor, memory[3 * elements * itemsize :].view("<u2")))


@dataclass(slots=True)
class _Tally:
    """What is known of a tensor, once its tiles came in order."""

    kept: int = 0
    base: "xxhash.xxh3_128" = field(default_factory=xxhash.xxh3_128)
    model: "xxhash.xxh3_128" = field(default_factory=xxhash.xxh3_128)


class _Packing:
    """The tiles of all tensors in order, compared and compressed by the pool."""

    def __init__(self, plan: PackingPlan, patterns: Mapping[str, int], writer: ArchiveWriter, context: Context) -> None:
        self._plan, self._patterns, self._writer, self._context = plan, patterns, writer, context
        self._tallies = {name: _Tally() for name in plan.base.tensors}
        self._total, self._done = 2 * sum(info.nbytes for info in plan.base.tensors.values()), 0
        self._chunks: deque[Chunk] = deque()
        most, tiles = AHEAD * plan.threads, self._tiles()
        self._comparing = InOrder(lambda: next(tiles, None), most)
        self._compressing = InOrder(self._compression, most)

    def carry_out(self) -> tuple[ArchivedTensor, ...]:
        """Write all arrays; what the archive says of the tensors."""
        run = self._context.pool.run
        run(self._next_task)
        self._chunks.extend(self._writer.rest())
        run(self._compressing.next_task)
        return tuple(
            ArchivedTensor(name, info.dtype, info.shape, tally.kept, tally.base.hexdigest(), tally.model.hexdigest())
            for (name, info), tally in zip(self._plan.base.tensors.items(), self._tallies.values(), strict=True)
        )

    def _next_task(self) -> Task[Any] | None:
        """Chunks that wait go first, so that they never become many."""
        return (self._compressing if self._chunks else self._comparing).next_task()

    def _tiles(self) -> Iterator[Task[Compared]]:
        given_up = self._context.pool.given_up
        for name, base in self._plan.base.tensors.items():
            for start, stop in tiles_of(base):
                arguments = (base, self._plan.model.tensors[name], start, stop, self._patterns.get(name), given_up)
                yield Task(compare, arguments, partial(self._take, self._tallies[name]))

    def _take(self, tally: _Tally, found: Compared) -> None:
        tally.base.update(found.base.data)
        tally.model.update(found.model.data)
        tally.kept += found.run.gaps.size
        self._chunks.extend(self._writer.add(found.run))
        self._done += 2 * found.base.nbytes
        self._context.tell(Progress("pack", self._done, self._total))

    def _compression(self) -> Task[bytes] | None:
        if not self._chunks:
            return None
        name, chunk = self._chunks.popleft()
        return Task(shards.compressed, (chunk, shuffle_of(name)), partial(self._writer.store, name))


def _patterns(plan: PackingPlan, context: Context) -> dict[str, int]:
    """The float32 pattern that a magnitude must reach in each tensor, as SDM-W decides it; of none where k is 0."""
    thresholds = plan.thresholds
    if thresholds is None:
        return {}
    layers = cast("tuple[Shares, ...]", driver.Run(thresholds, context).decide().layers)
    return {
        thresholds.tensors[number].name: shares[0].pattern
        for layer, shares in zip(thresholds.layers, layers, strict=True)
        for number in layer.tensors
    }


def _compared(found: Files) -> tuple[Files, Names]:
    """The files beside the weights that are not the same in both, by side; and those that are; with checksums."""
    base, model = found["base"], found["model"]
    shared = dict(base.items() & model.items())
    files: Files = {side: {n: c for n, c in found[side].items() if n not in shared} for side in SIDES}
    return files, dict(sorted(shared.items()))
