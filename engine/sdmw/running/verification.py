"""Holds a merge against its report: every byte by checksum, sampled tiles computed again from the inputs."""

import math
import os
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import xxhash

from sdmw import codec
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats._adapter_config import ADAPTER_CONFIG, hash_of_config
from sdmw.checkpoints.formats.safetensors.index import INDEX
from sdmw.errors import CheckpointError, InputChangedError, Problem, quoted, shorten
from sdmw.planning.plan import Plan
from sdmw.running.context import Context
from sdmw.running.events import Progress
from sdmw.running.job import Job
from sdmw.running.merged import Merged, merged
from sdmw.running.pool import Task
from sdmw.running.span import read_tiles, tile_borders
from sdmw.running.stop import GivenUp
from sdmw.sizes import counted, shown
from sdmw.storage.files import listing, open_file
from sdmw.storage.shard import sample_of
from sdmw.storage.weight_files import OTHER_FORM, WEIGHTS, not_beside_a_merge
from sdmw.tensors.dtype import DType
from sdmw.tensors.tensor import Tensor

READ = 1 << 22  # bytes read at once for a checksum
SHARE = 0.01  # of tiles that are computed again by default
PUT_BACK = "Put the inputs back"
SMALL = 1 << 28  # bytes of a checkpoint that is by default computed again as a whole

