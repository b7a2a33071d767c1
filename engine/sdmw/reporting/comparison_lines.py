"""What a terminal shows of a comparison: pairs of a word and what is said, and the cells of a table."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sdmw.sizes import counted

if TYPE_CHECKING:
    from sdmw.planning.comparison import Unmatched
    from sdmw.reporting.comparison import Comparison, Row
    from sdmw.statistics.change import Change

TOP = 10  # tensors that fit on a screen below the totals
NAMED = 2  # tensors that are named in a line
COLUMNS = ("tensor", "changed", "sum", "largest", "ratio")
_BARS = "▁▂▃▄▅▆▇█"


def lines(found: "Comparison") -> Iterator[tuple[str, str]]:
    """The totals."""
    counts, total = found.tensors, found.total
    yield "a", found.a
    yield "b", found.b
    yield "tensors", f"{counts.compared:,} compared, {counts.equal:,} of them equal to the bit"
    for word, count, named in _kinds(found):
        if count:
            yield word, _some(count, named)
    yield "elements", f"{total.elements:,}, of which {total.changed:,} changed ({share(total)})"
    if total.norm is None:
        return
    yield "|b - a|", f"sum {_short(total.sum)}, largest {_short(total.largest)}, norm {_short(total.norm)}"
    if total.counts:
        yield "", _bars(total)
    if total.nonfinite:
        yield "", f"{counted(total.nonfinite, 'delta')} NaN or infinite, not in the sums"
    norms = f"a {_short(total.norm_a)}, b {_short(total.norm_b)}"
    yield "norms", f"{norms}; b - a relative to a {_short(total.ratio)}; cosine {_cosine(total.cosine)}"


def _kinds(found: "Comparison") -> Iterator[tuple[str, int, "list[Unmatched]"]]:
    """What is not compared: the word, how many there are, and those that were chosen."""
    counts, listed = found.tensors, found.unmatched
    yield "only in a", counts.only_a, [each for each in listed if each.b is None]
    yield "only in b", counts.only_b, [each for each in listed if each.a is None]
    yield "unlike", counts.unlike, [each for each in listed if each.a and each.b]


def _some(count: int, listed: "Sequence[Unmatched]") -> str:
    names = ", ".join(f"{each.name} ({each.a} and {each.b})" if each.a and each.b else each.name
                      for each in listed[:NAMED])  # fmt: skip
    if not names:
        return counted(count, "tensor")
    return f"{counted(count, 'tensor')}: {names}" + (f" and {count - NAMED:,} more" if count > NAMED else "")


def cells(row: "Row") -> tuple[str, ...]:
    """The cells of a row, after its name."""
    change = row.change
    return (share(change), *map(_short, (change.sum, change.largest, change.ratio)))


def share(change: "Change") -> str:
    """The share of elements that changed; neither 0 % nor 100 % where that is not exact."""
    if change.changed in (0, change.elements):
        return "100%" if change.changed else "0%"
    return f"{min(max(change.changed / change.elements, 0.0001), 0.9999):.2%}"


def _short(number: float | None) -> str:
    if number is None:
        return "–"
    return f"{number:,.0f}" if 1000 <= number < 1e9 else f"{number:.3g}"


def _cosine(number: float | None) -> str:
    return "–" if number is None else f"{number:.6f}"


def _bars(total: "Change") -> str:
    """The histogram: a bar for each power of two."""
    assert total.power is not None
    most = max(total.counts)
    bars = "".join(_BARS[count * (len(_BARS) - 1) // most] if count else " " for count in total.counts)
    return f"{bars}  from 2^{total.power} to 2^{total.power + len(total.counts)}, mostly 2^{_mode(total)}"


def _mode(total: "Change") -> int:
    assert total.power is not None
    return total.power + total.counts.index(max(total.counts))
