"""The public functions; each composes the folders below and does nothing itself."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sdmw.checkpoints.formats import HEADER_LIMIT
from sdmw.checkpoints.target import check_target
from sdmw.errors import PlanError, Problem, UsageError, quoted
from sdmw.methods import all_methods
from sdmw.planning.build import Options, build
from sdmw.planning.inputs import open_inputs
from sdmw.planning.plan import Plan
from sdmw.recipes.load import load
from sdmw.recipes.recipe import Recipe
from sdmw.sizes import parse_size

if TYPE_CHECKING:
    from sdmw.reporting.extraction import ExtractionReport
    from sdmw.reporting.inspection import Inspection
    from sdmw.reporting.report import Report
    from sdmw.reporting.verification import Verification
    from sdmw.running.events import Event

RecipeLike = Recipe | Mapping[str, Any] | str | os.PathLike[str]
Size = int | str  # bytes, or text such as "5GB", "1GiB"

MOST_THREADS = 1024
HIGHEST_RANK = 4096


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
) -> "Report":
    """Merge checkpoints into a new one, out of core; what a killed run of the same merge has done is gone on with.

    Args:
        recipe: a `Recipe`, its content as a mapping, or the path of a YAML file.
        out: the directory that will appear, complete or not at all.
        budget: bytes of resident memory that the process may reach; by default what it has now and half of what is
            free, at most 1 GiB (three quarters, up to 256 MiB, where little is free).
        threads: that compute; by default one a core.
        progress: show it on standard error, or not, or call this with each `sdmw.running.events` object.
        overwrite: replace a directory that is there.
        max_shard_size: bytes of tensors in one output file.
        header_limit: bytes that an input's header may have; more than 100,000,000 the format forbids.
        download: fetch models that are not on this machine from the Hub.
        ignore_unknown: say unknown recipe fields and go on.
        resume: False begins anew where a killed run has left something.

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
    if not (callable(progress) or isinstance(progress, bool)):
        raise UsageError([Problem("progress", "True, False or a callable", quoted(progress))])
    planned = plan(
        recipe, out, budget=budget, threads=threads, overwrite=overwrite, max_shard_size=max_shard_size,
        header_limit=header_limit, download=download, ignore_unknown=ignore_unknown,
    )  # fmt: skip
    if planned.problems or planned.base is None:
        raise PlanError(planned.problems)
    # Only now what takes long to load: a plan, an inspection and a faulty recipe need neither kernels nor tables.
    from sdmw.checkpoints.output import Output
    from sdmw.checkpoints.tile_memory import tile_memory
    from sdmw.reporting.files import add_files
    from sdmw.reporting.report import build_report
    from sdmw.running.driver import Run
    from sdmw.running.events import Planned, Published
    from sdmw.running.journal import check_unchanged, head
    from sdmw.running.stop import StopSignals
    from sdmw.running.usage import Usage

    method = all_methods()[planned.recipe.merge_method]
    target = os.fspath(out)
    with (
        _receiver(progress) as tell,
        StopSignals() as signals,
        Usage() as usage,
        tile_memory(),
        Output.begin(target, planned.shards, overwrite=overwrite, head=head(planned), resume=resume) as output,
        ThreadPoolExecutor(planned.threads, thread_name_prefix="sdmw") as executor,
    ):
        tell(Planned(planned))
        outcome = Run(planned, method, executor, tell, signals).carry_out(output)
        output.finish()
        report = build_report(planned, outcome, usage)
        add_files(output, planned, planned.base, report)
        check_unchanged(planned.checkpoints)
        signals.check()
        output.publish()
        tell(Published(target))
    return report


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
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MOST_THREADS):
        raise UsageError([Problem("threads", f"a whole number from 1 to {MOST_THREADS}", quoted(threads))])
    options = Options(
        None if out is None else os.fspath(out),
        overwrite,
        parse_size(max_shard_size, "max_shard_size"),
        None if budget is None else parse_size(budget, "budget"),
        threads,
    )
    most_header = parse_size(header_limit, "header_limit")
    loaded = load(recipe, all_methods(), ignore_unknown=ignore_unknown)
    method = all_methods()[loaded.merge_method]
    inputs = open_inputs(loaded, deltas=method.needs_base, download=download, header_limit=most_header)
    if isinstance(inputs, list):
        problems = (*inputs, *(check_target(options.target, (), 0, overwrite) if options.target is not None else ()))
        return Plan(loaded, tuple(entry.model for entry in loaded.models), problems=problems, notes=loaded.notes)
    return build(loaded, method, inputs, options)


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
    from sdmw.checkpoints.locate import locate
    from sdmw.reporting.inspection import inspection

    path = locate(os.fspath(checkpoint), download=download)
    return inspection(formats.read(path, header_limit=parse_size(header_limit, "header_limit")))


