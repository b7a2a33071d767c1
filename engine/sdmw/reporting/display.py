"""Progress on a terminal or in a notebook; plain lines where there is neither.

A terminal is looked at when there is progress to show, so that a first line need not wait for what draws bars.
"""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sdmw.errors import printable
from sdmw.running import events
from sdmw.sizes import shown

if TYPE_CHECKING:
    from sdmw.reporting.notebook_bars import NotebookBars
    from sdmw.reporting.terminal_bar import Bar

LINE_EVERY = 30.0  # seconds between lines where there is no bar


def say(line: str) -> None:
    """A line on standard error."""
    print(printable(line).replace("\n", "\\n"), file=sys.stderr, flush=True)  # noqa: T201


class Display:
    """Receives events and shows them: a bar on a terminal or in a notebook, else a line on standard error at times."""

    def __init__(self) -> None:
        self._bar: Bar | NotebookBars | None = None
        self._looked = False
        self._said = self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, event: events.Event) -> None:
        """Show an event."""
        match event:
            case events.Compiling():
                say("compiling kernels (once)" if event.once else "compiling kernels")
            case events.Resuming():
                say(f"resuming: {shown(event.done)} of {shown(event.total)} done")
            case events.Progress():
                self._show(event)

    def _show(self, event: events.Progress) -> None:
        if not self._looked:
            self._looked, self._bar = True, _started_bar()
        if self._bar:
            self._bar.show(event)
        elif time.monotonic() - self._said >= LINE_EVERY:
            self._said = time.monotonic()
            say(f"{event.stage}: {shown(event.done)} of {shown(event.total)} read, {self._said - self._began:.0f} s")


def _started_bar() -> "Bar | NotebookBars | None":
    """A bar, where one can be shown."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_jupyter:
        from sdmw.reporting.notebook_bars import NotebookBars

        return NotebookBars()
    if not console.is_terminal:
        return None
    from sdmw.reporting.terminal_bar import started_bar

    return started_bar(console)
