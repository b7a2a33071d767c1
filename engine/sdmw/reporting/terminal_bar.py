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

    def show(self, event: events.Progress) -> None:
        """Draw how far a stage is."""
        task = next((each.id for each in self.tasks if each.description == event.stage), None)
        if task is None:
            task = self.add_task(event.stage, completed=event.done, total=event.total)
        self.update(TaskID(task), completed=event.done)

    def get_renderables(self) -> Iterable[RenderableType]:
        """What rich draws: less wide than the terminal."""
        yield Constrain(self.make_tasks_table(self.tasks), max(1, self.console.width - MARGIN))


def started_bar(console: Console) -> Bar:
    """A bar that is drawn already."""
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        expand=True,
    )
    bar.start()
    return bar