def verify(out: str | os.PathLike[str], *, sample: float = 0.01, threads: int | None = None) -> "Verification":
    """Hold a merged checkpoint against its report: every byte by checksum, a sample computed anew from the inputs.

    The inputs must lie where the recipe in `out` says, seen from the current directory.

    Args:
        out: a directory that `merge` made.
        sample: the share of tiles that is computed anew, above 0; 1 for all of them.
        threads: that compute; by default one a core.

    Returns:
        What was looked at, and all that is wrong.

    Raises:
        UsageError: the sample is no share.
        CheckpointError: `out` is no checkpoint, or has no report.
        PlanError, RecipeError: its recipe cannot be planned any more: a model is missing, say.
        InputChangedError: an input is not the one that was merged.
    """
    if isinstance(sample, bool) or not isinstance(sample, int | float) or not 0 < sample <= 1:
        raise UsageError([Problem("sample", "a share above 0, at most 1", quoted(sample))])
    from sdmw.checkpoints import formats
    from sdmw.checkpoints.formats import adapter
    from sdmw.checkpoints.tile_memory import tile_memory
    from sdmw.reporting import verification

    path = os.fspath(out)
    report = verification.read_report(path)
    planned = plan(verification.recipe_of(path), threads=threads, ignore_unknown=True)
    if planned.problems or planned.base is None:
        raise PlanError(planned.problems)
    merged = adapter.read_matrices(path) if planned.makes_adapter else formats.read(path)
    method = all_methods()[planned.recipe.merge_method]
    with tile_memory(), ThreadPoolExecutor(planned.threads, thread_name_prefix="sdmw") as executor:
        return verification.verify(merged, report, planned, method, executor, sample)


def extract(
    base: str | os.PathLike[str],
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    rank: int = 32,
    progress: "bool | Callable[[Event], None]" = True,
    overwrite: bool = False,
    header_limit: Size = HEADER_LIMIT,
    download: bool = False,
) -> "ExtractionReport":
    """Approximate what a fine-tune changed by a PEFT adapter: every weight's delta by matrices of a rank.

    The decomposition is randomised, from numbers that depend on names alone; its last bits depend on the BLAS that
    NumPy has. A weight takes up to nine looks at its data, and in memory some rank + 8 rows and columns of float64.

    Args:
        base: what the fine-tune was made from.
        model: the fine-tune, with the same names and shapes.
        out: the adapter's directory, which will appear complete or not at all.
        rank: of the matrices, from 1.
        progress: as for `merge`.
        overwrite: replace a directory that is there.
        header_limit: bytes that an input's header may have.
        download: fetch models that are not on this machine from the Hub.

    Returns:
        The error of each weight, and what was left out because an adapter cannot say it.

    Raises:
        UsageError: the rank is none.
        CheckpointError, PlanError: all that the inputs' headers and the disk tell against it.
        RunError: the data or the machine; nothing is left behind.
    """
    if type(rank) is not int or not 1 <= rank <= HIGHEST_RANK:
        raise UsageError([Problem("rank", f"a whole number from 1 to {HIGHEST_RANK}", quoted(rank))])
    from sdmw.checkpoints import formats
    from sdmw.checkpoints.locate import locate
    from sdmw.checkpoints.output import Output
    from sdmw.checkpoints.tile_memory import tile_memory
    from sdmw.planning.extraction import plan_extraction
    from sdmw.reporting.extraction import add_files, extraction_report
    from sdmw.running.events import Published
    from sdmw.running.extraction import carry_out
    from sdmw.running.journal import check_unchanged
    from sdmw.running.stop import StopSignals

    limit, names, target = parse_size(header_limit, "header_limit"), (os.fspath(base), os.fspath(model)), os.fspath(out)
    below, above = (formats.read(locate(name, download=download), header_limit=limit) for name in names)
    planned = plan_extraction(below, above, rank, target, overwrite=overwrite)
    if planned.problems:
        raise PlanError(planned.problems)
    with (
        _receiver(progress) as tell,
        StopSignals() as signals,
        tile_memory(),
        Output.begin(target, planned.shards, overwrite=overwrite, resume=False) as output,
    ):
        weights, left_out = carry_out(planned, output, tell, signals)
        output.finish()
        report = extraction_report(planned, target, weights, left_out)
        add_files(output, planned, report, *names)
        check_unchanged([below, above])
        output.publish()
        tell(Published(target))
    return report


@contextmanager
def _receiver(progress: "bool | Callable[[Event], None]") -> "Iterator[Callable[[Event], None]]":
    if callable(progress):
        yield progress
    elif progress:
        from sdmw.reporting.terminal import Display

        with Display() as display:
            yield display
    else:
        yield lambda _event: None
