"""Puts an archive on a model, or takes it off again: the driver reads the archive, workers change tiles.

Workers are threads of this process: to another process what the archive keeps of a tile would travel to it, and the
tile back for its checksum, which costs more than changing it. A run that was interrupted starts over: the archive's
arrays are streams, so it would have to be unpacked up to the place anyway.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import xxhash

from sdmw.archives import planning
from sdmw.archives.archive import MEND, Archive, ArchivedTensor, Names, Side, believed, other_side
from sdmw.archives.arrays import ArchiveReader
from sdmw.archives.planning import RestoringPlan, tiles_of
from sdmw.archives.runs import Run, Words, flip, words_of
from sdmw.errors import ArchiveError, OtherModelError, Problem, quoted
from sdmw.running.context import Context
from sdmw.running.events import Progress
from sdmw.running.in_order import InOrder
from sdmw.running.pool import AHEAD, Task
from sdmw.running.span import read_tiles
from sdmw.running.stop import GivenUp
from sdmw.tensors.staging import staging
from sdmw.tensors.tensor import Tensor
from sdmw.writing import side_files
from sdmw.writing.layout import Place
from sdmw.writing.publication import Publication


def restore(plan: RestoringPlan, output: Publication, context: Context) -> None:
    """Write the other side's model, and the files beside its weights.

    Args:
        plan: without problems.
        output: with a place for each tensor; not published yet.
        context: of the run.

    Raises:
        OtherModelError: it is not the model that the archive was made from.
        ArchiveError: the archive is damaged.
        RunError: the data or the machine.
    """
    _Restoring(plan, output, context).carry_out()
    model, archive, other = plan.checkpoint, plan.archive, other_side(plan.side)
    here, unfit = side_files.all_but_weights(model.path, follow_links=model.follow_links)
    shared = [name for name in here if name in archive.shared]
    side_files.copy(model.path, shared, output.path, follow_links=model.follow_links)
    side_files.copy(archive.files_of(other), list(archive.files[other]), output.path)
    output.warnings += _other_files(plan, here, dict(unfit))


def _other_files(plan: RestoringPlan, here: Sequence[str], unfit: Names) -> Iterator[str]:
    """What the output's files beside the weights are not, one sentence each."""
    folder, archive, other = plan.checkpoint.path, plan.archive, other_side(plan.side)
    for name, checksum in archive.shared.items():
        if name not in here:
            why = unfit.get(name, "no such file")
            yield f"{folder}: {quoted(name)} belongs to both models and is not copied: {why}"
        elif side_files.fingerprint(folder, name, follow_links=plan.checkpoint.follow_links) != checksum:
            yield f"{folder}: {quoted(name)} has changed since the archive was packed; it is copied"
    for name in here:
        if name not in archive.shared and name not in archive.files[plan.side]:
            yield f"{folder}: {quoted(name)} was not there when the archive was packed; it is not copied"
    for name, reason in archive.left_out[other].items():
        yield f"{archive.path}: {quoted(name)} of the {other} is neither in the archive nor in the output: {reason}"


@dataclass(frozen=True, slots=True)
class Changed:
    """A tile as it was, and as it is on the other side, in memory laid out for the output's file."""

    before: Words
    after: Words


def change(tensor: Tensor, start: int, stop: int, run: Run, offset: int, archive: str, given_up: GivenUp) -> Changed:
    """Take a tile to the other side.

    Args:
        tensor: of the model.
        start: first element, of a block.
        stop: the one behind the last.
        run: what the archive keeps of the tile.
        offset: bytes from the beginning of the file to the tile.
        archive: its path.
        given_up: when it is set, the tile is left.

    Raises:
        ArchiveError: the archive is damaged.
    """
    itemsize = tensor.dtype.itemsize
    before, after = (staging.array(offset, (stop - start) * itemsize).view(f"<u{itemsize}") for _ in range(2))
    for first, (elements,) in read_tiles((tensor,), start, stop, planning.TILE, given_up.check):
        before[first - start : first - start + elements.size] = words_of(elements)
    after[:] = before
    with believed(f"{archive}/gaps: tensor {quoted(tensor.name)}"):
        flip(after, run)
    return Changed(before, after)


