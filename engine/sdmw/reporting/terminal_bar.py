"""Progress bars of a terminal."""

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from sdmw.running import events

MARGIN = 3  # columns right of the bar: what a terminal prints there for Ctrl-C must not begin another line


class Bar(Progress):
    """A bar for each stage."""

    def __init__(self, console: Console) -> None:
        self._on = console  # rich asks for what to draw before it knows its own
        columns = TextColumn("{task.description}"), BarColumn(bar_width=None), DownloadColumn()
        super().__init__(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, expand=True)

    def show(self, event: events.Progress) -> None:
        """Draw how far a stage is."""
        task = next((each.id for each in self.tasks if each.description == event.stage), None)
        if task is None:
            task = self.add_task(event.stage, completed=event.done, total=event.total)
        self.update(TaskID(task), completed=event.done)

    def get_renderables(self) -> Iterable[RenderableType]:
        """What rich draws: less wide than the terminal."""
        yield Constrain(self.make_tasks_table(self.tasks), max(1, self._on.width - MARGIN))


def started_bar(console: Console) -> Bar:
    """A bar that is drawn already."""
    bar = Bar(console)
    bar.start()
    return bar
