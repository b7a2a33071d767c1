"""Extracting an adapter from a fine-tune."""

import os
from typing import TYPE_CHECKING

from sdmw.api.arguments import (
    Path,
    ProgressLike,
    Size,
    access_of,
    check_executor,
    check_progress,
    limits_of,
    path_of,
    receiver,
    with_warnings,
)
from sdmw.errors import PlanError, Problem, UsageError, quoted
from sdmw.methods.lora import HIGHEST_RANK
from sdmw.recipes.model_ref import ModelRef
from sdmw.storage.files import HEADER_LIMIT

if TYPE_CHECKING:
    from sdmw.reporting.extraction import ExtractionReport
    from sdmw.running.pool import ExecutorLike


def extract(
    base: Path,
    model: Path,
    out: Path,
    *,
    rank: int = 32,
    budget: Size | None = None,
    threads: int | None = None,
    progress: ProgressLike = True,
    overwrite: bool = False,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    follow_links: bool = False,
    resume: bool = True,
    executor: "ExecutorLike" = None,
) -> "ExtractionReport":
    """Approximate the changes of a fine-tune by a PEFT adapter: each weight's delta by matrices of a given rank.

    The decomposition is randomised, from numbers that depend on names alone; its last bits depend on the BLAS that
    NumPy uses and on its number of threads, not on `threads`. A weight is read up to nine times, and takes in
    memory about rank + 8 rows and columns of float64, several times. An interrupted run of the same call is resumed.

    Args:
        base: the model that the fine-tune was made from.
        model: the fine-tune, with the same names and shapes.
        out: the adapter's directory, created complete or not at all.
        rank: of the matrices, from 1.
        budget: as for `merge`.
        threads: number of worker threads, or of the executor's workers to be kept busy. Default: one per core, but a
            single thread where NumPy's BLAS has threads of its own, which then keep all cores busy. With
            OPENBLAS_NUM_THREADS=1 in the environment it has none: extracting takes a third of the processor time.
        progress: as for `merge`.
        overwrite: replace an existing directory.
        header_limit: the largest header of an input file, in bytes.
        download: download models that are not in the local Hub cache.
        follow_links: follow links out of a model's folder. An untrusted model then chooses which files are read.
        resume: False starts over instead of resuming an interrupted run.
        executor: as for `merge`.

    Returns:
        The error of each weight, and the tensors that were left out because an adapter cannot represent them.

    Raises:
        UsageError: the rank is not a whole number from 1 to the highest allowed, or another argument is wrong.
        CheckpointError, PlanError: all problems of inputs, disk and memory that are known in advance.
        ResumeError: an interrupted run is kept, but inputs, rank or version have changed since.
        RunError: an error of the data or the machine. Finished work is kept beside the target if the inputs are not at
            fault (`resumable`); otherwise nothing is kept.
    """
    if type(rank) is not int or not 1 <= rank <= HIGHEST_RANK:
        raise UsageError([Problem("rank", f"a whole number from 1 to {HIGHEST_RANK}", quoted(rank))])
    check_progress(progress)
    check_executor(executor)
    limits, access, target = limits_of(budget, threads), access_of(header_limit, download, follow_links), path_of(out)
    from sdmw.planning.extraction import plan_extraction
    from sdmw.planning.inputs import open_model

    references = [ModelRef.parse(os.fspath(name)) for name in (base, model)]
    below, above = (open_model(each, access) for each in references)
    planned = plan_extraction(below, above, rank, target, limits, overwrite=overwrite, apart=executor is not None)
    if planned.problems:
        raise PlanError(planned.problems)
    from sdmw.reporting.extraction import add_files, extraction_report
    from sdmw.running.context import publishing, working
    from sdmw.running.extraction import carry_out, identity_of

    with (
        receiver(progress) as tell,
        working(tell, planned.threads, executor, inputs=[below, above]) as context,
        publishing(
            context, target, planned.shards, [below, above],
            overwrite=overwrite, identity=identity_of(planned), resume=resume,
        ) as publication,
    ):  # fmt: skip
        weights, left_out = carry_out(planned, publication, context)
        publication.finish()
        report = with_warnings(extraction_report(planned, target, weights, left_out), publication)
        add_files(publication, planned, report, *references)
    return with_warnings(report, publication, *planned.warnings)
