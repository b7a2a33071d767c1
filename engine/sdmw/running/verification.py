"""Holds a merge against its report: every byte by checksum, sampled tiles computed again from the inputs."""

import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import xxhash

from sdmw import codec
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import CheckpointError, InputChangedError, Problem, quoted, shorten
from sdmw.planning.plan import Plan
from sdmw.running.context import Context
from sdmw.running.events import Progress
from sdmw.running.job import Job
from sdmw.running.merged import Merged, merged
from sdmw.running.pool import Task
from sdmw.running.stop import GivenUp
from sdmw.running.work import read_tiles, tile_borders
from sdmw.sizes import counted, shown
from sdmw.storage.files import open_file
from sdmw.storage.shard import sample_of
from sdmw.tensors.dtype import DType
from sdmw.tensors.tensor import Tensor

READ = 1 << 22  # bytes read at once for a checksum

Piece = tuple[str, int, int, str]  # tensor, first element, the one behind the last, XXH3-128 in hex
Input = tuple[int, str, str]  # bytes, hash of the header, hash of a sample, which is empty where there is none


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at, and what is wrong.

    Attributes:
        path: the checkpoint.
        pieces: runs of tensors whose checksums were compared: all of them.
        nbytes: bytes of tensors in those.
        files: files beside the shards whose checksums were compared.
        tiles: in the whole checkpoint.
        recomputed: tiles that were computed again from the inputs and compared bit for bit.
        unseen: the chance that one wrong tile, whose checksum is right, is not among the recomputed.
        problems: empty where all is equal.
    """

    path: str
    pieces: int
    nbytes: int
    files: int
    tiles: int
    recomputed: int
    unseen: float
    problems: tuple[Problem, ...]

    def __repr__(self) -> str:
        found = counted(len(self.problems), "problem") + (f": {self.problems[0]}" if self.problems else "")
        seen = f"{self.recomputed:,} of {counted(self.tiles, 'tile')} computed again"
        return f"Verification({self.path!r}, {shown(self.nbytes)} by checksum, {seen}, {found})"

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return cast("dict[str, Any]", codec.encode(self))


def verify(
    out: Checkpoint,
    job: Job,
    pieces: Sequence[Piece],
    files: Mapping[str, str],
    context: Context,
    sample: float,
    known: Iterable[Problem] = (),
) -> Verification:
    """Compare structure, checksums and a sample.

    Args:
        out: the merged checkpoint.
        job: the plan of the same recipe, made now, and the decisions that its report holds.
        pieces: that the report vouches for.
        files: the checksum of each file beside the shards, by name.
        context: of this run.
        sample: the share of tiles that is computed again, above 0 to 1; at least one is.
        known: what is wrong already; tensors are read only where nothing is.

    Raises:
        RunError: the data or the machine.
    """
    plan = job.plan
    problems = [*known, *_wrong_structure(out, plan), *_wrong_files(out, files)]
    tiles = list(_tiles(plan))
    wanted = random.SystemRandom().sample(tiles, min(len(tiles), math.ceil(sample * len(tiles))))
    nbytes = 0
    if not (problems := problems or list(_uncovered(pieces, out))):
        nbytes = sum((stop - start) * out.tensors[name].dtype.itemsize for name, start, stop, _ in pieces)
        tasks = _tasks(out, job, pieces, wanted, context, nbytes, problems.append)
        context.pool.run(lambda: next(tasks, None))
    unseen = 1 - len(wanted) / max(1, len(tiles))
    return Verification(
        out.path, len(pieces), nbytes, len(files), len(tiles), len(wanted), unseen, tuple(shorten(problems))
    )


def check_inputs(plan: Plan, expected: Iterable[Input]) -> None:
    """By size, header and sample: an input that was copied is the same one.

    Raises:
        InputChangedError: an input is not the one that was merged.
    """
    wanted = sorted(expected)
    sampled = any(sample for _, _, sample in wanted)
    found = [
        (shard.path, (shard.size, shard.header_hash, sample_of(shard.path) if sampled else ""))
        for _, checkpoint in plan.sources
        for shard in checkpoint.shards
    ]
    # Reports without samples list twice what two models share.
    if sorted(one for _, one in found) == wanted or (not sampled and {one for _, one in found} == set(wanted)):
        return
    mend = "Put the inputs back"
    raise InputChangedError(
        [
            Problem(path, "the file that was merged", "another size or content", mend)
            for path, one in found
            if one not in wanted
        ]
        or [Problem("inputs", f"{len(wanted)} files, as the report says", f"{len(found)} in the recipe", mend)]
    )


def _tasks(
    out: Checkpoint,
    job: Job,
    pieces: Sequence[Piece],
    wanted: Sequence[tuple[int, int, int]],
    context: Context,
    nbytes: int,
    found: Callable[[Problem], None],
) -> Iterator[Task[Problem | None]]:
    done = 0

    def take(size: int, problem: Problem | None) -> None:
        nonlocal done
        done += size
        context.tell(Progress("verify", done, nbytes))
        if problem:
            found(problem)

    given_up = context.pool.given_up
    for name, start, stop, checksum in pieces:
        tensor = out.tensors[name]
        size = (stop - start) * tensor.dtype.itemsize
        yield Task(compare_checksum, (tensor, start, stop, checksum, given_up), partial(take, size))
    for number, start, stop in wanted:
        tensor = merged(job, number)
        yield Task(compare_tile, (out.tensors[tensor.name], tensor, start, stop, given_up), partial(take, 0))


def compare_checksum(tensor: Tensor, start: int, stop: int, checksum: str, given_up: GivenUp) -> Problem | None:
    """What is wrong with elements start to stop, whose bytes should have an XXH3-128."""
    found = xxhash.xxh3_128()
    for _, (elements,) in read_tiles((tensor,), start, stop, READ // tensor.dtype.itemsize, given_up.check):
        found.update(np.ascontiguousarray(elements).data)
    if found.hexdigest() == checksum:
        return None
    where = f"{tensor.where}, elements {start} to {stop}"
    return Problem(where, f"checksum {checksum}", found.hexdigest(), "The file was changed, or the disk lies")


def compare_tile(tensor: Tensor, again: Merged, start: int, stop: int, given_up: GivenUp) -> Problem | None:
    """The first element of a tile that the merge does not give."""
    for first, (found, computed) in read_tiles((tensor, again), start, stop, stop - start, given_up.check):
        size = tensor.dtype.itemsize
        unequal = (found.view(np.uint8) != computed.view(np.uint8)).reshape(-1, size).any(axis=1)
        if unequal.any():
            place = int(np.argmax(unequal))
            expected, here = (each[place : place + 1].tobytes()[::-1].hex() for each in (computed, found))
            return Problem(f"{tensor.where}, element {first + place}", f"bits {expected}", here)
    return None


def _wrong_structure(out: Checkpoint, plan: Plan) -> Iterator[Problem]:
    planned = {tensor.name: (tensor.output.dtype, tensor.output.shape) for tensor in plan.tensors}
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in out.tensors.items()}
    for name in sorted(planned.keys() | found.keys()):
        if planned.get(name) != found.get(name):
            yield Problem(f"{out.path}: tensor {quoted(name)}", _said(planned.get(name)), _said(found.get(name)))


def _said(what: tuple[DType, tuple[int, ...]] | None) -> str:
    return f"{what[0].name} {list(what[1])}" if what else "none"


def _wrong_files(out: Checkpoint, files: Mapping[str, str]) -> Iterator[Problem]:
    for name, checksum in files.items():
        try:
            found = _checksum(out, name)
        except CheckpointError as error:
            yield from error.problems
            continue
        if found != checksum:
            where = os.path.join(out.path, name)
            yield Problem(where, f"checksum {checksum}", found, "The file was changed after the merge")


def _checksum(out: Checkpoint, name: str) -> str:
    """Of a file in a folder; a report may name anything, so nothing else is opened, and no large file held."""
    descriptor, _ = open_file(out.path, name, follow_links=out.follow_links)
    found = xxhash.xxh3_128()
    try:
        while part := os.read(descriptor, READ):
            found.update(part)
    except OSError as error:
        where = os.path.join(out.path, name)
        raise CheckpointError([Problem(where, "a file of the merge", f"cannot be read: {error.strerror}")]) from None
    finally:
        os.close(descriptor)
    return found.hexdigest()


def _uncovered(pieces: Sequence[Piece], out: Checkpoint) -> Iterator[Problem]:
    """The report must vouch for every element once, and for nothing else."""
    covered = dict.fromkeys(out.tensors, 0)
    for name, start, stop, _ in sorted(pieces):
        where = f"{out.path}: tensor {quoted(name)}"
        if name not in covered:
            yield Problem(where, "a tensor of the checkpoint", "none, but in the report")
        elif start != covered[name] or not start < stop <= out.tensors[name].elements:
            expected = f"a checksum of elements {covered[name]} on, to {out.tensors[name].elements} at most"
            yield Problem(where, expected, f"one of {start} to {stop} in the report")
        else:
            covered[name] = stop
    for name, stop in covered.items():
        if stop != out.tensors[name].elements:
            yield Problem(f"{out.path}: tensor {quoted(name)}", "checksums of all of it in the report", "a gap")


def _tiles(plan: Plan) -> Iterator[tuple[int, int, int]]:
    for number, tensor in enumerate(plan.tensors):
        for start, stop in tile_borders(0, tensor.elements, tensor.tile(plan.tile)):
            yield number, start, stop
