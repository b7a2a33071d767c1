"""Tables and messages on a terminal. Tables fold, nothing is cut."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sdmw.addresses import is_remote
from sdmw.errors import printable
from sdmw.methods import all_methods
from sdmw.planning.plan import Plan, time_of
from sdmw.reporting import comparison_lines, diagnosis_lines, estimate_lines, tally
from sdmw.reporting.display import say
from sdmw.reporting.loading import loading
from sdmw.reporting.sweep import SETTINGS
from sdmw.sizes import counted, shown

if TYPE_CHECKING:  # a command prints one of them, and has loaded that
    from sdmw.planning.explain import Explanation
    from sdmw.reporting.comparison import Comparison
    from sdmw.reporting.diagnosis import Diagnosis
    from sdmw.reporting.extraction import ExtractionReport
    from sdmw.reporting.inspection import Amount, Inspection
    from sdmw.reporting.packing import PackReport
    from sdmw.reporting.report import Report
    from sdmw.reporting.sweep import Sweep
    from sdmw.running.verification import Verification
    from sdmw.stores.store import Store

_WIDEST = 1 << 16  # characters of a line where there is no terminal


def print_report(report: "Report") -> None:
    """The models' table; where the result lies, the peak memory, how to load it."""
    columns = all_methods()[report.method].columns
    table = _table("model", *(name.replace("_", " ") for name in columns))
    for model in report.models:
        cells = ("–" if (fact := model.facts[name]) is None else format(fact, spec) for name, spec in columns.items())
        table.add_row(_plain(model.name), *cells)
    _print(table)
    run = report.run
    told = (
        tally.lines(
            report.missing, report.extra, report.tally, report.files.copied, report.files.skipped, compared=True
        )
        if report.tally
        else ()
    )
    lines = [
        *(f"{word:11}  {said}" for word, said in told),
        f"result       {report.path}",
        f"peak memory  {shown(run.peak_rss)} resident, {shown(run.peak_anonymous)} of it anonymous",
        f"time         {run.wall_s:.1f} s, {shown(run.bytes_read)} read, {shown(run.bytes_written)} written",
        f"load it      {'from a copy on this machine' if is_remote(report.path) else loading(report.path)}",
    ]
    _print(Text("\n").join(map(_plain, lines)))


def print_extraction(report: "ExtractionReport") -> None:
    """The error of each weight; what was left out, where the adapter lies, how to load it."""
    table = _table("weight", "norm of delta", "error")
    for weight in report.weights:
        table.add_row(_plain(weight.tensor), f"{weight.norm:.4g}", f"{weight.error:.2%}")
    _print(table)
    lines = [
        f"result       {report.path}, rank {report.rank}",
        f"error        {report.error:.2%} of the deltas that the adapter holds, in the Frobenius norm",
        f"left out     {_left_out(report)}",
        f"whole error  {report.whole_error:.2%}, relative to all changes of the fine-tune",
        *(f"note         {note}" for note in report.notes),
        f"load it      {loading(report.path, merged=report.follows)}",
    ]
    _print(Text("\n").join(map(_plain, lines)))


def _left_out(report: "ExtractionReport") -> str:
    """How much of the delta, and how many tensors of which kind."""
    kinds = Counter(each.why for each in report.left_out)
    said = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    share = f"{report.left_out_share:.2%} of the whole delta"
    return f"{share}, in {len(report.left_out):,} changed tensors ({said})" if said else "nothing"


def print_packed(report: "PackReport") -> None:
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


def print_store(store: "Store") -> None:
    """What a statistics store holds."""
    _print(
        _pairs(
            ("store", store.path),
            ("models", ", ".join(store.models)),
            ("tensors", f"{len(store.tensors):,}"),
            ("elements", f"{sum(tensor.elements for tensor in store.tensors):,}"),
            ("decided", "the recipe's own settings" if store.decided else "nothing"),
        )
    )


def print_sweep(sweep: "Sweep") -> None:
    """Of each setting all models' weights and shares of kept deltas, or bounds of them; in a line, where that fits."""
    first = sweep.rows[0]
    varied = [name for name in SETTINGS if any(row[name] != first[name] for row in sweep.rows)] or ["k"]
    of_models = [f"{what} {model}" for model in sweep.models for what in ("weight", "kept")]
    wide = _table(*varied, *of_models, "norm")
    narrow = _table(*varied, "norm", "model", "weight", "kept")
    for row in sweep.rows:
        settings, norm = [_setting(row, name) for name in varied], _bounds(row["merged_norm"], ".4g")
        models = [(_plain(name), *cells) for name, cells in zip(sweep.models, _of_models(row), strict=True)]
        wide.add_row(*settings, *(cell for _, *cells in models for cell in cells), norm)
        narrow.add_row(*settings, norm, *models[0])
        for each in models[1:]:
            narrow.add_row(*[""] * len(settings), "", *each)
    _print(wide if _fits(wide) else narrow)


