"""The command line: one command for each api function; results on standard output, all else on standard error."""

import io
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdmw.running.stop import SIGNALS

if TYPE_CHECKING:
    from sdmw.reporting.packing import PackReport

app = typer.Typer(
    name="sdmw",
    help="Merge large language models out of core: exact, in bounded memory, at the speed of the disk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="YAML file; mergekit's language.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads that compute; one a core by default.")]
Budget = Annotated[str | None, typer.Option(help="Resident memory that may be reached, as 1GiB.")]
ShardSize = Annotated[str, typer.Option(help="Bytes of tensors in one output file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a directory that is there.")]
IgnoreUnknown = Annotated[bool, typer.Option("--ignore-unknown", help="Say unknown recipe fields and go on.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch models from the Hub that are not here.")]
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew where a killed run has left something.")]
HeaderLimit = Annotated[str, typer.Option(help="Largest header that an input may have.")]


@app.command()
def merge(
    recipe: RecipeArgument,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory that will appear.")],
    threads: Threads = None,
    budget: Budget = None,
    max_shard_size: ShardSize = "5GB",
    overwrite: Overwrite = False,
    as_json: Json = False,
    ignore_unknown: IgnoreUnknown = False,
    download: Download = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Merge checkpoints into a new one."""
    from sdmw import api
    from sdmw.reporting import terminal

    report = api.merge(
        recipe, out, threads=threads, budget=budget, max_shard_size=max_shard_size, overwrite=overwrite,
        ignore_unknown=ignore_unknown, download=download, header_limit=header_limit,
    )  # fmt: skip
    terminal.print_warnings(report.warnings, report.notes)
    if as_json:
        _print_json(report.to_dict())
    else:
        terminal.print_report(report)


@app.command()
def plan(
    recipe: RecipeArgument,
    out: Annotated[str | None, typer.Argument(metavar="[OUT]", help="Where the result would go.")] = None,
    threads: Threads = None,
    budget: Budget = None,
    max_shard_size: ShardSize = "5GB",
    overwrite: Overwrite = False,
    as_json: Json = False,
    ignore_unknown: IgnoreUnknown = False,
    download: Download = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Say what a merge would read, write and need, and all that stands against it; touches no tensor data."""
    from sdmw import api
    from sdmw.reporting import terminal
    from sdmw.reporting.summary import summary

    planned = api.plan(
        recipe, out, threads=threads, budget=budget, max_shard_size=max_shard_size, overwrite=overwrite,
        ignore_unknown=ignore_unknown, download=download, header_limit=header_limit,
    )  # fmt: skip
    numbers = summary(planned)
    if as_json:
        _print_json(numbers.to_dict())
    else:
        terminal.print_warnings(numbers.warnings, numbers.notes)
        if planned.base is not None:  # else there is nothing to count
            terminal.print_plan(numbers)
        for problem in planned.problems:
            terminal.print_error(str(problem))
    raise typer.Exit(1 if planned.problems else 0)


@app.command()
def inspect(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Directory, or id in the Hub cache.")],
    as_json: Json = False,
    download: Download = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Say what is in a checkpoint."""
    from sdmw import api
    from sdmw.reporting import terminal

    found = api.inspect(checkpoint, header_limit=header_limit, download=download)
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
    rank: Annotated[int, typer.Option(metavar="N", help="Of the adapter's matrices.")] = 32,
    overwrite: Overwrite = False,
    as_json: Json = False,
    download: Download = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Approximate what a fine-tune changed by a PEFT adapter, and say how well."""
    from sdmw import api
    from sdmw.reporting import terminal

    report = api.extract(
        base, model, out, rank=rank, overwrite=overwrite, download=download, header_limit=header_limit
    )  # fmt: skip
    if as_json:
        _print_json(report.to_dict())
    else:
        terminal.print_extraction(report)


@app.command()
def pack(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Directory, or id in the Hub cache.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A fine-tune of it, or a merge.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory of the archive that will appear.")],
    k: Annotated[float, typer.Option("--k", help="Percent of each tensor's nonzero deltas left out.")] = 0.0,
    overwrite: Overwrite = False,
    as_json: Json = False,
    download: Download = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Keep what a model changed of its base as a sparse archive, exact to the bit."""
    from sdmw import api

    report = api.pack(base, model, out, k=k, overwrite=overwrite, download=download, header_limit=header_limit)
    _print_packed(report, as_json)


@app.command()
def apply(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The base that the archive was packed with.")],
    archive: Annotated[str, typer.Argument(metavar="ARCHIVE", help="Directory that sdmw pack made.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory that will appear.")],
    max_shard_size: ShardSize = "5GB",
    overwrite: Overwrite = False,
    as_json: Json = False,
    download: Download = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Make the packed model again from its base."""
    from sdmw import api

    report = api.apply(
        base, archive, out, max_shard_size=max_shard_size, overwrite=overwrite, download=download,
        header_limit=header_limit,
    )  # fmt: skip
    _print_packed(report, as_json)


@app.command()
def revert(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="What sdmw apply makes with the archive.")],
    archive: Annotated[str, typer.Argument(metavar="ARCHIVE", help="Directory that sdmw pack made.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory that will appear.")],
    max_shard_size: ShardSize = "5GB",
    overwrite: Overwrite = False,
    as_json: Json = False,
    download: Download = False,
    header_limit: HeaderLimit = "16MiB",
) -> None:
    """Make the base again from the packed model."""
    from sdmw import api

    report = api.revert(
        model, archive, out, max_shard_size=max_shard_size, overwrite=overwrite, download=download,
        header_limit=header_limit,
    )  # fmt: skip
    _print_packed(report, as_json)


@app.command()
def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory that sdmw merge made.")],
    sample: Annotated[str, typer.Option(help="Share of tiles that is computed anew, as 1%.")] = "1%",
    everything: Annotated[bool, typer.Option("--all", help="Compute every tile anew.")] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Hold a merge against its report: every byte by checksum, a sample computed anew from the inputs."""
    from sdmw import api
    from sdmw.reporting import terminal
    from sdmw.sizes import parse_share

    share = 1 if everything else parse_share(sample, "sample")
    found = api.verify(out, sample=share, threads=threads)
    if as_json:
        _print_json(found.to_dict())
    else:
        terminal.print_verification(found)
        for problem in found.problems:
            terminal.print_error(str(problem))
    raise typer.Exit(1 if found.problems else 0)


def main() -> None:
    """The entry point: any failure is one message and an exit code, never a traceback."""
    from sdmw.errors import SdmwError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal cannot show
    try:
        with _ending_at_signals():
            try:
                app()
            finally:
                sys.stdout.flush()  # here, where a reader that has left is caught
    except SdmwError as error:
        from sdmw.reporting.terminal import print_error, print_note

        print_error(str(error))
        for note in getattr(error, "__notes__", []):
            print_note(f"{note}. Go on with: {_same_command()}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has left; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


def _same_command() -> str:
    return shlex.join(["sdmw", *(each for each in sys.argv[1:] if each != "--restart")])


@contextmanager
def _ending_at_signals() -> Iterator[None]:
    """Where no run takes them (it does as soon as it has something to clean up), signals end the process at once."""
    before = {each: signal.getsignal(each) for each in SIGNALS}
    for each, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(each, _end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _end(signum: int, _frame: FrameType | None) -> None:
    sys.stderr.write(f"error: {signal.Signals(signum).name}: stopped by this signal\n")
    sys.exit(128 + signum)


def _print_packed(report: "PackReport", as_json: bool) -> None:
    from sdmw.reporting import terminal

    if as_json:
        _print_json(report.to_dict())
    else:
        terminal.print_packed(report)


def _print_json(data: dict[str, Any]) -> None:
    from sdmw.reporting.as_json import as_json

    sys.stdout.buffer.write(as_json(data).encode())  # JSON is UTF-8 whatever the terminal is
