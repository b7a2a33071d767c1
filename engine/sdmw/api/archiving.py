"""Archives: packed, applied, reverted."""

import os
from typing import TYPE_CHECKING

from sdmw.api.arguments import (
    Path,
    ProgressLike,
    Size,
    access_of,
    check_progress,
    limits_of,
    path_of,
    receiver,
    with_warnings,
)
from sdmw.errors import PlanError, Problem, UsageError, quoted
from sdmw.planning.limits import Limits
from sdmw.recipes.model_ref import ModelRef
from sdmw.sizes import parse_size
from sdmw.storage.access import Access
from sdmw.storage.files import HEADER_LIMIT

if TYPE_CHECKING:
    from sdmw.archives.archive import Side
    from sdmw.reporting.packing import PackReport


def pack(
    base: Path,
    model: Path,
    out: Path,
    *,
    k: float = 0.0,
    budget: Size | None = None,
    threads: int | None = None,
    progress: ProgressLike = True,
    overwrite: bool = False,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    follow_links: bool = False,
) -> "PackReport":
    """Store the changes of a fine-tune, or of a merge, in a sparse archive (zarr v3): the bits that differ.

    `apply` and `revert` restore either side from the other, exactly. The size of the archive depends on how many
    elements differ. A fine-tune of all weights changes most of them, so its archive at a low k is large: that
    of the example's BF16 models, where 99 % differ, takes 64 % of the checkpoint; where 5 % differ, it takes 5 %.

    Args:
        base: the model that the fine-tune was made from.
        model: the fine-tune, with the same names, dtypes and shapes.
        out: the archive's directory, created complete or not at all.
        k: percentage of each tensor's nonzero deltas that is left out, the smallest, exactly as SDM-W drops them;
            `apply` then gives the base's values there. At 0 it gives the fine-tune. Integers, BOOL and F64 are kept
            whole.
        budget: as for `merge`.
        threads: number of worker threads; default: one per core.
        progress: as for `merge`.
        overwrite: replace an existing directory.
        header_limit: the largest header of an input file, in bytes.
        download: download models that are not in the local Hub cache.
        follow_links: follow links out of a model's folder. An untrusted model then chooses which files are read.

    Returns:
        The number of kept elements, and the size of the archive relative to the checkpoint's.

    Raises:
        UsageError: k is not a percentage.
        CheckpointError, PlanError: all problems of inputs, disk and memory that are known in advance.
        RunError: an error of the data or the machine; nothing is left behind.
    """
    if isinstance(k, bool) or not isinstance(k, int | float) or not 0 <= k <= 100:
        raise UsageError([Problem("k", "a number from 0 to 100", quoted(k))])
    check_progress(progress)
    limits, access, target = limits_of(budget, threads), access_of(header_limit, download, follow_links), path_of(out)
    from sdmw.archives.planning import plan_packing
    from sdmw.planning.inputs import open_model

    below, above = (open_model(ModelRef.parse(os.fspath(name)), access) for name in (base, model))
    planned = plan_packing(below, above, float(k), target, limits, overwrite=overwrite)
    if planned.problems:
        raise PlanError(planned.problems)
    from sdmw.archives import packing
    from sdmw.reporting.packing import pack_report
    from sdmw.running.context import publishing, working

    with (
        receiver(progress) as tell,
        working(tell, planned.threads, inputs=[below, above]) as context,
        publishing(context, target, (), [below, above], overwrite=overwrite) as publication,
    ):
        archive = packing.pack(planned, publication, context)
        publication.finish()
        report = pack_report(archive, above, target)
    return with_warnings(report, publication, *planned.warnings)


def apply(
    base: Path,
    archive: Path,
    out: Path,
    *,
    budget: Size | None = None,
    threads: int | None = None,
    progress: ProgressLike = True,
    overwrite: bool = False,
    max_shard_size: Size = "5GB",
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    follow_links: bool = False,
) -> "PackReport":
    """Restore a fine-tune from its base and the archive that `pack` made; bit for bit if k was 0.

    Args:
        base: the base that the archive was packed with; its division into shards does not matter.
        archive: its directory.
        out: the directory to create, complete or not at all.
        budget: as for `merge`.
        threads: number of worker threads; default: one per core.
        progress: as for `merge`.
        overwrite: replace an existing directory.
        max_shard_size: bytes of tensors in one output file.
        header_limit: the largest header of an input file, in bytes.
        download: download the model if it is not in the local Hub cache.
        follow_links: follow links out of a model's folder. An untrusted model then chooses which files are read.

    Returns:
        The archive in numbers.

    Raises:
        ArchiveError: the archive is damaged, or the directory holds no archive.
        CheckpointError, PlanError: all problems of inputs, disk and memory that are known in advance.
        OtherModelError: the archive belongs to another model, by the checksum of a tensor (XXH3-128, which is not a
            signature).
        RunError: an error of the data or the machine; nothing is left behind.
    """
    return _restored(
        "base", base, archive, out, limits_of(budget, threads), access_of(header_limit, download, follow_links),
        progress=progress, overwrite=overwrite, max_shard_size=max_shard_size,
    )  # fmt: skip


def revert(
    model: Path,
    archive: Path,
    out: Path,
    *,
    budget: Size | None = None,
    threads: int | None = None,
    progress: ProgressLike = True,
    overwrite: bool = False,
    max_shard_size: Size = "5GB",
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    follow_links: bool = False,
) -> "PackReport":
    """Restore the base, bit for bit, from the model that `apply` restores; at k = 0 that is the fine-tune.

    Args, result and errors as for `apply`, with the model in place of the base.
    """
    return _restored(
        "model", model, archive, out, limits_of(budget, threads), access_of(header_limit, download, follow_links),
        progress=progress, overwrite=overwrite, max_shard_size=max_shard_size,
    )  # fmt: skip


def _restored(
    side: "Side",
    name: Path,
    archive: Path,
    out: Path,
    limits: Limits,
    access: Access,
    *,
    progress: ProgressLike,
    overwrite: bool,
    max_shard_size: Size,
) -> "PackReport":
    check_progress(progress)
    from sdmw.archives.archive import read_archive
    from sdmw.archives.planning import plan_restoring
    from sdmw.planning.inputs import open_model

    most, target = parse_size(max_shard_size, "max_shard_size"), path_of(out)
    model = open_model(ModelRef.parse(os.fspath(name)), access)
    packed = read_archive(path_of(archive))
    planned = plan_restoring(model, packed, side, most, target, limits, overwrite=overwrite)
    if planned.problems:
        raise PlanError(planned.problems)
    from sdmw.archives.restoring import restore
    from sdmw.reporting.packing import pack_report
    from sdmw.running.context import publishing, working

    with (
        receiver(progress) as tell,
        working(tell, planned.threads, inputs=[model]) as context,
        publishing(context, target, planned.shards, [model], overwrite=overwrite) as publication,
    ):
        restore(planned, publication, context)
        publication.finish()
    return with_warnings(pack_report(packed, model, target), publication, *planned.warnings)
