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
    show(found, as_json, terminal.print_store, found.warnings)


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
        print_json(found.to_dict())
    else:
        terminal.print_warnings(found.warnings, found.notes)
        terminal.print_diagnosis(found, recipe)
        for problem in found.problems:
            terminal.print_error(str(problem))
    raise typer.Exit(1 if found.problems else 0)


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
