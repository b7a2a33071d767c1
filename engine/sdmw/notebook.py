"""What a notebook shows of a result: a line and a small table, as HTML without scripts (IPython's `_repr_html_`)."""

from collections.abc import Sequence
from html import escape

from sdmw.errors import printable

MOST_ROWS = 20
BAR = "#4c78a8"
Cell = str | tuple[str, float]  # a text, or a text over a bar of this share of its cell's width


def fragment(title: str, headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A line and a table below it, of at most 20 rows; what more there are is said.

    Args:
        title: the line.
        headings: of the columns; empty for a table of pairs.
        rows: cells for each column.
    """
    head = "".join(f'<th style="text-align:left">{_plain(heading)}</th>' for heading in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:MOST_ROWS])
    more = f"<div>and {len(rows) - MOST_ROWS:,} more</div>" if len(rows) > MOST_ROWS else ""
    top = f"<thead><tr>{head}</tr></thead>" if headings else ""
    return f"<div><div>{_plain(title)}</div><table>{top}<tbody>{body}</tbody></table>{more}</div>"


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f'<td style="text-align:left">{_plain(cell)}</td>'
    text, share = cell
    width = round(100 * min(1.0, max(0.0, share)), 1)
    drawn = f"background:linear-gradient(to right,{BAR}55 {width}%,transparent {width}%)"
    return f'<td style="text-align:left;min-width:8em;{drawn}">{_plain(text)}</td>'


def _plain(text: str) -> str:
    return escape(printable(text))