def _of_models(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each model's weight, and the share of its deltas that is kept."""
    for weight, kept, nonzero in zip(row["weights"], row["kept"], row["nonzero"], strict=True):
        shares = [each / nonzero if nonzero else 0.0 for each in kept]
        yield _bounds(weight, ".4f"), _bounds(shares, ".2%")


def _fits(table: Table) -> bool:
    """Whether no cell of a table has to fold; where there is no terminal none has."""
    console = Console()
    asked = Measurement.get(console, console.options.update(width=_WIDEST), table).maximum
    return not console.is_terminal or asked <= console.width


def _setting(row: Mapping[str, Any], name: str) -> str:
    """A setting as it was asked for; of a lambda that is found, what it is."""
    value = row[name]
    if name == "lambda" and isinstance(value, str):
        return f"{value}: {_bounds(row['scale'], '.4g')}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _bounds(bounds: Sequence[float], spec: str) -> str:
    low, high = (format(each, spec) for each in bounds)
    return low if low == high else f"{low} – {high}"


def print_plan(plan: Plan) -> None:
    """The plan in numbers."""
    _print(
        _pairs(
            ("models", str(len(plan.models))),
            ("blocks", f"{plan.blocks:,}"),
            ("tensors", f"{len(plan.tensors):,}"),
            ("read", shown(plan.bytes_read)),
            *([("statistics", _spared(plan))] if plan.spared else []),
            ("written", shown(plan.bytes_written)),
            *_memory(plan),
            *_place(plan),
            ("time", time_of(plan)),
            *tally.lines(
                dict(plan.missing),
                dict(plan.extra),
                tally.tally_of(plan),
                plan.copied,
                dict(plan.skipped),
                compared=False,
            ),
        )
    )


def print_estimates(plan: Plan) -> None:
    """Where the time of a plan goes, for its own workers; how long it takes on others; what that rests on."""
    if not plan.estimates:
        return
    own, *_ = plan.estimates
    table = _table(f"on {estimate_lines.workers(own)}", *estimate_lines.PARTS)
    for first, *others in estimate_lines.phases(own):
        table.add_row(first, *others)
    _print(Text(""))
    _print(table)
    if len(plan.estimates) > 1:
        scaling = _table(*estimate_lines.COLUMNS)
        for row in estimate_lines.scaling(plan.estimates):
            scaling.add_row(*row)
        _print(Text(""))
        _print(scaling)
    _print(Text("\n") + _plain(estimate_lines.grounds(plan)))


def _place(plan: Plan) -> Iterator[tuple[str, str]]:
    if not is_remote(plan.target or ""):
        yield "free disk", shown(plan.free_bytes)


def _memory(plan: Plan) -> Iterator[tuple[str, str]]:
    threads = counted(plan.threads, "thread")
    if not plan.workers:
        yield "peak memory", f"at most {shown(plan.peak_bytes)}, with {threads}"
        return
    yield "workers", f"{plan.workers}, with {threads} in all"
    yield "peak memory", f"at most {shown(plan.worker_bytes)} in each worker, {shown(plan.peak_bytes)} here"


def _spared(plan: Plan) -> str:
    """What a store spares a merge."""
    left = f"; {shown(plan.read_again)} of them must still be read once" if plan.read_again else ""
    return f"save {shown(plan.spared)} of {shown(plan.measured_bytes)} that measuring reads{left}"


def print_explanation(told: "Explanation") -> None:
    """What a tensor is read from; each parameter's value and where it comes from."""
    by = f"merged by {told.method}" if told.action == "merge" else f"{told.action}, not merged"
    _print(
        _pairs(
            ("tensor", told.tensor),
            ("shape", f"{list(told.shape)}, {told.dtype}, {by}"),
            ("depth", f"{told.depth:g}: position in gradients, from 0 in the first layer to 1 in the last"),
            *(("read from", f"{name}: {tensor} in {origin}") for name, tensor, origin in told.read_from),
        )
    )
    if not told.values:
        return
    table = _table("parameter", "model", "value", "from")
    for each in told.values:
        value = "found by the method" if each.value is None else str(each.value)
        table.add_row(each.parameter, _plain(each.model or "all"), _plain(value), _plain(each.place))
    _print(table)


def print_verification(found: "Verification") -> None:
    """What was compared, and the odds of what was not."""
    odds = f"{found.recomputed:,} of {found.tiles:,} tiles computed again"
    if found.unseen:
        odds += f"; one wrong tile with a correct checksum would go unnoticed with a probability of {found.unseen:.1%}"
    equal = "equal"
    checksums = f"{found.pieces:,} pieces, {shown(found.nbytes)}: all data"
    if found.problems and not found.pieces:
        checksums = odds = "none: no tensor was read, because of the errors below"
    elif found.not_found:
        equal = "equal by checksum; nothing was computed again"
        odds = f"none: {counted(len(found.not_found), 'input')} not found, so nothing was computed again from them"
    elif not found.tiles:
        odds = "none: the recipe was changed, so nothing was computed again"
    _print(
        _pairs(
            ("checkpoint", found.path),
            ("result", "different" if found.problems else equal),
            ("checksums", checksums),
            ("sample", odds),
        )
    )
    for problem in found.not_found:
        print_note(str(problem))
    if found.not_found:
        print_note("--inputs FOLDER looks for the inputs in another folder")


def print_inspection(found: "Inspection") -> None:
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


def _amounts(title: str, amounts: "Iterable[tuple[str, Amount]]") -> Table:
    table = _table(title, "tensors", "parameters", "size")
    for name, amount in amounts:
        table.add_row(_plain(name), f"{amount.tensors:,}", f"{amount.parameters:,}", shown(amount.bytes))
    return table


def print_comparison(found: "Comparison") -> None:
    """The totals; then the tensors that were chosen, and how many more there are."""
    _print(_pairs(*comparison_lines.lines(found)))
    if found.rows:
        table = _table(*comparison_lines.COLUMNS)
        for row in found.rows:
            table.add_row(_plain(row.name), *comparison_lines.cells(row))
        _print(table)
    elif found.unmatched:
        table = _table("tensor", "in a", "in b")
        for each in found.unmatched:
            table.add_row(_plain(each.name), each.a or "–", each.b or "–")
        _print(table)
    if found.left_out:
        _print(_plain(f"and {counted(found.left_out, 'more tensor')}: see --top, --sort, --only, --filter"))


def print_diagnosis(found: "Diagnosis", recipe: str | None = None) -> None:
    """What was looked at; models and pairs; each finding below its title; what all this cannot tell."""
    _print(_pairs(*diagnosis_lines.summary(found, recipe)))
    if found.evidence is None:
        return
    for columns, rows in (
        (diagnosis_lines.MODELS, diagnosis_lines.models(found.evidence)),
        (diagnosis_lines.PAIRS, diagnosis_lines.pairs(found.evidence)),
    ):
        table = _table(*columns)
        for first, *others in rows:
            table.add_row(_plain(first), *others)
        if table.row_count:
            _print(Text(""))
            _print(table)
    if more := diagnosis_lines.left_out(found.evidence):
        _print(_plain(more))
    for finding in found.findings:
        _print(Text("\n") + Text(finding.title, style="bold"))
        _print(_pairs(*diagnosis_lines.lines(finding)))
    _print(Text("\n") + _plain(found.caution))


def print_warnings(warnings: Iterable[str], notes: Iterable[str]) -> None:
    """Warnings and notes, on standard error."""
    for warning in warnings:
        say(f"warning: {warning}")
    for note in notes:
        print_note(note)


def print_note(note: str) -> None:
    """A note, on standard error."""
    say(f"note: {note}")


def print_error(text: str) -> None:
    """Each line of an error, on standard error."""
    for line in text.splitlines():
        say(f"error: {line}")


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(_plain(first), overflow="fold")
    for name in others:
        table.add_column(_plain(name), justify="right", overflow="fold", no_wrap=False)
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
    """Within the width of a terminal; elsewhere each line as a whole, for programs to read."""
    console = Console(highlight=False, soft_wrap=False)
    if console.is_terminal:
        console.print(shown_thing)
        return
    console.width = _WIDEST
    with console.capture() as captured:
        console.print(shown_thing)
    for line in captured.get().splitlines():
        print(line.rstrip())  # noqa: T201