Piece = tuple[str, int, int, str]  # tensor, first element, the one behind the last, XXH3-128 in hex
Recomputed = tuple[Tensor, Merged, int, int]  # what is stored, what is merged again; first element, one behind the last
Input = tuple[str, int, str, str]  # the model's name in the recipe, size, hash of the header, sample


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked, and the problems.

    Attributes:
        path: the checkpoint.
        pieces: runs of tensors whose checksums were compared: all of them, or none where the problems are of the
            checkpoint's structure.
        nbytes: bytes of tensors in those.
        files: files beside the shards whose checksums were compared.
        tiles: in the whole checkpoint.
        recomputed: tiles that were computed again from the inputs and compared bit for bit; none where no piece was.
        unseen: the probability that one wrong tile with a correct checksum is not among the recomputed ones.
        not_found: inputs that were not found. Where there are any, checksums alone were compared: nothing was computed
            again, and the report was not held against the recipe.
        problems: empty if all is equal.
    """

    path: str
    pieces: int
    nbytes: int
    files: int
    tiles: int
    recomputed: int
    unseen: float
    not_found: tuple[Problem, ...]
    problems: tuple[Problem, ...]

    def __repr__(self) -> str:
        found = counted(len(self.problems), "problem") + (f": {self.problems[0]}" if self.problems else "")
        seen = f"{self.recomputed:,} of {counted(self.tiles, 'tile')} computed again"
        if self.not_found:
            seen = f"nothing computed again: {counted(len(self.not_found), 'input')} not found"
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
    sample: float | None,
    known: Iterable[Problem] = (),
) -> Verification:
    """Compare structure, checksums and a sample.

    Args:
        out: the merged checkpoint.
        job: the plan of the same recipe, made now, and the decisions that its report holds.
        pieces: that the report vouches for.
        files: the checksum of each file beside the shards, by name.
        context: of this run.
        sample: the share of tiles that is computed again, above 0 to 1; at least one is. None for the default.
        known: what is wrong already; tensors are read only where their structure is right and nothing is known.

    Raises:
        RunError: the data or the machine.
    """
    plan = job.plan
    tiles = list(_tiles(plan))
    share = sample or (1 if plan.bytes_written <= SMALL else SHARE)
    wanted = random.SystemRandom().sample(tiles, min(len(tiles), math.ceil(share * len(tiles))))
    again = (
        (out.tensors[plan.tensors[number].name], merged(job, number), start, stop) for number, start, stop in wanted
    )
    wrong = [*known, *_wrong_structure(out, plan)] or list(_uncovered(pieces, out))
    compared = 0 if wrong else len(pieces)
    recomputed = 0 if wrong else len(wanted)
    nbytes, problems = (0, wrong) if wrong else _compare(out, pieces, again, context)
    return Verification(
        out.path,
        compared,
        nbytes,
        len(files),
        len(tiles),
        recomputed,
        1 - recomputed / max(1, len(tiles)),
        (),
        tuple(shorten([*problems, *_wrong_files(out, files), *_foreign(out, files)])),
    )


def verify_checksums(
    out: Checkpoint,
    pieces: Sequence[Piece],
    headers: Mapping[str, str],
    files: Mapping[str, str],
    context: Context,
    not_found: Sequence[Problem],
) -> Verification:
    """Compare checksums alone: the inputs are elsewhere, or the recipe that names them was changed.

    Args:
        out: the merged checkpoint.
        pieces: that the report vouches for.
        headers: the checksum of each shard's header, by its name; none in reports of earlier versions.
        files: the checksum of each file beside the shards, by name.
        context: of this run.
        not_found: the inputs that were not found.

    Raises:
        RunError: the data or the machine.
    """
    wrong = list(_wrong_headers(out, headers)) or list(_uncovered(pieces, out))
    nbytes, problems = (0, wrong) if wrong else _compare(out, pieces, (), context)
    problems = shorten([*problems, *_wrong_files(out, files), *_foreign(out, files)])
    compared = 0 if wrong else len(pieces)
    return Verification(out.path, compared, nbytes, len(files), 0, 0, 1.0, tuple(not_found), tuple(problems))


def check_configs(sources: Iterable[tuple[str, Checkpoint]], expected: Mapping[str, str]) -> None:
    """Adapters by their configs, which say what their matrices are scaled by.

    Args:
        sources: by name in the recipe.
        expected: the checksum of each adapter's config, by the same name; none in reports of earlier versions.

    Raises:
        InputChangedError: a config is not the one that was merged with.
        CheckpointError: it cannot be read.
    """
    others = [
        Problem(os.path.join(each.path, ADAPTER_CONFIG), "the file that was merged with", "other content", PUT_BACK)
        for name, each in sources
        if each.adapts is not None
        and expected
        and hash_of_config(each.path, follow_links=each.follow_links) != expected.get(name)
    ]
    if others:
        raise InputChangedError(others)


def check_inputs(sources: Iterable[tuple[str, Checkpoint]], expected: Iterable[Input]) -> None:
    """By size, header and sample: an input that was copied is the same one, but not under another's name.

    Args:
        sources: by name in the recipe.
        expected: what the report says of each file. One of schema 1 names no models, and has no samples.

    Raises:
        InputChangedError: an input is not the one that was merged.
    """
    wanted = Counter(expected)
    sampled = any(sample for *_, sample in wanted)
    found = Counter[Input]()
    others = []
    for name, checkpoint in sources:
        for shard in checkpoint.shards:
            sample = sample_of(shard.path) if sampled else ""
            one = (name if sampled else "", shard.size, shard.header_hash, sample)
            found[one] += 1
            if one not in wanted or (sampled and found[one] > wanted[one]):
                others.append(shard.path)
    # Reports without samples list twice what two models share.
    if not others and (found == wanted if sampled else found.keys() == wanted.keys()):
        return
    raise InputChangedError(
        [Problem(path, "the file that was merged", "another size or content", PUT_BACK) for path in others]
        or [
            Problem("inputs", f"{wanted.total()} files, as the report says", f"{found.total()} in the recipe", PUT_BACK)
        ]
    )


def _compare(
    out: Checkpoint, pieces: Sequence[Piece], again: Iterable[Recomputed], context: Context
) -> tuple[int, list[Problem]]:
    """How many bytes were compared, and what is wrong with them."""
    problems: list[Problem] = []
    nbytes = sum((stop - start) * out.tensors[name].dtype.itemsize for name, start, stop, _ in pieces)
    tasks = _tasks(out, pieces, again, context, nbytes, problems.append)
    context.pool.run(lambda: next(tasks, None))
    return nbytes, problems


def _tasks(
    out: Checkpoint,
    pieces: Sequence[Piece],
    again: Iterable[Recomputed],
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
    for each in again:
        yield Task(compare_tile, (*each, given_up), partial(take, 0))


def compare_checksum(tensor: Tensor, start: int, stop: int, checksum: str, given_up: GivenUp) -> Problem | None:
    """What is wrong with elements start to stop, whose bytes should have an XXH3-128."""
    found = xxhash.xxh3_128()
    for _, (elements,) in read_tiles((tensor,), start, stop, READ // tensor.dtype.itemsize, given_up.check):
        found.update(np.ascontiguousarray(elements).data)
    if found.hexdigest() == checksum:
        return None
    where = f"{tensor.where}, elements {start} to {stop}"
    return Problem(
        where, f"checksum {checksum}", found.hexdigest(), "The file was changed, or the disk returned wrong data"
    )


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


def _wrong_headers(out: Checkpoint, headers: Mapping[str, str]) -> Iterator[Problem]:
    found = {os.path.basename(shard.path): shard.header_hash for shard in out.shards}
    for name in sorted(headers.keys() | found.keys()) if headers else ():
        if headers.get(name) != found.get(name):
            where = f"{os.path.join(out.path, name)}: header"
            yield Problem(where, f"checksum {headers.get(name, 'none')}", found.get(name, "none"))


def _wrong_files(out: Checkpoint, files: Mapping[str, str]) -> Iterator[Problem]:
    for name, checksum in files.items():
        try:
            found = checksum_of(out, name)
        except CheckpointError as error:
            yield from error.problems
            continue
        if found != checksum:
            where = os.path.join(out.path, name)
            yield Problem(where, f"checksum {checksum}", found, "The file was changed after the merge")


def _foreign(out: Checkpoint, files: Collection[str]) -> Iterator[Problem]:
    """Weights that loaders would read beside the merge's, or instead of them."""
    own = {*files, *(os.path.basename(shard.path) for shard in out.shards), INDEX}
    for name in sorted(listing(out.path) - own):
        why = not_beside_a_merge(name, folder=False, top=True)
        if why in (WEIGHTS, OTHER_FORM) or name == ADAPTER_CONFIG:
            where, mend = os.path.join(out.path, name), "Remove it, since loaders may read it"
            yield Problem(where, "only the weights of the merge", "weights that were added later", mend)


def checksum_of(out: Checkpoint, name: str) -> str:
    """Of a file in a folder; a report may name anything, so nothing else is opened, and no large file held.

    Raises:
        CheckpointError: it cannot be read.
    """
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
            yield Problem(where, "a tensor of the checkpoint", "an entry in the report only")
        elif start != covered[name] or not start < stop <= out.tensors[name].elements:
            expected = f"a checksum from element {covered[name]} to {out.tensors[name].elements} at most"
            yield Problem(where, expected, f"one from {start} to {stop} in the report")
        else:
            covered[name] = stop
    for name, stop in covered.items():
        if stop != out.tensors[name].elements:
            yield Problem(f"{out.path}: tensor {quoted(name)}", "checksums of the whole tensor in the report", "a gap")


def _tiles(plan: Plan) -> Iterator[tuple[int, int, int]]:
    for number, tensor in enumerate(plan.tensors):
        for start, stop in tile_borders(0, tensor.elements, tensor.tile(plan.tile)):
            yield number, start, stop
