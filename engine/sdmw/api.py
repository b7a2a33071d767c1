"""The public functions; each composes the folders below and does nothing itself."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sdmw.checkpoints.formats import HEADER_LIMIT
from sdmw.errors import PlanError, Problem, UsageError, quoted
from sdmw.methods import all_methods
from sdmw.methods.lora import HIGHEST_RANK
from sdmw.planning.build import Options
from sdmw.planning.limits import Limits
from sdmw.planning.plan import Plan
from sdmw.planning.prepared import Prepared, prepare
from sdmw.recipes.load import load
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import Recipe
from sdmw.sizes import parse_size

if TYPE_CHECKING:
    from sdmw.archives.archive import Side
    from sdmw.reporting.extraction import ExtractionReport
    from sdmw.reporting.inspection import Inspection
    from sdmw.reporting.packing import PackReport
    from sdmw.reporting.report import Report
    from sdmw.running.events import Event
    from sdmw.running.pool import ExecutorLike
    from sdmw.running.reader import MergeReader
    from sdmw.running.verification import Verification
    from sdmw.writing.publication import Publication

AnyReport = TypeVar("AnyReport", "Report", "ExtractionReport", "PackReport")
RecipeLike = Recipe | Mapping[str, Any] | str | os.PathLike[str]
Size = int | str  # bytes, or text such as "5GB", "1GiB"

MOST_THREADS = 1024


def merge(
    recipe: RecipeLike,
    out: str | os.PathLike[str],
    *,
    budget: Size | None = None,
    threads: int | None = None,
    progress: "bool | Callable[[Event], None]" = True,
    overwrite: bool = False,
    max_shard_size: Size = "5GB",
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    ignore_unknown: bool = False,
    resume: bool = True,
    executor: "ExecutorLike" = None,
) -> "Report":
    """Merge checkpoints into a new one, out of core. An interrupted run of the same merge is resumed.

    Args:
        recipe: a `Recipe`, its content as a mapping, or the path of a YAML file.
        out: the directory that will appear, complete or not at all.
        budget: bytes of resident memory that the process may reach; by default what it has now and half of what is
            free, at most 1 GiB (seven eighths, up to 256 MiB, where little is free).
        threads: number of worker threads, or of the executor's workers to be kept busy; default: one per core.
        progress: show it on standard error, or not, or call this with each `sdmw.running.events` object.
        overwrite: replace a directory that is there.
        max_shard_size: bytes of tensors in one output file.
        header_limit: bytes that an input's header may have; more than 100,000,000 the format forbids.
        download: fetch models that are not on this machine from the Hub.
        ignore_unknown: say unknown recipe fields and go on.
        resume: False starts over where an interrupted run has left something.
        executor: where tasks run: None for threads of this process; an executor of yours, such as a
            `ProcessPoolExecutor` (if it breaks, the merge ends with an error and can be resumed); or a function that
            makes one, which is called again, up to three times, when a worker is lost. Workers in other processes must
            see the same files; the budget bounds each of them by itself.

    Returns:
        What was found and what it took; `sdmw_report.json` in the output says the same.

    Raises:
        RecipeError: the recipe is wrong.
        UsageError: another argument is.
        PlanError: all that inputs' headers, disk and memory tell against it; nothing was written.
        ResumeError: a killed run left something, and recipe, inputs, plan or version are others now.
        RunError: the data or the machine. What is done is kept beside the target where neither recipe nor inputs are
            at fault (`resumable`), else nothing is.
    """
    _check_progress(progress)
    _check_executor(executor)
    prepared = _prepared(
        recipe, out, budget=budget, threads=threads, overwrite=overwrite, max_shard_size=max_shard_size,
        header_limit=header_limit, download=download, ignore_unknown=ignore_unknown,
    )  # fmt: skip
    planned = _sound(prepared.plan())
    from sdmw.running.context import load_kernels, publishing, working
    from sdmw.running.usage import Usage

    with _receiver(progress) as tell, Usage() as usage:
        if not load_kernels(tell):
            planned = _sound(prepared.plan())
        # Only now what takes long to load: a plan, an inspection and a faulty recipe need neither kernels nor tables.
        from sdmw.reporting.files import add_files
        from sdmw.reporting.report import REPORT, build_report, model_reports
        from sdmw.running.driver import Run
        from sdmw.running.events import Planned
        from sdmw.running.heads import settled
        from sdmw.running.journal import head

        with working(tell, planned.threads, executor) as context:
            planned = settled(prepared, planned, context)
            with publishing(
                context, os.fspath(out), planned.shards, planned.checkpoints,
                overwrite=overwrite, head=head(planned), resume=resume,
            ) as publication:  # fmt: skip
                tell(Planned(planned))
                outcome = Run(planned, context).carry_out(publication)
                publication.finish()
                models = model_reports(planned, outcome.decisions)
                add_files(publication, planned, models)
                report = build_report(planned, outcome, usage, models, publication.checksums())
                report = _with_warnings(report, publication)
                publication.add(REPORT, report.to_json().encode())
    return _with_warnings(report, publication)


def plan(
    recipe: RecipeLike,
    out: str | os.PathLike[str] | None = None,
    *,
    budget: Size | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    max_shard_size: Size = "5GB",
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    ignore_unknown: bool = False,
) -> Plan:
    """What `merge` would do, with every problem that headers can tell in `Plan.problems`; no tensor data are touched.

    Args and errors as for `merge`, but that problems of the plan are returned. Without `out` nothing is said of it.
    """
    return _prepared(
        recipe, out, budget=budget, threads=threads, overwrite=overwrite, max_shard_size=max_shard_size,
        header_limit=header_limit, download=download, ignore_unknown=ignore_unknown,
    ).plan()  # fmt: skip


def _prepared(
    recipe: RecipeLike,
    out: str | os.PathLike[str] | None = None,
    *,
    budget: Size | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    max_shard_size: Size = "5GB",
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    ignore_unknown: bool = False,
) -> Prepared:
    limits, most = _limits(budget, threads), parse_size(max_shard_size, "max_shard_size")
    options = Options(None if out is None else os.fspath(out), overwrite, most, limits.budget, limits.threads)
    most_header = parse_size(header_limit, "header_limit")
    loaded = load(recipe, all_methods(), ignore_unknown=ignore_unknown)
    return prepare(loaded, options, download=download, header_limit=most_header)


def _sound(planned: Plan) -> Plan:
    """A plan that can be carried out; PlanError where there are problems."""
    if planned.problems or planned.base is None:
        raise PlanError(planned.problems)
    return planned


def open(  # noqa: A001  the word of safetensors
    recipe: RecipeLike,
    *,
    budget: Size | None = None,
    threads: int | None = None,
    progress: "bool | Callable[[Event], None]" = True,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    ignore_unknown: bool = False,
    executor: "ExecutorLike" = None,
) -> "MergeReader":
    """Open a merge without writing it: its tensors are computed when they are read, bit for bit as `merge` writes them.

    Methods that measure read the inputs once here, to decide; each tensor that is asked for reads its own inputs again.

    Args:
        recipe: as for `merge`.
        budget: as for `merge`; it bounds this call, and not the arrays that are asked for later.
        threads: as for `merge`.
        progress: as for `merge`.
        header_limit: bytes that an input's header may have.
        download: download models that are not in the local Hub cache.
        ignore_unknown: report unknown recipe fields and go on.
        executor: as for `merge`.

    Returns:
        `keys()`, `get_tensor(name)` and `get_slice(name)[...]`, as of `safetensors.safe_open`.

    Raises:
        RecipeError, UsageError, PlanError: as for `merge`.
        RunError: inputs changed, are not finite, or cannot be read.
    """
    _check_progress(progress)
    _check_executor(executor)
    prepared = _prepared(
        recipe, budget=budget, threads=threads, header_limit=header_limit, download=download,
        ignore_unknown=ignore_unknown,
    )  # fmt: skip
    planned = _sound(prepared.plan())
    from sdmw.running.context import load_kernels, working

    with _receiver(progress) as tell:
        if not load_kernels(tell):
            planned = _sound(prepared.plan())
        from sdmw.running.driver import Run
        from sdmw.running.heads import settled
        from sdmw.running.job import Job
        from sdmw.running.merged import opened
        from sdmw.running.reader import MergeReader

        with working(tell, planned.threads, executor) as context:
            planned = settled(prepared, planned, context)
            decisions = Run(planned, context).decide()
    return MergeReader(opened(Job(planned, decisions)))


def inspect(
    checkpoint: str | os.PathLike[str], *, header_limit: Size = HEADER_LIMIT, download: bool = False
) -> "Inspection":
    """What is in a checkpoint, from its headers: dtypes, shards, parameters by component.

    Args:
        checkpoint: a directory, or the id of a model in the Hub cache.
        header_limit: bytes that a header may have.
        download: fetch it from the Hub where it is not on this machine.

    Raises:
        CheckpointError: all that is wrong with it.
    """
    from sdmw.checkpoints import formats
    from sdmw.checkpoints.formats import adapter
    from sdmw.reporting.inspection import inspection
    from sdmw.storage.locate import locate

    path = locate(ModelRef.parse(os.fspath(checkpoint)), download=download)
    found = formats.read(path, header_limit=parse_size(header_limit, "header_limit"))
    if found.adapts is not None:  # what is in it, and not what it means
        found = dataclasses.replace(adapter.read_matrices(path), adapts=found.adapts)
    return inspection(found)


def verify(
    out: str | os.PathLike[str],
    *,
    sample: float = 0.01,
    threads: int | None = None,
    progress: "bool | Callable[[Event], None]" = True,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
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
    _check_progress(progress)
    from sdmw.checkpoints import formats
    from sdmw.checkpoints.formats import adapter
    from sdmw.reporting.reading import contradictions, decisions_of, read_report, recipe_of
    from sdmw.running import verification
    from sdmw.running.context import working
    from sdmw.running.job import Job

    _check_executor(executor)
    path = os.fspath(out)
    report = read_report(path)
    prepared = _prepared(
        recipe_of(path), threads=threads, header_limit=header_limit, download=download, ignore_unknown=True
    )  # fmt: skip
    planned = _sound(prepared.plan())
    limit = parse_size(header_limit, "header_limit")
    merged = adapter.read_matrices(path) if planned.makes_adapter else formats.read(path, header_limit=limit)
    # Whether tied heads differ was found out by the merge: what it wrote tells.
    if untied := {tied.head.name for tied in planned.heads} & merged.tensors.keys():
        planned = prepared.plan(untied)
    verification.check_inputs(planned, [(each.size, each.header, each.sample or "") for each in report.inputs])
    job = Job(planned, decisions_of(report, planned))
    known = list(contradictions(report, planned, job.decisions))
    # The card is for people to edit.
    files = {name: checksum for name, checksum in report.files.written.items() if name != "README.md"}
    with _receiver(progress) as tell, working(tell, planned.threads, executor) as context:
        return verification.verify(merged, job, report.pieces, files, context, sample, known)


def extract(
    base: str | os.PathLike[str],
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    rank: int = 32,
    budget: Size | None = None,
    threads: int | None = None,
    progress: "bool | Callable[[Event], None]" = True,
    overwrite: bool = False,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    resume: bool = True,
    executor: "ExecutorLike" = None,
) -> "ExtractionReport":
    """Approximate what a fine-tune changed by a PEFT adapter: every weight's delta by matrices of a rank.

    The decomposition is randomised, from numbers that depend on names alone; its last bits depend on the BLAS that
    NumPy has and on how many threads that uses, not on `threads`. A weight takes up to nine looks at its data, and in
    memory some rank + 8 rows and columns of float64, several times. An interrupted run of the same call is resumed.

    Args:
        base: what the fine-tune was made from.
        model: the fine-tune, with the same names and shapes.
        out: the adapter's directory, which will appear complete or not at all.
        rank: of the matrices, from 1.
        budget: as for `merge`.
        threads: number of worker threads, or of the executor's workers to be kept busy. Default: one per core, but a
            single thread where NumPy's BLAS has threads of its own, which then keep all cores busy. With
            OPENBLAS_NUM_THREADS=1 in the environment it has none: extracting takes a third of the processor time.
        progress: as for `merge`.
        overwrite: replace a directory that is there.
        header_limit: bytes that an input's header may have.
        download: fetch models that are not on this machine from the Hub.
        resume: False starts over where an interrupted run has left something.
        executor: as for `merge`.

    Returns:
        The error of each weight, and what was left out because an adapter cannot say it.

    Raises:
        UsageError: the rank is no whole number from 1 to the highest allowed, or another argument is wrong.
        CheckpointError, PlanError: all that the inputs' headers, disk and memory tell against it.
        ResumeError: a killed run left something, and inputs, rank or version are others now.
        RunError: the data or the machine. What is done is kept beside the target where the inputs are not at fault
            (`resumable`), else nothing is.
    """
    if type(rank) is not int or not 1 <= rank <= HIGHEST_RANK:
        raise UsageError([Problem("rank", f"a whole number from 1 to {HIGHEST_RANK}", quoted(rank))])
    _check_progress(progress)
    _check_executor(executor)
    limits = _limits(budget, threads)
    from sdmw.checkpoints import formats
    from sdmw.planning.extraction import plan_extraction
    from sdmw.storage.locate import locate

    limit, target = parse_size(header_limit, "header_limit"), os.fspath(out)
    references = [ModelRef.parse(os.fspath(name)) for name in (base, model)]
    below, above = (formats.read(locate(each, download=download), header_limit=limit) for each in references)
    planned = plan_extraction(below, above, rank, target, limits, overwrite=overwrite, apart=executor is not None)
    if planned.problems:
        raise PlanError(planned.problems)
    from sdmw.reporting.extraction import add_files, extraction_report
    from sdmw.running.context import publishing, working
    from sdmw.running.extraction import carry_out, head

    with (
        _receiver(progress) as tell,
        working(tell, planned.threads, executor) as context,
        publishing(
            context, target, planned.shards, [below, above],
            overwrite=overwrite, head=head(planned), resume=resume,
        ) as publication,
    ):  # fmt: skip
        weights, left_out = carry_out(planned, publication, context)
        publication.finish()
        report = _with_warnings(extraction_report(planned, target, weights, left_out), publication)
        add_files(publication, planned, report, *references)
    return _with_warnings(report, publication)


def pack(
    base: str | os.PathLike[str],
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    k: float = 0.0,
    budget: Size | None = None,
    threads: int | None = None,
    progress: "bool | Callable[[Event], None]" = True,
    overwrite: bool = False,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
) -> "PackReport":
    """Keep what a fine-tune, or a merge, changed: a sparse archive (zarr v3) of where its bits differ from the base's.

    `apply` and `revert` go from either side to the other, exactly. How small the archive is depends on how many
    elements differ. A fine-tune of all weights changes most of them, and its archive at a low k is no sparse one: that
    of the example's BF16 models, of which 99 % differ, takes 64 % of the checkpoint; of 5 % that differ, 5 %.

    Args:
        base: what the fine-tune was made from.
        model: the fine-tune, with the same names, dtypes and shapes.
        out: the archive's directory, which will appear complete or not at all.
        k: percent of each tensor's nonzero deltas that are left out, the smallest, exactly as SDM-W drops them; `apply`
            then gives the base's values there. At 0 it gives the fine-tune. Integers, BOOL and F64 are kept whole.
        budget: as for `merge`.
        threads: number of worker threads; default: one per core.
        progress: as for `merge`.
        overwrite: replace a directory that is there.
        header_limit: bytes that an input's header may have.
        download: fetch models that are not on this machine from the Hub.

    Returns:
        How many elements are kept, and the size of the archive against the checkpoint's.

    Raises:
        UsageError: k is no percentage.
        CheckpointError, PlanError: all that the inputs' headers, disk and memory tell against it.
        RunError: the data or the machine; nothing is left behind.
    """
    if isinstance(k, bool) or not isinstance(k, int | float) or not 0 <= k <= 100:
        raise UsageError([Problem("k", "a number from 0 to 100", quoted(k))])
    _check_progress(progress)
    limits = _limits(budget, threads)
    from sdmw.archives.planning import plan_packing
    from sdmw.checkpoints import formats
    from sdmw.storage.locate import locate

    limit, target = parse_size(header_limit, "header_limit"), os.fspath(out)
    references = [ModelRef.parse(os.fspath(name)) for name in (base, model)]
    below, above = (formats.read(locate(each, download=download), header_limit=limit) for each in references)
    planned = plan_packing(below, above, float(k), target, limits, overwrite=overwrite)
    if planned.problems:
        raise PlanError(planned.problems)
    from sdmw.archives import packing
    from sdmw.reporting.packing import pack_report
    from sdmw.running.context import publishing, working

    with (
        _receiver(progress) as tell,
        working(tell, planned.threads) as context,
        publishing(context, target, (), [below, above], overwrite=overwrite) as publication,
    ):
        archive = packing.pack(planned, publication, context)
        publication.finish()
        report = pack_report(archive, above, target)
    return _with_warnings(report, publication)


def apply(
    base: str | os.PathLike[str],
    archive: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    budget: Size | None = None,
    threads: int | None = None,
    progress: "bool | Callable[[Event], None]" = True,
    overwrite: bool = False,
    max_shard_size: Size = "5GB",
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
) -> "PackReport":
    """Make the fine-tune again from its base and what `pack` kept of it; bit for bit where k was 0.

    Args:
        base: what the archive was packed with; how it is cut into shards does not matter.
        archive: its directory.
        out: the directory that will appear, complete or not at all.
        budget: as for `merge`.
        threads: number of worker threads; default: one per core.
        progress: as for `merge`.
        overwrite: replace a directory that is there.
        max_shard_size: bytes of tensors in one output file.
        header_limit: bytes that an input's header may have.
        download: fetch the model from the Hub where it is not on this machine.

    Returns:
        The archive in numbers.

    Raises:
        ArchiveError: the archive is damaged, or the directory holds no archive.
        CheckpointError, PlanError: all that headers, disk and memory tell against it.
        OtherModelError: the model is not the one that the archive belongs to, by the checksum (XXH3-128, which is no
            signature) of a tensor.
        RunError: the data or the machine; nothing is left behind.
    """
    return _restored(
        "base",
        base,
        archive,
        out,
        _limits(budget, threads),
        progress,
        overwrite,
        max_shard_size,
        header_limit,
        download,
    )


def revert(
    model: str | os.PathLike[str],
    archive: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    budget: Size | None = None,
    threads: int | None = None,
    progress: "bool | Callable[[Event], None]" = True,
    overwrite: bool = False,
    max_shard_size: Size = "5GB",
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
) -> "PackReport":
    """Make the base again, bit for bit, from what `apply` makes: at k = 0 that is the fine-tune.

    Args, result and errors as for `apply`, with the model in the place of the base.
    """
    return _restored(
        "model",
        model,
        archive,
        out,
        _limits(budget, threads),
        progress,
        overwrite,
        max_shard_size,
        header_limit,
        download,
    )


def _restored(
    side: "Side",
    name: str | os.PathLike[str],
    archive: str | os.PathLike[str],
    out: str | os.PathLike[str],
    limits: Limits,
    progress: "bool | Callable[[Event], None]",
    overwrite: bool,
    max_shard_size: Size,
    header_limit: Size,
    download: bool,
) -> "PackReport":
    _check_progress(progress)
    from sdmw.archives.archive import read_archive
    from sdmw.archives.planning import plan_restoring
    from sdmw.checkpoints import formats
    from sdmw.storage.locate import locate

    most, limit = parse_size(max_shard_size, "max_shard_size"), parse_size(header_limit, "header_limit")
    target = os.fspath(out)
    model = formats.read(locate(ModelRef.parse(os.fspath(name)), download=download), header_limit=limit)
    packed = read_archive(os.fspath(archive))
    planned = plan_restoring(model, packed, side, most, target, limits, overwrite=overwrite)
    if planned.problems:
        raise PlanError(planned.problems)
    from sdmw.archives.restoring import restore
    from sdmw.reporting.packing import pack_report
    from sdmw.running.context import publishing, working

    with (
        _receiver(progress) as tell,
        working(tell, planned.threads) as context,
        publishing(context, target, planned.shards, [model], overwrite=overwrite) as publication,
    ):
        restore(planned, publication, context)
        publication.finish()
    return _with_warnings(pack_report(packed, model, target), publication)


def _with_warnings(report: AnyReport, publication: "Publication") -> AnyReport:
    """A report that also tells what is odd about the place of its output; publishing comes too late for its file."""
    told = dict.fromkeys((*report.warnings, *publication.warnings))
    return dataclasses.replace(report, warnings=tuple(told))


def _limits(budget: Size | None, threads: int | None) -> Limits:
    """What a call allows; UsageError where that is no number."""
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MOST_THREADS):
        raise UsageError([Problem("threads", f"a whole number from 1 to {MOST_THREADS}", quoted(threads))])
    return Limits(None if budget is None else parse_size(budget, "budget"), threads)


def _check_executor(executor: object) -> None:
    if not (executor is None or callable(executor) or isinstance(executor, Executor)):
        raise UsageError([Problem("executor", "an Executor, or a function that makes one", quoted(executor))])


def _check_progress(progress: object) -> None:
    if not (callable(progress) or isinstance(progress, bool)):
        raise UsageError([Problem("progress", "True, False or a callable", quoted(progress))])


@contextmanager
def _receiver(progress: "bool | Callable[[Event], None]") -> "Iterator[Callable[[Event], None]]":
    if callable(progress):
        yield progress
    elif progress:
        from sdmw.reporting.display import Display

        with Display() as display:
            yield display
    else:
        yield lambda _event: None
