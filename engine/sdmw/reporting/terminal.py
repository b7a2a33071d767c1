"""Progress and tables on a terminal; plain lines where there is none. Tables fold, nothing is cut."""

import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, get_args

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from sdmw.errors import printable
from sdmw.methods import all_methods
from sdmw.planning.plan import RATE, Plan
from sdmw.reporting.extraction import ExtractionReport
from sdmw.reporting.inspection import Amount, Inspection
from sdmw.reporting.loading import loading
from sdmw.reporting.packing import PackReport
from sdmw.reporting.report import Report
from sdmw.running import events
from sdmw.sizes import shown

if TYPE_CHECKING:  # it loads the kernels
    from sdmw.running.verification import Verification

LINE_EVERY = 30.0  # seconds between lines where there is no terminal


class Display:
    """Receives events and shows them on standard error: a bar on a terminal or in a notebook, else a line at times."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._live = console.is_terminal or console.is_jupyter
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
            expand=True,
        )
        self._tasks = {stage: self._bar.add_task(stage, total=None, visible=False) for stage in get_args(events.Stage)}
        self._said = self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, event: events.Event) -> None:
        """Show an event."""
        if isinstance(event, events.Progress):
            self._bar.update(self._tasks[event.stage], completed=event.done, total=event.total, visible=True)
            if not self._live and time.monotonic() - self._said >= LINE_EVERY:
                self._said = time.monotonic()
                _say(
                    f"{event.stage}: {shown(event.done)} of {shown(event.total)} read, {self._said - self._began:.0f} s"
                )


def print_report(report: Report) -> None:
    """The models' table; where the result lies, the peak memory, how to load it."""
    columns = all_methods()[report.method].columns
    table = _table("model", *(name.replace("_", " ") for name in columns))
    for model in report.models:
        cells = ("–" if (fact := model.facts[name]) is None else format(fact, spec) for name, spec in columns.items())
        table.add_row(_plain(model.name), *cells)
    _print(table)
    run = report.run
    lines = [
        f"result       {report.path}",
        f"peak memory  {shown(run.peak_rss)} resident, {shown(run.peak_anonymous)} of it anonymous",
        f"time         {run.wall_s:.1f} s, {shown(run.bytes_read)} read, {shown(run.bytes_written)} written",
        f"load it      {loading(report.path)}",
    ]
    _print(Text("\n").join(map(_plain, lines)))


def print_extraction(report: ExtractionReport) -> None:
    """The error of each weight; what was left out, where the adapter lies, how to load it."""
    table = _table("weight", "norm of delta", "error")
    for weight in report.weights:
        table.add_row(_plain(weight.tensor), f"{weight.norm:.4g}", f"{weight.error:.2%}")
    _print(table)
    lines = [
        f"result       {report.path}, rank {report.rank}",
        f"error        {report.error:.2%} of all deltas, in the Frobenius norm",
        f"left out     {len(report.left_out)} changed tensors that are no matrices",
        f"load it      {loading(report.path)}",
    ]
    _print(Text("\n").join(map(_plain, lines)))


def print_packed(report: PackReport) -> None:
    """What an archive holds, and its size against the checkpoint's."""
    left_out = f", k = {report.k:g}" if report.k else ""
    _print(
        _pairs(
            ("result", report.path),
            ("kept", f"{report.kept:,} of {report.elements:,} elements, {report.share:.2%}{left_out}"),
            ("archive", f"{shown(report.archive_bytes)}, {report.ratio:.1%} of the checkpoint's "
                        f"{shown(report.checkpoint_bytes)}"),
            ("other files", f"{report.files} differ and are in the archive"),
        )
    )  # fmt: skip


def print_plan(plan: Plan) -> None:
    """The plan in numbers."""
    _print(
        _pairs(
            ("models", str(len(plan.models))),
            ("layers", f"{len(plan.layers):,}"),
            ("tensors", f"{len(plan.tensors):,}"),
            ("read", shown(plan.bytes_read)),
            ("written", shown(plan.bytes_written)),
            ("peak memory", f"at most {shown(plan.peak_bytes)}, with {plan.threads} thread{'s' * (plan.threads > 1)}"),
            ("free disk", shown(plan.free_bytes)),
            ("time", f"{plan.seconds:.1f} s at {shown(RATE)}/s"),
        )
    )


def print_verification(found: "Verification") -> None:
    """What was compared, and the odds of what was not."""
    odds = f"{found.recomputed:,} of {found.tiles:,} tiles computed anew"
    if found.unseen:
        odds += f"; one wrong tile with a right checksum would stay unseen with a chance of {found.unseen:.1%}"
    _print(
        _pairs(
            ("checkpoint", found.path),
            ("result", "different" if found.problems else "equal"),
            ("checksums", f"{found.pieces:,} pieces, {shown(found.nbytes)}: all of it"),
            ("sample", odds),
        )
    )


def print_inspection(found: Inspection) -> None:
    """A checkpoint's dtypes, shards and components."""
    _print(
        _pairs(
            ("checkpoint", found.path),
            ("architecture", found.architecture),
            ("parameters", f"{found.total.parameters:,} in {found.total.tensors:,} tensors, {found.blocks} blocks"),
            ("size", shown(found.total.bytes)),
        )
    )
    for title, amounts in (("dtype", found.dtypes), ("shard", found.shards), ("component", found.components)):
        _print(_amounts(title, amounts.items()))


def _amounts(title: str, amounts: Iterable[tuple[str, Amount]]) -> Table:
    table = _table(title, "tensors", "parameters", "size")
    for name, amount in amounts:
        table.add_row(_plain(name), f"{amount.tensors:,}", f"{amount.parameters:,}", shown(amount.bytes))
    return table


def print_warnings(warnings: Iterable[str], notes: Iterable[str]) -> None:
    """Warnings and notes, on standard error."""
    for warning in warnings:
        _say(f"warning: {warning}")
    for note in notes:
        print_note(note)


def print_note(note: str) -> None:
    """A note, on standard error."""
    _say(f"note: {note}")


def print_error(text: str) -> None:
    """Each line of an error, on standard error."""
    for line in text.splitlines():
        _say(f"error: {line}")


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold", no_wrap=False)
    return table


def _pairs(*pairs: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, _plain(value))
    return table


def _plain(text: str) -> Text:
    """No markup: a name may hold brackets."""
    return Text(printable(text).replace("\n", "\\n"), overflow="fold")


def _print(shown_thing: Table | Text) -> None:
    Console(highlight=False, soft_wrap=False).print(shown_thing)


def _say(line: str) -> None:
    print(printable(line).replace("\n", "\\n"), file=sys.stderr, flush=True)  # noqa: T201
