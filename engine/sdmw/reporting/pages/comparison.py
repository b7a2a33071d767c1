"""The page of a comparison: what changed, where, and what only one of the two has."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sdmw.methods.method import Facts
from sdmw.reporting import comparison_lines
from sdmw.reporting.pages import charts
from sdmw.reporting.pages.layers import layer_parts
from sdmw.reporting.pages.page import Page, Part, Points, Section, Table, Text, columns_of

if TYPE_CHECKING:
    from sdmw.reporting.comparison import Comparison, Row


def page_of_comparison(found: "Comparison") -> Page:
    """The page of two checkpoints compared; its map has the rows that were chosen, all of them by default."""
    counts = found.tensors
    facts = [("a", found.a), ("b", found.b), ("tensors compared", f"{counts.compared:,}"),
             ("equal to the bit", f"{counts.equal:,}"), ("only in a", f"{counts.only_a:,}"),
             ("only in b", f"{counts.only_b:,}"), ("unlike", f"{counts.unlike:,}"),
             ("elements changed", comparison_lines.share(found.total))]  # fmt: skip
    sections = [
        Section("What changed?", tuple(_changed(found))),
        Section("Where in the model?", tuple(_where(found))),
        Section("What is in only one of them?", tuple(_unmatched(found))),
        Section("Is anything odd?", (Points("warning", found.warnings),) if found.warnings else (Text("No warning."),)),
    ]
    return Page(f"{found.b} compared with {found.a}", tuple(facts), tuple(sections))


def _changed(found: "Comparison") -> Iterator[Part]:
    lines = tuple(pair for pair in comparison_lines.lines(found) if pair[0] and pair[0] not in ("a", "b"))
    yield Table("totals", "In all", columns_of(("word", "what"), ("said", "how much")), lines)
    total = found.total
    if total.power is not None and (changed := sum(total.counts)):
        said = "Share of the changes by magnitude, in powers of two."
        yield charts.histogram("Magnitudes of the changes", "changes", cut=False, said=said)
        columns = columns_of(("model", "model"), ("power", "power of two", "count"), ("share", "share", "share"))
        rows = tuple((found.b, total.power + at, count / changed) for at, count in enumerate(total.counts))
        yield Table("changes", "Magnitudes as numbers", columns, rows, folded=True)


def _where(found: "Comparison") -> Iterator[Part]:
    parts = layer_parts((found.b,), {row.name: (_facts(row),) for row in found.rows})
    yield from parts or (Text("No tensor is shown."),)
    if found.left_out:
        yield Text(f"{found.left_out:,} more tensors were left out when the two were compared.")


def _facts(row: "Row") -> Facts:
    change = row.change
    told = {"ratio": change.ratio, "cosine": change.cosine, "largest": change.largest, "sum": change.sum}
    known = {name: value for name, value in told.items() if value is not None}
    return {"changed_share": change.changed / max(1, change.elements), **known}


def _unmatched(found: "Comparison") -> Iterator[Part]:
    if not found.unmatched:
        yield Text("Nothing." if not _lacking(found) else f"{_lacking(found):,} tensors, which are not listed.")
        return
    rows = tuple((each.name, each.a, each.b) for each in found.unmatched)
    yield Table(
        "unmatched", "Tensors that were not compared", columns_of(("name", "tensor"), ("a", "a"), ("b", "b")), rows
    )


def _lacking(found: "Comparison") -> int:
    counts = found.tensors
    return counts.only_a + counts.only_b + counts.unlike
