"""The command line: its commands, and how a run of one begins and ends."""

import io
import shlex
import sys
import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdmw.commands import archives, merging, models, stores
from sdmw.mergekit import mergekit_yaml
from sdmw.running.stop import own_signals, until_exit
from sdmw.version import __version__

if TYPE_CHECKING:
    from typing_extensions import Buffer

app = typer.Typer(
    name="sdmw",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

EPILOG = """\b
Example:
  sdmw plan recipe.yaml merged     what it would read, write and need
  sdmw merge recipe.yaml merged
  sdmw verify merged

\b
Exit codes:
  0             done
  1             an error in inputs, data or machine
  2             an error in the recipe or the command line
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


for command in (
    merging.merge,
    merging.plan,
    models.inspect,
    models.extract,
    stores.measure,
    stores.doctor,
    stores.sweep,
    stores.report,
    archives.pack,
    archives.apply,
    archives.revert,
    merging.verify,
    models.compare,
):
    app.command()(command)
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
            print_note(f"{note}. Continue with: {_same_command()}")
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
