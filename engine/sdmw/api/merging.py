"""Merging: planned, written, or opened without being written."""

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from sdmw.addresses import is_remote
from sdmw.api import documents, timing
from sdmw.api.arguments import (
    Path,
    ProgressLike,
    RecipeLike,
    Size,
    access_of,
    check_executor,
    check_progress,
    limits_of,
    path_of,
    receiver,
    sound,
    with_warnings,
)
from sdmw.errors import PlanError, Problem, UsageError, quoted
from sdmw.methods import all_methods
from sdmw.planning.build import Options, kernels_of
from sdmw.planning.plan import Plan
from sdmw.planning.prepared import Prepared, prepare
from sdmw.recipes.load import load
from sdmw.recipes.recipe import Recipe
from sdmw.sizes import parse_size
from sdmw.storage.access import Access
from sdmw.storage.files import HEADER_LIMIT

DEFAULT_SHARD = "5GB"

if TYPE_CHECKING:
    from sdmw.planning.explain import Explanation
    from sdmw.reporting.report import Report
    from sdmw.running.measuring import Known
    from sdmw.running.pool import ExecutorLike
    from sdmw.running.reader import MergeReader
    from sdmw.stores.store import Store
    from sdmw.writing.output import Output


def merge(
    recipe: RecipeLike,
    out: Path,
    *,
    budget: Size | None = None,
    threads: int | None = None,
    progress: ProgressLike = True,
    overwrite: bool = False,
    max_shard_size: Size = DEFAULT_SHARD,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    follow_links: bool = False,
    ignore_unknown: bool = False,
    random_seed: int | None = None,
    without: Collection[str] = (),
    intermediate_dir: Path | None = None,
    resume: bool = True,
    executor: "ExecutorLike" = None,
    statistics: "Store | Path | None" = None,
) -> "Report":
    """Merge checkpoints into a new one, out of core. An interrupted run of the same merge is resumed.

    Args:
        recipe: a `Recipe`, its content as a mapping, or the path of a YAML file.
        out: the directory to create, complete or not at all; or the address of a folder in a store, such as
            `s3://bucket/folder`, where the config and the index appear last.
        budget: bytes of resident memory that the process may reach; by default what it has now and half of what is
            free, at most 1 GiB (seven eighths, up to 256 MiB, where little is free).
        threads: number of worker threads, or of the executor's workers to be kept busy; default: one per core.
        progress: True shows progress on standard error; a callable receives each `sdmw.running.events` object.
        overwrite: replace an existing directory.
        max_shard_size: bytes of tensors in one output file.
        header_limit: the largest header of an input file, in bytes; the format allows up to 100,000,000.
        download: download models that are not in the local Hub cache.
        follow_links: follow links out of a model's folder. An untrusted model then chooses which files are read.
        ignore_unknown: report unknown recipe fields and continue.
        random_seed: the seed of random methods, in place of the recipe's; it is recorded.
        without: parts to leave out of the output: "tokenizer" (its files), "card" (README.md), "page"
            (sdmw_report.html).
        intermediate_dir: of a recipe of several documents, where those that others use are written, each in a folder
            called as it is; one that is there already, of the same recipe and inputs, is read as it is. By default
            they are computed wherever they are read. Where all documents have names, each is written to such a folder
            in `out`.
        resume: False starts over instead of resuming an interrupted run.
        executor: where tasks run: None for threads of this process; an executor of yours, such as a
            `ProcessPoolExecutor` (if it breaks, the merge ends with an error and can be resumed); or a function that
            makes one, called again up to three times when a worker is lost. `dask_cluster(ADDRESS)` returns
            such a function. Workers in other processes must see the same files; the budget holds for each of them
            separately.
        statistics: for `sdm_w`, a store that `measure` made of the same inputs. Layers that it decides are not measured
            again. The result has the same bits.

    Returns:
        What was found and what it took; `sdmw_report.json` in the output says the same. Of several that are written,
        that of the last.

    Raises:
        RecipeError: the recipe is wrong.
        UsageError: another argument is wrong.
        PlanError: all problems of inputs, disk and memory that are known in advance; nothing was written.
        ResumeError: an interrupted run is kept, but recipe, inputs, plan or version have changed since.
        RunError: an error of the data or the machine. Finished work is kept beside the target if neither recipe nor
            inputs are at fault (`resumable`); otherwise nothing is kept.
    """
    check_progress(progress)
    check_executor(executor)
    loaded = _loaded(recipe, ignore_unknown, random_seed)
    target, folder = path_of(out), None if intermediate_dir is None else path_of(intermediate_dir)
    places = documents.places_of(loaded, target, folder)
    options = _options(
        documents.target_of(loaded, target, folder), budget, threads, overwrite, max_shard_size, without, executor
    )
    access = access_of(header_limit, download, follow_links)
    prepared = prepare(_noted(loaded, places), options, access)
    if places:
        sound(prepared.plan())
        for each in loaded.documents:
            own = replace(options, target=places[each.name])
            step = prepare(documents.alone(each, places), own, access)
            if not documents.is_made(step):
                _written(step, progress, executor, resume)
        prepared = prepare(documents.alone(_noted(loaded, places), places), options, access)
    return _written(prepared, progress, executor, resume, statistics)


