"""Statistics stores, and what they answer; pages."""

import sys
from typing import Annotated

import typer

from sdmw.commands.options import (
    Budget,
    Download,
    FollowLinks,
    HeaderLimit,
    IgnoreUnknown,
    Json,
    Quiet,
    RecipeArgument,
    Restart,
    Threads,
)
from sdmw.commands.results import print_json, show


def measure(
    recipe: RecipeArgument,
    store: Annotated[str, typer.Argument(metavar="STORE", help="Store directory to create.")],
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
        str | None, typer.Option(metavar="MODEL", help="Add MODEL to STORE, which already holds the models of RECIPE.")
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs/--no-pairs", help="With --add: read the other models again, to measure all pairs.")
    ] = True,
) -> None:
    """Measure what models changed, and store the statistics.

    An interrupted run is resumed. The models are read once; layers that histograms cannot decide, mostly of float32,
    are read once more for the recipe's own settings. The store is a zarr group that doctor, sweep, plan and merge
    --statistics read.
    """
    from sdmw import api
    from sdmw.reporting import terminal

    found = api.measure(
        recipe, store, threads=threads, budget=budget, overwrite=overwrite, ignore_unknown=ignore_unknown,
        download=download, follow_links=follow_links, header_limit=header_limit, progress=not quiet, add=add,
        pairs=pairs, resume=not restart,
    )  # fmt: skip
    show(found, as_json, terminal.print_store, found.warnings)


def doctor(
    recipe: RecipeArgument,
    statistics: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="Statistics store of the same models, for evidence and findings."),
    ] = None,
    threads: Threads = None,
    budget: Budget = None,
    as_json: Json = False,
    ignore_unknown: IgnoreUnknown = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Check a merge before it is made.

    Headers show problems, warnings and notes; a store adds evidence and findings. Findings are not a verdict: the
    exit code is 1 only for problems that would stop the merge.
    """
    from sdmw import api
    from sdmw.reporting import terminal

    found = api.doctor(
        recipe, statistics=statistics, threads=threads, budget=budget, ignore_unknown=ignore_unknown,
        download=download, follow_links=follow_links, header_limit=header_limit,
    )  # fmt: skip
    if as_json:
        print_json(found.to_dict())
    else:
        terminal.print_warnings(found.warnings, found.notes)
        terminal.print_diagnosis(found, recipe)
        for problem in found.problems:
            terminal.print_error(str(problem))
    raise typer.Exit(1 if found.problems else 0)


def sweep(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Store directory made by sdmw measure.")],
    k: Annotated[str, typer.Option(help="Percentages of nonzero deltas to drop.")] = "10",
    power: Annotated[str, typer.Option(help="Powers of the weights: 1 linear, 2 square.")] = "1",
    norm: Annotated[str, typer.Option(help="Norms that give the weights: 1 sums magnitudes, 2 their squares.")] = "1",
    granularity: Annotated[str, typer.Option(help="Tensors that share a threshold.")] = "tensor",
    lambda_: Annotated[str, typer.Option("--lambda", help="Scales of the merged delta: numbers, preserve_norm.")] = "1",
    scope: Annotated[str, typer.Option(help="Scope of the weights: model, layer.")] = "model",
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
) -> None:
    """Show what SDM-W would decide with many settings.

    The store is enough; the models are not read. Every combination is shown: --k 0,10,50 --power 1,2 makes six.
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
        print_json(found.to_dict())
    elif as_csv:
        sys.stdout.write(found.to_csv())
    else:
        terminal.print_sweep(found)


def report(
    of: Annotated[
        str | None, typer.Argument(metavar="OUT", help="Directory of a merge, or of a statistics store.")
    ] = None,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Compare two models and show the result.")
    ] = None,
    statistics: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="Statistics store of a merge's inputs: adds how the models agree."),
    ] = None,
    to: Annotated[str, typer.Option(metavar="FILE", help="Page to write.")] = "sdmw_report.html",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
    threads: Threads = None,
    budget: Budget = None,
    quiet: Quiet = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Write the HTML page of a merge, a store or a comparison."""
    from sdmw import api

    if (of is None) == (compare is None):
        raise typer.BadParameter("give either a directory or --compare A B")
    shown = of if compare is None else api.compare(
        *compare, threads=threads, budget=budget, header_limit=header_limit, download=download,
        follow_links=follow_links, progress=not quiet,
    )  # fmt: skip
    assert shown is not None
    sys.stdout.write(f"{api.report(shown, to, statistics=statistics, overwrite=overwrite)}\n")
