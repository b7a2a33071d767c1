"""Looking at a checkpoint, and at a merge."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from sdmw.api.arguments import (
    Path,
    ProgressLike,
    Size,
    access_of,
    check_executor,
    check_progress,
    folder_of,
    limits_of,
    receiver,
    sound,
)
from sdmw.api.merging import prepared_of
from sdmw.errors import Problem, UsageError, quoted
from sdmw.methods import all_methods
from sdmw.recipes.load import load
from sdmw.recipes.model_ref import ModelRef
from sdmw.storage.access import Access
from sdmw.storage.files import HEADER_LIMIT

if TYPE_CHECKING:
    from sdmw.checkpoints.checkpoint import Checkpoint
    from sdmw.reporting.inspection import Inspection
    from sdmw.running.pool import ExecutorLike
    from sdmw.running.verification import Verification


def inspect(
    checkpoint: Path, *, header_limit: Size = HEADER_LIMIT, download: bool = False, follow_links: bool = False
) -> "Inspection":
    """Show what is in a checkpoint, from its headers: dtypes, shards, parameters by component.

    Args:
        checkpoint: a directory, or the id of a model in the Hub cache.
        header_limit: the largest header of a file, in bytes.
        download: download it if it is not in the local Hub cache.
        follow_links: follow links out of a model's folder. An untrusted model then chooses which files are read.

    Raises:
        CheckpointError: all problems of the checkpoint.
    """
    from sdmw.planning.inputs import open_model
    from sdmw.reporting.inspection import inspection

    access = access_of(header_limit, download, follow_links)
    return inspection(_stored(open_model(ModelRef.parse(os.fspath(checkpoint)), access), access))


def _stored(found: "Checkpoint", access: Access) -> "Checkpoint":
    """A checkpoint with what is in it, and not what it means: of an adapter the matrices."""
    from sdmw.checkpoints.formats import adapter

    if found.adapts is None:
        return found
    return replace(adapter.read_matrices(found.path, access), adapts=found.adapts)


def verify(
    out: Path,
    *,
    sample: float | None = None,
    inputs: Path | None = None,
    threads: int | None = None,
    progress: ProgressLike = True,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    follow_links: bool = False,
    executor: "ExecutorLike" = None,
) -> "Verification":
    """Check a merged checkpoint against its report: every byte by checksum, a sample computed again from the inputs.

    The inputs are looked for where the recipe in `out` says, relative to the current directory or to `inputs`. If
    one is not found, nothing is computed again: `Verification.not_found` lists it, and only checksums are compared.

    Args:
        out: a directory made by `merge`.
        sample: the share of tiles that is computed again, above 0; 1 for all of them. Default: 0.01, and 1 for a small
            model.
        inputs: the folder that holds the recipe's models, by their relative paths or by the last part of their paths.
        threads: number of worker threads; default: one per core.
        progress: as for `merge`.
        header_limit: the largest header of a file, in bytes.
        download: download models that are not in the local Hub cache.
        follow_links: follow links out of a model's folder. An untrusted model then chooses which files are read.
        executor: as for `merge`.

    Returns:
        What was checked, and every problem.

    Raises:
        UsageError: the sample is not a share, or `inputs` is not a directory.
        CheckpointError: `out` is not a checkpoint, or has no report that can be read.
        PlanError, RecipeError: its recipe can no longer be planned, for instance because an input is damaged.
        InputChangedError: an input is not the one that was merged.
        StoppedError: a signal stopped it.
    """
    is_share = isinstance(sample, int | float) and not isinstance(sample, bool) and 0 < sample <= 1
    if sample is not None and not is_share:
        raise UsageError([Problem("sample", "a share above 0, at most 1", quoted(sample))])
    check_progress(progress)
    check_executor(executor)
    limits, access = limits_of(None, threads, executor), access_of(header_limit, download, follow_links, inputs)
    from sdmw.checkpoints import formats
    from sdmw.planning.build import kernels_of
    from sdmw.planning.inputs import Inputs, not_found
    from sdmw.reporting.reading import contradictions, decisions_of, fingerprints_of, read_report, recipe_of
    from sdmw.running import verification
    from sdmw.running.context import working
    from sdmw.running.documents import decided
    from sdmw.running.job import Job

    path = folder_of(out, "out")
    report = read_report(path)
    # The card is for people to edit.
    files = {name: checksum for name, checksum in report.files.written.items() if name != "README.md"}
    merged = _stored(formats.read(path, access), access)
    text = recipe_of(path)
    vouched = files.get(name := os.path.basename(text))
    is_another = vouched is not None and vouched != verification.checksum_of(merged, name)
    lost: list[Problem] = []
    if not is_another:
        access = replace(access, commits=report.commits)
        recipe = load(text, all_methods(), ignore_unknown=True)
        lost = not_found(recipe, access)
    if lost or is_another:
        with receiver(progress) as tell, working(tell, limits.most_threads(), executor, inputs=[merged]) as context:
            return verification.verify_checksums(merged, report.pieces, report.headers, files, context, lost)
    prepared = prepared_of(recipe, access, threads=threads, ignore_unknown=True, executor=executor)
    if isinstance(prepared.inputs, Inputs):
        verification.check_inputs(prepared.inputs.sources, fingerprints_of(report))
        verification.check_configs(prepared.inputs.sources, report.configs)
    planned = sound(prepared.plan())
    # Whether tied heads differ was found out by the merge: what it wrote tells.
    untied = {tied.head.name for tied in planned.heads} & merged.tensors.keys()
    kernels = kernels_of(planned)
    read = (merged, *planned.checkpoints)
    with receiver(progress) as tell, working(tell, planned.threads, executor, kernels, read) as context:
        prepared = decided(prepared, context)
        if untied or recipe.documents:
            planned = sound(prepared.plan(untied))
        job = Job(planned, decisions_of(report, planned))
        known = list(contradictions(report, planned, job.decisions))
        return verification.verify(merged, job, report.pieces, files, context, sample, known)
