"""Merges, planned, made and checked."""

from typing import TYPE_CHECKING, Annotated

import typer

from sdmw.commands.options import (
    Budget,
    Dask,
    Download,
    FollowLinks,
    HeaderLimit,
    IgnoreUnknown,
    IntermediateDir,
    Json,
    Overwrite,
    Quiet,
    RandomSeed,
    RecipeArgument,
    Restart,
    ShardSize,
    Statistics,
    Threads,
)
from sdmw.commands.results import print_json, show

if TYPE_CHECKING:
    from sdmw.running.dask_cluster import DaskCluster


def cluster(address: str | None) -> "DaskCluster | None":
    """The workers of a dask scheduler; None for no address."""
    from sdmw import api

    return None if address is None else api.dask_cluster(address)


def merge(
    recipe: RecipeArgument,
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="Directory to create, or an address such as s3://bucket/folder.")
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
    no_page: Annotated[bool, typer.Option("--no-page", help="Do not write the page sdmw_report.html.")] = False,
) -> None:
    """Merge checkpoints into a new one. An interrupted run of the same merge is resumed."""
    from sdmw import api
    from sdmw.reporting import terminal

    report = api.merge(
        recipe, out, threads=threads, budget=budget, max_shard_size=max_shard_size, overwrite=overwrite,
        ignore_unknown=ignore_unknown, download=download, follow_links=follow_links, header_limit=header_limit,
        random_seed=random_seed, intermediate_dir=intermediate_dir, resume=not restart, progress=not quiet,
        statistics=statistics, without=("page",) if no_page else (), executor=cluster(dask),
    )  # fmt: skip
    show(report, as_json, terminal.print_report, report.warnings, report.notes)


def plan(
    recipe: RecipeArgument,
    out: Annotated[str | None, typer.Argument(metavar="OUT", help="Directory or address of the result.")] = None,
    threads: Threads = None,
    dask: Dask = None,
    budget: Budget = None,
    max_shard_size: ShardSize = "5GB",
    overwrite: Overwrite = False,
    explain: Annotated[
        str | None,
        typer.Option(metavar="TENSOR", help="Show the inputs of one tensor and the recipe lines that apply to it."),
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
        typer.Option(
            metavar="RATE",
            help="Show where the time goes, at this disk speed per second: a size such as 2GB, or measured.",
        ),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            metavar="COUNTS", help="With --bandwidth: show the time on these numbers of workers, such as 1,2,4."
        ),
    ] = "",
) -> None:
    """Show what a merge would read, write and need. Lists all problems.

    Reads no tensor data, except with --bandwidth measured.
    """
    from sdmw import api
    from sdmw.reporting import terminal
    from sdmw.sizes import parse_counts

    if explain is not None:
        told = api.explain(
            recipe, explain, ignore_unknown=ignore_unknown, download=download, follow_links=follow_links,
            header_limit=header_limit,
        )  # fmt: skip
        if as_json:
            print_json(told.to_dict())
        else:
            terminal.print_explanation(told)
        return
    planned = api.plan(
        recipe, out, threads=threads, budget=budget, max_shard_size=max_shard_size, overwrite=overwrite,
        ignore_unknown=ignore_unknown, random_seed=random_seed, download=download, follow_links=follow_links,
        header_limit=header_limit, intermediate_dir=intermediate_dir, statistics=statistics, executor=cluster(dask),
        bandwidth=bandwidth, workers=parse_counts(workers, "workers") if workers else (),
    )  # fmt: skip
    if as_json:
        print_json(planned.to_dict())
    else:
        terminal.print_warnings(planned.warnings, planned.notes)
        if planned.base is not None:  # else there is nothing to count
            terminal.print_plan(planned)
            terminal.print_estimates(planned)
        for problem in planned.problems:
            terminal.print_error(str(problem))
    raise typer.Exit(1 if planned.problems else 0)


def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory made by sdmw merge.")],
    sample: Annotated[
        str | None, typer.Option(help="Share of tiles to compute again; default: 1%, or all of a small model.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Compute every tile again.")] = False,
    inputs: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Folder that holds the recipe's models; default: the current directory."),
    ] = None,
    threads: Threads = None,
    dask: Dask = None,
    quiet: Quiet = False,
    as_json: Json = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Check a merge against its report. Every byte is checked by checksum; a sample is computed again from the inputs.

    If the inputs are not found, only checksums are compared.
    """
    from sdmw import api
    from sdmw.reporting import terminal
    from sdmw.sizes import parse_share

    share = None if sample is None else parse_share(sample, "sample")
    found = api.verify(
        out, sample=1 if everything else share, inputs=inputs, threads=threads, header_limit=header_limit,
        download=download, follow_links=follow_links, progress=not quiet,
        executor=cluster(dask),
    )  # fmt: skip
    if as_json:
        print_json(found.to_dict())
    else:
        terminal.print_verification(found)
        for problem in found.problems:
            terminal.print_error(str(problem))
    raise typer.Exit(1 if found.problems else 0)