def _written(
    prepared: Prepared,
    progress: ProgressLike,
    executor: "ExecutorLike",
    resume: bool,
    statistics: "Store | Path | None" = None,
) -> "Report":
    """Carry out one merge."""
    out, overwrite = prepared.options.target, prepared.options.overwrite
    assert out is not None
    planned = sound(prepared.plan())
    from sdmw.running.context import load_kernels, publishing, uploading, working
    from sdmw.running.usage import Usage

    with receiver(progress) as heard, Usage() as usage:
        tell = usage.hearing(heard)
        if not load_kernels(tell, kernels := kernels_of(planned)):
            planned = sound(prepared.plan())
        # Only now what takes long to load: a plan, an inspection and a faulty recipe need neither kernels nor tables.
        from sdmw.reporting.files import add_files
        from sdmw.reporting.report import REPORT, build_report, model_reports
        from sdmw.running.documents import settled_with_documents
        from sdmw.running.driver import Run, nothing_known
        from sdmw.running.events import Planned
        from sdmw.running.identity import identity_of

        with working(tell, planned.threads, executor, kernels, planned.checkpoints) as context:
            planned = settled_with_documents(prepared, planned, context)
            known = nothing_known if statistics is None else _known(planned, statistics, sampled=True)
            place = context, out, planned.shards, planned.checkpoints
            threads = planned.threads
            with (
                uploading(*place, overwrite=overwrite, threads=threads) if is_remote(out) else
                publishing(
                    *place, overwrite=overwrite, identity=identity_of(planned), resume=resume, threads=threads
                )
            ) as publication:  # fmt: skip
                tell(Planned(planned))
                outcome = Run(planned, context, known).carry_out(publication)
                publication.finish()
                models = model_reports(planned, outcome.decisions)
                add_files(publication, planned, models, outcome.nonfinite)
                report = build_report(planned, outcome, usage, models, publication.checksums())
                report = with_warnings(report, publication)
                publication.add(REPORT, report.to_json().encode())
                if planned.page:
                    _add_page(publication, report, planned.recipe.text)
    return with_warnings(report, publication)


def _add_page(publication: "Output", report: "Report", recipe: str) -> None:
    """Add what people look at. A merge of hours is not lost where that cannot be made: `sdmw report` can try again."""
    from sdmw.reporting.pages.page import NAME

    try:
        from sdmw.reporting.pages.merge import page_of_merge
        from sdmw.reporting.pages.rendering import html_of

        page = html_of(page_of_merge(report, recipe)).encode()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"[:300]
        publication.warnings.append(
            f"no {NAME} was written ({said}); all other files are complete, and sdmw report writes the page"
        )
        return
    publication.add(NAME, page)


