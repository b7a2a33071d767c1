"""Progress on a terminal, or in a notebook that can show a bar; plain lines where there is neither.

A terminal is looked at when there is progress to show, so that a first line need not wait for what draws bars.
"""

import importlib.util
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sdmw.errors import printable
from sdmw.running import events
from sdmw.sizes import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LINE_EVERY = 30.0  # seconds between lines where there is no bar
MARGIN = 3  # columns right of the bar: what a terminal prints there for Ctrl-C must not begin another line


def say(line: str) -> None:
    """A line on standard error."""
    print(printable(line).replace("\n", "\\n"), file=sys.stderr, flush=True)  # noqa: T201


class Display:
    """Receives events and shows them on standard error: a bar on a terminal or in a notebook, else a line at times."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._looked = False
        self._tasks: dict[events.Stage, TaskID] = {}
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
            if event.stage not in self._tasks:
                self._tasks[event.stage] = self._bar.add_task(event.stage, completed=event.done, total=event.total)
            self._bar.update(self._tasks[event.stage], completed=event.done)
        elif time.monotonic() - self._said >= LINE_EVERY:
            self._said = time.monotonic()
            say(f"{event.stage}: {shown(event.done)} of {shown(event.total)} read, {self._said - self._began:.0f} s")


def _started_bar() -> "Progress | None":
    """A bar, where one can be shown."""
    from rich.console import Console

    console = Console(stderr=True)
    # In a notebook rich needs ipywidgets: without it, it warns at each refresh.
    if not (importlib.util.find_spec("ipywidgets") if console.is_jupyter else console.is_terminal):
        return None
    bar = _bar(console)
    bar.start()
    return bar


def _bar(console: "Console") -> "Progress":
    from collections.abc import Iterable

    from rich.console import RenderableType
    from rich.constrain import Constrain
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    class Bar(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield Constrain(self.make_tasks_table(self.tasks), max(1, console.width - MARGIN))

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        expand=True,
    )
