"""What a notebook shows of a result: a line and a small table, as HTML without scripts (IPython's `_repr_html_`)."""

from collections.abc import Sequence
from importlib.resources import files

from sdmw.errors import printable

MOST_ROWS = 20
Cell = str | tuple[str, float]  # a text, or a text over a bar of this share of its cell's width


def fragment(title: str, headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A line and a table below it, of at most 20 rows; what more there are is said.

    Args:
        title: the line.
        headings: of the columns; empty for a table of pairs.
        rows: cells for each column.
    """
    from jinja2 import Template

    template = Template(
        files("sdmw").joinpath("notebook.html.jinja").read_text(), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    text: str = template.render(
        title=printable(title),
        headings=[*map(printable, headings)],
        rows=[[*map(_drawn, row)] for row in rows[:MOST_ROWS]],
        more=f"{left:,}" if (left := len(rows) - MOST_ROWS) > 0 else "",
    )
    return text


def _drawn(cell: Cell) -> tuple[str, float | None]:
    """The text, and the width of its bar in percent."""
    if isinstance(cell, str):
        return printable(cell), None
    text, share = cell
    return printable(text), round(100 * min(1.0, max(0.0, share)), 1)