def _known(planned: Plan, statistics: "Store | Path", *, sampled: bool) -> "Known":
    from sdmw.stores.spared import known_or_decided
    from sdmw.stores.store import Store, read_store

    store = statistics if isinstance(statistics, Store) else read_store(path_of(statistics))
    if planned.target is not None and os.path.realpath(store.path) == os.path.realpath(planned.target):
        found = f"{quoted(store.path)}, which the output would replace"
        raise PlanError([Problem("statistics", "a store outside the output", found)])
    return known_or_decided(planned, store, sampled=sampled)


def plan(
    recipe: RecipeLike,
    out: Path | None = None,
    *,
    budget: Size | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    max_shard_size: Size = DEFAULT_SHARD,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    follow_links: bool = False,
    ignore_unknown: bool = False,
    random_seed: int | None = None,
    without: Collection[str] = (),
    intermediate_dir: Path | None = None,
    executor: "ExecutorLike" = None,
    statistics: "Store | Path | None" = None,
    bandwidth: Size | None = None,
    workers: Collection[int] = (),
) -> Plan:
    """Plan a merge: what it would do, and in `Plan.problems` every problem that headers show; no tensor data are read.

    Args and errors as for `merge`, except that problems of the plan are returned. Without `out`, the output is not
    checked. Of several documents the last is planned; the others are checked. With `statistics` the plan counts what
    the store saves (`spared`), and what must still be read of that (`read_again`).

    With `bandwidth` the plan shows where the time goes (`estimates`). Give the bytes a second that the disks read and
    write together, or "measured": then up to 256 MiB of the inputs are read, a file of that size is written beside
    `out` and removed, and a kernel is timed. `workers` asks the same for other numbers of workers, each with a core of
    its own.

    Raises, beside what `merge` does:
        UsageError: inputs to be measured are in an object store, or a number of workers is not valid.
        RunError: measuring could not read or write.
    """
    asked = timing.asked_of(bandwidth, workers)
    loaded = _loaded(recipe, ignore_unknown, random_seed)
    target = None if out is None else path_of(out)
    folder = None if intermediate_dir is None else path_of(intermediate_dir)
    places = documents.places_of(loaded, target, folder)
    options = _options(
        documents.target_of(loaded, target, folder), budget, threads, overwrite, max_shard_size, without, executor
    )
    planned = prepare(_noted(loaded, places), options, access_of(header_limit, download, follow_links)).plan()
    if statistics is not None and not planned.problems:
        planned = _with_spared(planned, statistics)
    return timing.with_estimates(planned, asked, executor) if asked and not planned.problems else planned


def _with_spared(planned: Plan, statistics: "Store | Path") -> Plan:
    from sdmw.stores.spared import spared_of

    try:
        found = spared_of(planned, _known(planned, statistics, sampled=False))
    except PlanError as error:
        return replace(planned, problems=error.problems)
    return replace(planned, spared=found.spared, read_again=found.again)


def explain(
    recipe: RecipeLike,
    tensor: str,
    *,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    follow_links: bool = False,
    ignore_unknown: bool = False,
) -> "Explanation":
    """Show the inputs of one tensor of a merge, and the recipe line of each of its values; no data are read.

    Args:
        recipe: as for `merge`.
        tensor: its name in the output.
        header_limit: the largest header of an input file, in bytes.
        download: download models that are not in the local Hub cache.
        follow_links: follow links out of a model's folder. An untrusted model then chooses which files are read.
        ignore_unknown: report unknown recipe fields and continue.

    Raises:
        RecipeError, UsageError: as for `merge`.
        PlanError: there is no such tensor, or the inputs have problems (all are listed).
    """
    access = access_of(header_limit, download, follow_links)
    return prepared_of(recipe, access, ignore_unknown=ignore_unknown).explain(tensor)


