"""What a model changed, packed."""

from typing import Annotated

import typer

from sdmw.commands.options import Budget, Download, FollowLinks, HeaderLimit, Json, Overwrite, Quiet, ShardSize, Threads
from sdmw.commands.results import show


def pack(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Directory, or id in the Hub cache.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A fine-tune of it, or a merge.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Archive directory to create.")],
    k: Annotated[float, typer.Option("--k", help="Percentage of nonzero deltas to drop, per tensor.")] = 0.0,
    threads: Threads = None,
    budget: Budget = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
    download: Download = False,
    follow_links: FollowLinks = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Store the changes of a model sparsely, exact to the bit."""
    from sdmw import api
    from sdmw.reporting import terminal

    report = api.pack(
        base, model, out, k=k, threads=threads, budget=budget, overwrite=overwrite, download=download,
        follow_links=follow_links, header_limit=header_limit, progress=not quiet,
    )  # fmt: skip
    show(report, as_json, terminal.print_packed, report.warnings)


def apply(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The base that the archive was packed with.")],
    archive: Annotated[str, typer.Argument(metavar="ARCHIVE", help="Archive directory made by sdmw pack.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory to create.")],
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
    """Restore the packed model from its base and the archive."""
    from sdmw import api
    from sdmw.reporting import terminal

    report = api.apply(
        base, archive, out, threads=threads, budget=budget, max_shard_size=max_shard_size, overwrite=overwrite,
        download=download, follow_links=follow_links, header_limit=header_limit, progress=not quiet,
    )  # fmt: skip
    show(report, as_json, terminal.print_packed, report.warnings)


def revert(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model that sdmw apply restores with the archive.")],
    archive: Annotated[str, typer.Argument(metavar="ARCHIVE", help="Archive directory made by sdmw pack.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory to create.")],
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
    """Restore the base from the packed model and the archive."""
    from sdmw import api
    from sdmw.reporting import terminal

    report = api.revert(
        model, archive, out, threads=threads, budget=budget, max_shard_size=max_shard_size, overwrite=overwrite,
        download=download, follow_links=follow_links, header_limit=header_limit, progress=not quiet,
    )  # fmt: skip
    show(report, as_json, terminal.print_packed, report.warnings)