@dataclass(slots=True)
class _Tally:
    """What is known of a tensor, as its tiles come in order.

    Attributes:
        info: the tensor of the model.
        archived: what the archive says of it.
        place: where it goes.
        before, after: of the bytes so far.
    """

    info: Tensor
    archived: ArchivedTensor
    place: Place
    before: "xxhash.xxh3_128" = field(default_factory=xxhash.xxh3_128)
    after: "xxhash.xxh3_128" = field(default_factory=xxhash.xxh3_128)


class _Restoring:
    """The tiles of all tensors in order, changed by the pool."""

    def __init__(self, plan: RestoringPlan, output: Publication, context: Context) -> None:
        self._plan, self._output, self._context = plan, output, context
        self._reader = ArchiveReader(plan.archive)
        self._total, self._done = sum(info.nbytes for info in plan.checkpoint.tensors.values()), 0

    def carry_out(self) -> None:
        """Write all tensors."""
        tiles = self._tiles()
        self._context.pool.run(InOrder(lambda: next(tiles, None), AHEAD * self._plan.threads).next_task)

    def _tiles(self) -> Iterator[Task[Changed]]:
        places = {place.name: place for shard in self._plan.shards for place in shard.tensors}
        for archived in self._plan.archive.tensors:
            tally = _Tally(self._plan.checkpoint.tensors[archived.name], archived, places[archived.name])
            if not archived.elements:
                self._check_sides(tally)
            for start, stop in tiles_of(tally.info):
                run = self._reader.take(archived, stop - start)
                offset = tally.place.offset + start * archived.dtype.itemsize
                arguments = (tally.info, start, stop, run, offset, self._plan.archive.path, self._context.pool.given_up)
                yield Task(change, arguments, partial(self._take, tally, offset, stop))
                del run, arguments  # they are held no longer than the task

    def _take(self, tally: _Tally, offset: int, stop: int, found: Changed) -> None:
        tally.before.update(found.before.data)
        tally.after.update(found.after.data)
        self._output.sink.write(tally.place.shard, offset, found.after)
        self._done += found.before.nbytes
        if stop == tally.archived.elements:
            self._check_sides(tally)
        self._context.tell(Progress("apply", self._done, self._total))

    def _check_sides(self, tally: _Tally) -> None:
        """Raise where what was read is not the one side, or what was made is not the other."""
        archive, side, other = self._plan.archive, self._plan.side, other_side(self._plan.side)
        expected: Mapping[Side, str] = {"base": tally.archived.base, "model": tally.archived.model}
        read, made = tally.before.hexdigest(), tally.after.hexdigest()
        if read != expected[side]:
            said = f"{read}: this is not the model that the archive belongs to"
            mend = _other_model(archive, side, reversed_=read == expected[other])
            raise OtherModelError([Problem(tally.info.where, f"the bytes with XXH3-128 {expected[side]}", said, mend)])
        if made != expected[other]:
            where = f"{archive.path}: tensor {quoted(tally.archived.name)}"
            said = f"{made}: the archive is damaged"
            raise ArchiveError([Problem(where, f"a result with XXH3-128 {expected[other]}", said, MEND)])


def _other_model(archive: Archive, side: Side, *, reversed_: bool) -> str:
    """What to do where the model is not the one side of the archive."""
    if reversed_:
        return f"This is its {other_side(side)}: use `sdmw {'revert' if side == 'base' else 'apply'}`"
    if side == "model" and archive.k:
        return f"The archive was packed with k = {archive.k:g}: give what `sdmw apply` made, not the fine-tune"
    return f"Give the {side} that {archive.path} was packed with"