def open(  # noqa: A001  the word of safetensors
    recipe: RecipeLike,
    *,
    budget: Size | None = None,
    threads: int | None = None,
    progress: ProgressLike = True,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
    follow_links: bool = False,
    ignore_unknown: bool = False,
    random_seed: int | None = None,
    executor: "ExecutorLike" = None,
) -> "MergeReader":
    """Open a merge without writing it: its tensors are computed when they are read, bit for bit as `merge` writes them.

    Methods that measure read the inputs once in this call; each tensor that is read later reads its own inputs again.

    Args:
        recipe: as for `merge`.
        budget: as for `merge`; it bounds this call, not the arrays that are read later.
        threads: as for `merge`.
        progress: as for `merge`.
        header_limit: the largest header of an input file, in bytes.
        download: download models that are not in the local Hub cache.
        follow_links: follow links out of a model's folder. An untrusted model then chooses which files are read.
        ignore_unknown: report unknown recipe fields and continue.
        random_seed: as for `merge`.
        executor: as for `merge`.

    Returns:
        `keys()`, `get_tensor(name)` and `get_slice(name)[...]`, as `safetensors.safe_open` has them.

    Raises:
        RecipeError, UsageError, PlanError: as for `merge`.
        RunError: inputs changed, are not finite, or cannot be read.
    """
    check_progress(progress)
    check_executor(executor)
    access = access_of(header_limit, download, follow_links)
    prepared = prepared_of(
        recipe, access, budget=budget, threads=threads, ignore_unknown=ignore_unknown, random_seed=random_seed,
        executor=executor,
    )  # fmt: skip
    planned = sound(prepared.plan())
    from sdmw.running.context import load_kernels, working

    with receiver(progress) as tell:
        if not load_kernels(tell, kernels := kernels_of(planned)):
            planned = sound(prepared.plan())
        from sdmw.running.documents import settled_with_documents
        from sdmw.running.driver import Run
        from sdmw.running.job import Job
        from sdmw.running.merged import opened
        from sdmw.running.reader import MergeReader

        with working(tell, planned.threads, executor, kernels, planned.checkpoints) as context:
            planned = settled_with_documents(prepared, planned, context)
            decisions = Run(planned, context).decide()
    return MergeReader(opened(Job(planned, decisions)))


def prepared_of(
    recipe: RecipeLike,
    access: Access,
    *,
    budget: Size | None = None,
    threads: int | None = None,
    ignore_unknown: bool = False,
    random_seed: int | None = None,
    executor: object = None,
) -> Prepared:
    """A recipe whose result is not written, with its inputs open; arguments and errors as for `merge`."""
    options = _options(
        None, budget, threads, overwrite=False, max_shard_size=DEFAULT_SHARD, without=(), executor=executor
    )
    return prepare(_noted(_loaded(recipe, ignore_unknown, random_seed), {}), options, access)


def _options(
    target: str | None,
    budget: Size | None,
    threads: int | None,
    overwrite: bool,
    max_shard_size: Size,
    without: Collection[str],
    executor: object = None,
) -> Options:
    if without and (unknown := set(without) - {"tokenizer", "card", "page"}):
        raise UsageError([Problem("without", "tokenizer, card, page", quoted(sorted(unknown)[0]))])
    if target is not None and is_remote(target) and executor is not None:
        mend = "Leave it out (--dask), or write to a folder that all workers see"
        expected = "threads of this process, as the output is an address"
        raise UsageError([Problem("executor", expected, "an executor", mend)])
    limits, most = limits_of(budget, threads, executor), parse_size(max_shard_size, "max_shard_size")
    return Options(target, overwrite, most, limits, frozenset(without))


def _loaded(recipe: RecipeLike, ignore_unknown: bool, random_seed: int | None) -> Recipe:
    """A recipe, checked; all its documents draw from the seed, if one is given."""
    methods = all_methods()
    loaded = load(recipe, methods, ignore_unknown=ignore_unknown)
    if random_seed is None:
        return loaded
    others = tuple(replace(each, random_seed=random_seed) for each in loaded.documents)
    seeded = replace(loaded, random_seed=random_seed, documents=others)
    return load(seeded, methods, ignore_unknown=ignore_unknown)


def _noted(recipe: Recipe, places: Mapping[str, str]) -> Recipe:
    return replace(recipe, notes=(*recipe.notes, *documents.notes_on(recipe, places)))
