"""Looking at a checkpoint, and at a merge."""

import dataclasses
import os
from typing import TYPE_CHECKING

from sdmw.api.arguments import Path, ProgressLike, Size, access_of, check_executor, check_progress, receiver, sound
from sdmw.api.merging import prepared_of
from sdmw.errors import Problem, UsageError, quoted
from sdmw.recipes.model_ref import ModelRef
from sdmw.storage.files import HEADER_LIMIT

if TYPE_CHECKING:
    from sdmw.reporting.inspection import Inspection
    from sdmw.running.pool import ExecutorLike
    from sdmw.running.verification import Verification


def inspect(
    checkpoint: Path, *, header_limit: Size = HEADER_LIMIT, download: bool = False, follow_links: bool = False
) -> "Inspection":
    """What is in a checkpoint, from its headers: dtypes, shards, parameters by component.

    Args:
        checkpoint: a directory, or the id of a model in the Hub cache.
        header_limit: bytes that a header may have.
        download: fetch it from the Hub where it is not on this machine.
        follow_links: follow links that leave a model's folder: whoever made it then chooses what is read.

    Raises:
        CheckpointError: all that is wrong with it.
    """
    from sdmw.checkpoints.formats import adapter
    from sdmw.planning.inputs import open_model
    from sdmw.reporting.inspection import inspection

    access = access_of(header_limit, download, follow_links)
    found = open_model(ModelRef.parse(os.fspath(checkpoint)), access)
    if found.adapts is not None:  # what is in it, and not what it means
        found = dataclasses.replace(adapter.read_matrices(found.path, access), adapts=found.adapts)
    return inspection(found)


def verify(
    out: Path,
    *,
    sample: float = 0.01,
    threads: int | None = None,
    progress: ProgressLike = True,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    follow_links: bool = False,
    executor: "ExecutorLike" = None,
) -> "Verification":
    """Hold a merged checkpoint against its report: every byte by checksum, a sample computed again from the inputs.

    The inputs must lie where the recipe in `out` says, seen from the current directory.

    Args:
        out: a directory that `merge` made.
        sample: the share of tiles that is computed again, above 0; 1 for all of them.
        threads: number of worker threads; default: one per core.
        progress: as for `merge`.
        header_limit: bytes that the header of a file may have.
        download: download models that are not in the local Hub cache.
        follow_links: follow links that leave a model's folder: whoever made it then chooses what is read.
        executor: as for `merge`.

    Returns:
        What was looked at, and all that is wrong.

    Raises:
        UsageError: the sample is no share.
        CheckpointError: `out` is no checkpoint, or has no report that can be read.
        PlanError, RecipeError: its recipe cannot be planned any more: a model is missing, say.
        InputChangedError: an input is not the one that was merged.
        StoppedError: a signal came.
    """
    if isinstance(sample, bool) or not isinstance(sample, int | float) or not 0 < sample <= 1:
        raise UsageError([Problem("sample", "a share above 0, at most 1", quoted(sample))])
    check_progress(progress)
    check_executor(executor)
    access = access_of(header_limit, download, follow_links)
    from sdmw.checkpoints import formats
    from sdmw.checkpoints.formats import adapter
    from sdmw.reporting.reading import contradictions, decisions_of, read_report, recipe_of
    from sdmw.running import verification
    from sdmw.running.context import working
    from sdmw.running.job import Job

    path = os.fspath(out)
    report = read_report(path)
    prepared = prepared_of(recipe_of(path), access, threads=threads, ignore_unknown=True)
    planned = sound(prepared.plan())
    merged = adapter.read_matrices(path, access) if planned.makes_adapter else formats.read(path, access)
    # Whether tied heads differ was found out by the merge: what it wrote tells.
    if untied := {tied.head.name for tied in planned.heads} & merged.tensors.keys():
        planned = prepared.plan(untied)
    verification.check_inputs(planned, [(each.size, each.header, each.sample or "") for each in report.inputs])
    job = Job(planned, decisions_of(report, planned))
    known = list(contradictions(report, planned, job.decisions))
    # The card is for people to edit.
    files = {name: checksum for name, checksum in report.files.written.items() if name != "README.md"}
    with receiver(progress) as tell, working(tell, planned.threads, executor) as context:
        return verification.verify(merged, job, report.pieces, files, context, sample, known)
