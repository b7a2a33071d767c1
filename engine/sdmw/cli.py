"""The command line: one command for each api function; results on standard output, all else on standard error."""

import io
import shlex
import sys
import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdmw.mergekit import mergekit_yaml
from sdmw.running.stop import own_signals, until_exit
from sdmw.version import __version__

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from sdmw.reporting.packing import PackReport
    from sdmw.reporting.report import Report
    from sdmw.running.dask_cluster import DaskCluster

app = typer.Typer(
    name="sdmw",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="YAML file; mergekit's language.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of worker threads; default: one per core.")]
ExtractThreads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Number of worker threads; default: 1, as BLAS has its own.")
]
Budget = Annotated[str | None, typer.Option(help="Limit of resident memory, for instance 1GiB.")]
ShardSize = Annotated[str, typer.Option(help="Bytes of tensors in one output file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")]
RandomSeed = Annotated[
    int | None, typer.Option(min=0, help="What is left to chance draws from it; the recipe's if absent.")
]
IgnoreUnknown = Annotated[bool, typer.Option("--ignore-unknown", help="Report unknown recipe fields and go on.")]
Download = Annotated[bool, typer.Option("--download", help="Download models not in the local Hub cache.")]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Follow links out of a model's directory.")]
IntermediateDir = Annotated[
    str | None, typer.Option(metavar="DIR", help="Where documents are written that others use, each as DIR/NAME.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Drop what an interrupted run left; start anew.")]
Dask = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Compute on the workers of this dask scheduler.")]
Statistics = Annotated[
    str | None, typer.Option(metavar="STORE", help="What sdmw measure made of the same models: it is not read again.")
]
HeaderLimit = Annotated[str, typer.Option(help="Largest header of an input file.")]


EPILOG = """\b
Example:
  sdmw plan recipe.yaml merged     what it would read, write and need
  sdmw merge recipe.yaml merged
  sdmw verify merged

\b
Exit codes:
  0             done
  1             a fault of inputs, data or machine
  2             a fault of the recipe or the call
  130, 143, 129 ended by SIGINT, SIGTERM, SIGHUP
"""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sdmw {__version__}")
        raise typer.Exit


@app.callback(epilog=EPILOG)
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Merge large language models out of core: exact, in bounded memory, at the speed of the disk."""


@app.command()
def merge(
    recipe: RecipeArgument,
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="Directory that will appear, or address: s3://bucket/folder.")
    ],
    threads: Threads = None,
    dask: Dask = None,
    budget: Budget = None,
    max_shard_size: ShardSize = "5GB",
    overwrite: Overwrite = False,
    restart: Restart = False,
    quiet: Quiet = False,
    as_json: Json = False,
    random_seed: RandomSeed = None,
    ignore_unknown: IgnoreUnknown = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
    intermediate_dir: IntermediateDir = None,
    statistics: Statistics = None,
    no_page: Annotated[
        bool, typer.Option("--no-page", help="Leave out sdmw_report.html, the page for people.")
    ] = False,
) -> None:
    """Merge checkpoints into a new one. An interrupted run of the same merge is resumed."""
    from sdmw import api

    report = api.merge(
        recipe, out, threads=threads, budget=budget, max_shard_size=max_shard_size, overwrite=overwrite,
        ignore_unknown=ignore_unknown, download=download, follow_links=follow_links, header_limit=header_limit,
        random_seed=random_seed, intermediate_dir=intermediate_dir, resume=not restart, progress=not quiet,
        statistics=statistics, without=("page",) if no_page else (), executor=_cluster(dask),
    )  # fmt: skip
    _print_merged(report, as_json)


@app.command()
def plan(
    recipe: RecipeArgument,
    out: Annotated[str | None, typer.Argument(metavar="OUT", help="Where the result would go.")] = None,
    threads: Threads = None,
    dask: Dask = None,
    budget: Budget = None,
    max_shard_size: ShardSize = "5GB",
    overwrite: Overwrite = False,
    explain: Annotated[
        str | None, typer.Option(metavar="TENSOR", help="Show what one tensor is made from, and by which lines.")
    ] = None,
    as_json: Json = False,
    random_seed: RandomSeed = None,
    ignore_unknown: IgnoreUnknown = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
    intermediate_dir: IntermediateDir = None,
    statistics: Statistics = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(metavar="RATE", help="Bytes a second of the disks, as 2GB, or measured: show where time goes."),
    ] = None,
    workers: Annotated[
        str, typer.Option(metavar="COUNTS", help="With --bandwidth: the time on so many workers, as 1,2,4.")
    ] = "",
) -> None:
    """Show what a merge would read, write and need. Lists all problems; reads no tensor data, unless to measure."""
    from sdmw import api
    from sdmw.reporting import terminal
    from sdmw.sizes import parse_counts

    if explain is not None:
        told = api.explain(
            recipe, explain, ignore_unknown=ignore_unknown, download=download, follow_links=follow_links,
            header_limit=header_limit,
        )  # fmt: skip
        if as_json:
            _print_json(told.to_dict())
        else:
            terminal.print_explanation(told)
        return
    planned = api.plan(
        recipe, out, threads=threads, budget=budget, max_shard_size=max_shard_size, overwrite=overwrite,
        ignore_unknown=ignore_unknown, random_seed=random_seed, download=download, follow_links=follow_links,
        header_limit=header_limit, intermediate_dir=intermediate_dir, statistics=statistics, executor=_cluster(dask),
        bandwidth=bandwidth, workers=parse_counts(workers, "workers") if workers else (),
    )  # fmt: skip
    if as_json:
        _print_json(planned.to_dict())
    else:
        terminal.print_warnings(planned.warnings, planned.notes)
        if planned.base is not None:  # else there is nothing to count
            terminal.print_plan(planned)
            terminal.print_estimates(planned)
        for problem in planned.problems:
            terminal.print_error(str(problem))
    raise typer.Exit(1 if planned.problems else 0)


@app.command()
def inspect(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Directory, or id in the Hub cache.")],
    as_json: Json = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Show what is in a checkpoint."""
    from sdmw import api
    from sdmw.reporting import terminal

    found = api.inspect(checkpoint, header_limit=header_limit, download=download, follow_links=follow_links)
    if as_json:
        _print_json(found.to_dict())
    else:
        terminal.print_warnings(found.warnings, [])
        terminal.print_inspection(found)


