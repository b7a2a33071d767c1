"""What is in a model, and between two."""

from typing import Annotated

import typer

from sdmw.commands.options import (
    Budget,
    Download,
    ExtractThreads,
    FollowLinks,
    HeaderLimit,
    Json,
    Overwrite,
    Quiet,
    Restart,
    Threads,
)
from sdmw.commands.results import show


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
    show(found, as_json, terminal.print_inspection, () if as_json else found.warnings)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Model as in a recipe: directory, or id in the Hub cache.")],
    b: Annotated[
        str, typer.Argument(metavar="B", help="Model to compare with A; also model+adapter, or an adapter of A.")
    ],
    sort: Annotated[
        str, typer.Option(metavar="KEY", help="Order: changed, sum, largest or ratio, largest value first; or name.")
    ] = "ratio",
    only: Annotated[
        str | None, typer.Option(metavar="KIND", help="Show only changed, equal or missing (not compared) tensors.")
    ] = None,
    filter: Annotated[  # noqa: A002  the word of recipes
        str | None,
        typer.Option(metavar="GLOB", help="Compare only tensors whose name contains GLOB; * ? [] are wildcards."),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Number of tensors to show; default: 10, or all with --json.")
    ] = None,
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
    show(found, as_json, terminal.print_comparison, found.warnings)


def extract(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Directory, or id in the Hub cache.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A fine-tune of it.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Adapter directory to create.")],
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
    show(report, as_json, terminal.print_extraction, report.warnings)
