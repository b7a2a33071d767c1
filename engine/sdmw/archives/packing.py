"""Packs what a fine-tune changed, and puts it on the base or takes it off again; tile by tile, exact to the bit."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import xxhash
from numpy.typing import NDArray

from sdmw.archives.archive import MEND, SIDES, Archive, ArchivedTensor, Files, Side
from sdmw.archives.arrays import BLOCK, ArchiveReader, ArchiveWriter
from sdmw.archives.planning import plan_thresholds
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import ArchiveError, OtherModelError, PlanError, Problem, quoted
from sdmw.methods.sdm_w import Shares
from sdmw.running.context import Context
from sdmw.running.driver import Run
from sdmw.running.events import Progress, Stage
from sdmw.running.work import read_tiles
from sdmw.tensors.matrices import widened
from sdmw.tensors.staging import staging
from sdmw.tensors.tensor import Tensor
from sdmw.writing import side_files
from sdmw.writing.publication import Publication

TILE = 8 * BLOCK  # elements: 4 MiB at most in each of two models


def pack(base: Checkpoint, model: Checkpoint, k: float, output: Publication, context: Context) -> Archive:
    """Write the archive into an output without shards.

    Args:
        base: what the fine-tune was made from.
        model: the fine-tune, with the same names, dtypes and shapes.
        k: percent of the nonzero deltas of each tensor that are left out; integers, BOOL and F64 are kept whole.
        output: that is not published yet.
        context: of the run.

    Raises:
        PlanError: there is not enough memory to look for the thresholds.
        RunError: the data or the machine.
    """
    patterns = _patterns(base, model, k, context)
    writer = ArchiveWriter(output.path)
    told = _told("pack", context, 2 * sum(info.nbytes for info in base.tensors.values()))
    tensors = []
    for name, info in base.tensors.items():
        pattern = patterns.get(name)
        tensors.append(_pack_tensor(info, model.tensors[name], pattern, writer, context.signals.check))
        told(2 * info.nbytes)
    archive = Archive(output.path, k, tuple(tensors), _differing_files(base.path, model.path))
    paths: Mapping[Side, str] = {"base": base.path, "model": model.path}
    for side in SIDES:
        side_files.copy(paths[side], list(archive.files[side]), archive.files_of(side))
    writer.close(archive)
    return archive


def restore(checkpoint: Checkpoint, archive: Archive, side: Side, output: Publication, context: Context) -> None:
    """Write the other side's model, and the files beside its weights.

    Args:
        checkpoint: the model of one side, with the archive's names, dtypes and shapes.
        archive: its attributes.
        side: which one the checkpoint is.
        output: with a place for each tensor; not published yet.
        context: of the run.

    Raises:
        OtherModelError: it is not the model that the archive was made from.
        ArchiveError: the archive is damaged.
        RunError: the data or the machine.
    """
    reader = ArchiveReader(archive)
    places = {place.name: place for shard in output.layouts for place in shard.tensors}
    told = _told("apply", context, sum(info.nbytes for info in checkpoint.tensors.values()))
    for tensor in archive.tensors:
        info = checkpoint.tensors[tensor.name]
        place = places[tensor.name]
        write = partial(output.sink.write, place.shard)
        found = _restore_tensor(info, tensor, reader, write, place.offset, context.signals.check)
        _check_sides(info, tensor, archive, side, found)
        told(info.nbytes)
    listed = archive.files["base"].keys() | archive.files["model"].keys()
    kept = [name for name in side_files.own_files(checkpoint.path) if name not in listed]
    side_files.copy(checkpoint.path, kept, output.path)
    side_files.copy(archive.files_of(_other(side)), list(archive.files[_other(side)]), output.path)


def _patterns(base: Checkpoint, model: Checkpoint, k: float, context: Context) -> dict[str, int]:
    """The float32 pattern that a magnitude must reach in each tensor, as SDM-W decides it; of none where k is 0."""
    if not k or not any(tensor.dtype.merges for tensor in base.tensors.values()):
        return {}
    plan = plan_thresholds(base, model, k)
    if plan.problems:
        raise PlanError(plan.problems)
    layers = cast("tuple[Shares, ...]", Run(plan, context).decide().layers)
    return {
        plan.tensors[number].name: shares[0].pattern
        for layer, shares in zip(plan.layers, layers, strict=True)
        for number in layer.tensors
    }


def _pack_tensor(
    base: Tensor, model: Tensor, pattern: int | None, writer: ArchiveWriter, check: Callable[[], None]
) -> ArchivedTensor:
    kept = 0
    before, after = xxhash.xxh3_128(), xxhash.xxh3_128()
    for _, (below, above) in read_tiles((base, model), 0, base.elements, TILE, check):
        words = _words(below)
        xor = words ^ _words(above)
        if pattern is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                delta = widened(above, base.dtype) - widened(below, base.dtype)
            # NaN and infinity have higher patterns than any threshold: they stay, as in a merge that lets them pass.
            xor[delta.view(np.uint32) & 0x7FFFFFFF < pattern] = 0
        places = np.flatnonzero(xor)
        writer.add(words.size, places, xor[places])
        kept += places.size
        before.update(words.data)
        after.update((words ^ xor).data)
    return ArchivedTensor(base.name, base.dtype, base.shape, kept, before.hexdigest(), after.hexdigest())


def _restore_tensor(
    info: Tensor,
    tensor: ArchivedTensor,
    reader: ArchiveReader,
    write: Callable[[int, NDArray[Any]], None],
    offset: int,
    check: Callable[[], None],
) -> tuple[str, str]:
    """The checksums of what was read and of what was written."""
    read, made = xxhash.xxh3_128(), xxhash.xxh3_128()
    for start, (elements,) in read_tiles((info,), 0, info.elements, TILE, check):
        words = _words(elements)
        here = offset + start * words.itemsize
        changed = staging.array(here, words.nbytes).view(words.dtype)
        changed[:] = words
        read.update(changed.data)
        places, xor = reader.take(tensor, words.size)
        changed[places] ^= xor
        made.update(changed.data)
        write(here, changed)
    return read.hexdigest(), made.hexdigest()


def _check_sides(info: Tensor, tensor: ArchivedTensor, archive: Archive, side: Side, found: tuple[str, str]) -> None:
    expected: Mapping[Side, str] = {"base": tensor.base, "model": tensor.model}
    where = info.where
    if found[0] != expected[side]:
        mend = f"Give the {side} that {archive.path} was packed with"
        if side == "model" and archive.k:
            mend = f"The archive was packed with k = {archive.k:g}: give what `sdmw apply` made, not the fine-tune"
        if found[0] == expected[_other(side)]:
            mend = f"This is its {_other(side)}: use `sdmw {'revert' if side == 'base' else 'apply'}`"
        said = f"{found[0]}: this is not the model that the archive belongs to"
        raise OtherModelError([Problem(where, f"the bytes with XXH3-128 {expected[side]}", said, mend)])
    if found[1] != expected[_other(side)]:
        where = f"{archive.path}: tensor {quoted(tensor.name)}"
        said = f"{found[1]}: the archive is damaged"
        raise ArchiveError([Problem(where, f"a result with XXH3-128 {expected[_other(side)]}", said, MEND)])


def _differing_files(base: str, model: str) -> Files:
    """The files beside the weights that are not the same in both, with their checksums."""
    found = [
        {name: side_files.fingerprint(path, name) for name in side_files.own_files(path)} for path in (base, model)
    ]
    return {
        side: {name: checksum for name, checksum in mine.items() if others.get(name) != checksum}
        for side, mine, others in zip(SIDES, found, reversed(found), strict=True)
    }


def _words(elements: NDArray[np.generic]) -> NDArray[Any]:
    """Elements as unsigned integers of their size."""
    return elements.view(f"<u{elements.itemsize}")


def _other(side: Side) -> Side:
    return "model" if side == "base" else "base"


def _told(stage: Stage, context: Context, total: int) -> Callable[[int], None]:
    done = 0

    def told(size: int) -> None:
        nonlocal done
        done += size
        context.tell(Progress(stage, done, total))

    return told