@app.command()
def extract(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Directory, or id in the Hub cache.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A fine-tune of it.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory of the adapter that will appear.")],
    rank: Annotated[int, typer.Option(metavar="N", help="Rank of the adapter's matrices.")] = 32,
    threads: ExtractThreads = None,
    budget: Budget = None,
    overwrite: Overwrite = False,
    restart: Restart = False,
    quiet: Quiet = False,
    as_json: Json = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Approximate a fine-tune by a PEFT adapter. Prints the error of each weight. An interrupted run is resumed."""
    from sdmw import api
    from sdmw.reporting import terminal

    report = api.extract(
        base, model, out, rank=rank, threads=threads, budget=budget, overwrite=overwrite, download=download,
        follow_links=follow_links, header_limit=header_limit, resume=not restart, progress=not quiet,
    )  # fmt: skip
    terminal.print_warnings(report.warnings, [])
    if as_json:
        _print_json(report.to_dict())
    else:
        terminal.print_extraction(report)


@app.command()
def measure(
    recipe: RecipeArgument,
    store: Annotated[str, typer.Argument(metavar="STORE", help="Directory of the store that will appear.")],
    threads: Threads = None,
    budget: Budget = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace STORE if it exists.")] = False,
    restart: Restart = False,
    quiet: Quiet = False,
    as_json: Json = False,
    ignore_unknown: IgnoreUnknown = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
    add: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Add a model to those of RECIPE, and to STORE, which has them.")
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs/--no-pairs", help="With --add: read the others again, for pairs of models.")
    ] = True,
) -> None:
    """Store the statistics of what models changed.

    An interrupted run is resumed. The models are read once; layers that histograms do not decide, mostly of float32,
    once more for what the recipe's own settings decide. The store is a zarr group, which doctor, sweep, plan and merge
    --statistics read.
    """
    from sdmw import api
    from sdmw.reporting import terminal

    found = api.measure(
        recipe, store, threads=threads, budget=budget, overwrite=overwrite, ignore_unknown=ignore_unknown,
        download=download, follow_links=follow_links, header_limit=header_limit, progress=not quiet, add=add,
        pairs=pairs, resume=not restart,
    )  # fmt: skip
    terminal.print_warnings(found.warnings, [])
    if as_json:
        _print_json(found.to_dict())
    else:
        terminal.print_store(found)


@app.command()
def doctor(
    recipe: RecipeArgument,
    statistics: Annotated[
        str | None, typer.Option(metavar="STORE", help="What sdmw measure made of the same models: evidence.")
    ] = None,
    threads: Threads = None,
    budget: Budget = None,
    as_json: Json = False,
    ignore_unknown: IgnoreUnknown = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Show all that speaks against a merge, before it is made.

    Headers tell problems, warnings and notes; a store adds evidence and findings. Nothing is a verdict: the exit code
    is 1 only for problems that would stop the merge.
    """
    from sdmw import api
    from sdmw.reporting import terminal

    found = api.doctor(
        recipe, statistics=statistics, threads=threads, budget=budget, ignore_unknown=ignore_unknown,
        download=download, follow_links=follow_links, header_limit=header_limit,
    )  # fmt: skip
    if as_json:
        _print_json(found.to_dict())
    else:
        terminal.print_warnings(found.warnings, found.notes)
        terminal.print_diagnosis(found, recipe)
        for problem in found.problems:
            terminal.print_error(str(problem))
    raise typer.Exit(1 if found.problems else 0)


@app.command()
def sweep(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Directory that sdmw measure made.")],
    k: Annotated[str, typer.Option(help="Percents of nonzero deltas to drop.")] = "10",
    power: Annotated[str, typer.Option(help="Powers of the weights: 1 linear, 2 square.")] = "1",
    norm: Annotated[str, typer.Option(help="Norms that weigh: 1 sums magnitudes, 2 their squares.")] = "1",
    granularity: Annotated[str, typer.Option(help="Which tensors are cut together.")] = "tensor",
    lambda_: Annotated[str, typer.Option("--lambda", help="Scales of the merged delta: numbers, preserve_norm.")] = "1",
    scope: Annotated[str, typer.Option(help="Whose sums weigh: model, layer.")] = "model",
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
) -> None:
    """Show what SDM-W would decide at many settings.

    A store answers for every combination, without the models: of --k 0,10,50 --power 1,2 for six.
    """
    from sdmw import api
    from sdmw.reporting import terminal
    from sdmw.sizes import parse_numbers

    found = api.sweep(
        store,
        k=parse_numbers(k, "k"),
        power=parse_numbers(power, "power"),
        norm=[int(each) if each == int(each) else each for each in parse_numbers(norm, "norm")],
        granularity=granularity.split(","),
        lambda_=parse_numbers(lambda_, "lambda", "preserve_norm"),
        scope=scope.split(","),
    )
    if as_json:
        _print_json(found.to_dict())
    elif as_csv:
        sys.stdout.write(found.to_csv())
    else:
        terminal.print_sweep(found)


@app.command()
def report(
    of: Annotated[
        str | None, typer.Argument(metavar="OUT", help="Directory of a merge, or of a statistics store.")
    ] = None,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Compare two models, and show that.")
    ] = None,
    statistics: Annotated[
        str | None, typer.Option(metavar="STORE", help="Of a merge's inputs: how the models agree is told too.")
    ] = None,
    to: Annotated[str, typer.Option(metavar="FILE", help="The page that will appear.")] = "sdmw_report.html",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
    threads: Threads = None,
    budget: Budget = None,
    quiet: Quiet = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Write the page of a merge, a store, a comparison."""
    from sdmw import api

    if (of is None) == (compare is None):
        raise typer.BadParameter("give either a directory or --compare A B")
    shown = of if compare is None else api.compare(
        *compare, threads=threads, budget=budget, header_limit=header_limit, download=download,
        follow_links=follow_links, progress=not quiet,
    )  # fmt: skip
    assert shown is not None
    sys.stdout.write(f"{api.report(shown, to, statistics=statistics, overwrite=overwrite)}\n")


@app.command()
def pack(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Directory, or id in the Hub cache.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A fine-tune of it, or a merge.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory of the archive that will appear.")],
    k: Annotated[float, typer.Option("--k", help="Percent of nonzero deltas to drop, per tensor.")] = 0.0,
    threads: Threads = None,
    budget: Budget = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Store what a model changed, sparse and exact to the bit."""
    from sdmw import api

    report = api.pack(
        base, model, out, k=k, threads=threads, budget=budget, overwrite=overwrite, download=download,
        follow_links=follow_links, header_limit=header_limit, progress=not quiet,
    )  # fmt: skip
    _print_packed(report, as_json)


@app.command()
def apply(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The base that the archive was packed with.")],
    archive: Annotated[str, typer.Argument(metavar="ARCHIVE", help="Directory that sdmw pack made.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory that will appear.")],
    threads: Threads = None,
    budget: Budget = None,
    max_shard_size: ShardSize = "5GB",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Make the packed model again from its base and the archive."""
    from sdmw import api

    report = api.apply(
        base, archive, out, threads=threads, budget=budget, max_shard_size=max_shard_size, overwrite=overwrite,
        download=download, follow_links=follow_links, header_limit=header_limit, progress=not quiet,
    )  # fmt: skip
    _print_packed(report, as_json)


@app.command()
def revert(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="What sdmw apply makes with the archive.")],
    archive: Annotated[str, typer.Argument(metavar="ARCHIVE", help="Directory that sdmw pack made.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory that will appear.")],
    threads: Threads = None,
    budget: Budget = None,
    max_shard_size: ShardSize = "5GB",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Make the base again from the packed model and the archive."""
    from sdmw import api

    report = api.revert(
        model, archive, out, threads=threads, budget=budget, max_shard_size=max_shard_size, overwrite=overwrite,
        download=download, follow_links=follow_links, header_limit=header_limit, progress=not quiet,
    )  # fmt: skip
    _print_packed(report, as_json)


@app.command()
def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory that sdmw merge made.")],
    sample: Annotated[
        str | None, typer.Option(help="Share of tiles to compute again; default: 1%, all of a small model.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Compute every tile again.")] = False,
    inputs: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Folder that holds the recipe's models; default: here.")
    ] = None,
    threads: Threads = None,
    dask: Dask = None,
    quiet: Quiet = False,
    as_json: Json = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Check a merge against its report. Every byte by checksum; a sample is computed again from the inputs.

    Where the inputs are not found, checksums alone are compared.
    """
    from sdmw import api
    from sdmw.reporting import terminal
    from sdmw.sizes import parse_share

    share = None if sample is None else parse_share(sample, "sample")
    found = api.verify(
        out, sample=1 if everything else share, inputs=inputs, threads=threads, header_limit=header_limit,
        download=download, follow_links=follow_links, progress=not quiet,
        executor=_cluster(dask),
    )  # fmt: skip
    if as_json:
        _print_json(found.to_dict())
    else:
        terminal.print_verification(found)
        for problem in found.problems:
            terminal.print_error(str(problem))
    raise typer.Exit(1 if found.problems else 0)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A model as in recipes: directory, id in the Hub cache.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another; model+adapter, or an adapter alone, of A.")],
    sort: Annotated[
        str, typer.Option(metavar="KEY", help="changed, sum, largest or ratio, the largest first; or name.")
    ] = "ratio",
    only: Annotated[
        str | None, typer.Option(metavar="KIND", help="Show changed, equal or missing (not compared) tensors alone.")
    ] = None,
    filter: Annotated[  # noqa: A002  the word of recipes
        str | None, typer.Option(metavar="GLOB", help="Compare tensors with this in their names; * ? [] match any.")
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Tensors to show; default: 10, all with --json.")] = None,
    threads: Threads = None,
    budget: Budget = None,
    quiet: Quiet = False,
    as_json: Json = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Show how two checkpoints differ, by tensor. The exit code is 0 whether they differ or not."""
    from sdmw import api
    from sdmw.reporting import comparison_lines, terminal

    found = api.compare(
        a, b, sort=sort, only=only, filter=filter, top=top if as_json else top or comparison_lines.TOP, threads=threads,
        budget=budget, header_limit=header_limit, download=download, follow_links=follow_links, progress=not quiet,
    )  # fmt: skip
    terminal.print_warnings(found.warnings, [])
    if as_json:
        _print_json(found.to_dict())
    else:
        terminal.print_comparison(found)


app.command("mergekit-yaml")(mergekit_yaml)


def main() -> None:
    """The entry point: any failure is one message and an exit code, never a traceback."""
    with until_exit():
        _run()


def _run() -> None:
    from sdmw.errors import SdmwError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal cannot show
    if type(sys.stdout) is io.TextIOWrapper:
        before, raw = sys.stdout, _Output(sys.stdout.fileno(), "wb", closefd=False)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), before.encoding, "backslashreplace", line_buffering=before.line_buffering
        )
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                app()
            finally:
                sys.stdout.flush()  # here, where an error is reported
    except SdmwError as error:
        own_signals().end()  # the exit code is known
        from sdmw.reporting.terminal import print_error, print_note

        print_error(str(error))
        for note in getattr(error, "__notes__", []):
            print_note(f"{note}. Go on with: {_same_command()}")
        sys.exit(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


class _Output(io.FileIO):
    """Standard output whose reader may leave, as `head` does: what follows is dropped, and is no error."""

    def write(self, data: "Buffer", /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Ours as one line; those of other packages with their place in the source."""
    ours = category.__module__.startswith("sdmw.")
    sys.stderr.write(f"warning: {message}\n" if ours else warnings.formatwarning(message, category, filename, lineno))


def _same_command() -> str:
    return shlex.join(["sdmw", *(each for each in sys.argv[1:] if each != "--restart")])


def _cluster(address: str | None) -> "DaskCluster | None":
    from sdmw import api

    return None if address is None else api.dask_cluster(address)


def _print_merged(report: "Report", as_json: bool) -> None:
    from sdmw.reporting import terminal

    terminal.print_warnings(report.warnings, report.notes)
    if as_json:
        _print_json(report.to_dict())
    else:
        terminal.print_report(report)


def _print_packed(report: "PackReport", as_json: bool) -> None:
    from sdmw.reporting import terminal

    terminal.print_warnings(report.warnings, [])
    if as_json:
        _print_json(report.to_dict())
    else:
        terminal.print_packed(report)


def _print_json(data: dict[str, Any]) -> None:
    from sdmw.reporting.as_json import as_json

    sys.stdout.buffer.write(as_json(data).encode())  # JSON is UTF-8 whatever the terminal is
