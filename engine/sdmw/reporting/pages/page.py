"""A page as values: sections of paragraphs, tables and charts. A chart draws what a table of the page says."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from sdmw.errors import printable

NAME = "sdmw_report.html"
Kind = Literal["text", "number", "count", "share"]
Cell = str | float | int | None
MISSING = "–"


class Column(NamedTuple):
    """Of a table.

    Attributes:
        field: what charts call it; letters, digits and underscores.
        title: what people read.
        kind: how its cells are written.
    """

    field: str
    title: str
    kind: Kind = "text"

    def shown(self, cell: Cell) -> str:
        """A cell as people, and charts, read it."""
        if cell is None:
            return MISSING
        if isinstance(cell, str):
            return printable(cell).replace("\n", "\\n")
        match self.kind:
            case "count":
                return f"{cell:,}"
            case "share":
                return f"{cell:.2%}"
        return f"{cell:.5g}"


class Table(NamedTuple):
    """Rows of cells.

    Attributes:
        name: what charts call it, and links; once in a page.
        title: what people read.
        columns: at least one.
        rows: a cell for each column.
        folded: it opens by a click.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False

    def shown_rows(self) -> Iterator[list[tuple[str, str]]]:
        """Of each row the kind and the text of its cells."""
        for row in self.rows:
            yield [(column.kind, column.shown(cell)) for column, cell in zip(self.columns, row, strict=True)]


class Chart(NamedTuple):
    """A picture of a table.

    Attributes:
        title: what people read above it.
        table: the name of the table that it draws.
        spec: Vega-Lite, less its data.
        said: what it shows, for those who do not see it.
    """

    title: str
    table: str
    spec: Mapping[str, Any]
    said: str


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Points(NamedTuple):
    """A list of sentences.

    Attributes:
        sort: what they are.
        texts: each of them.
    """

    sort: Literal["warning", "note"]
    texts: tuple[str, ...]


class Code(NamedTuple):
    """Lines to be typed, or a file."""

    title: str
    text: str


Part = Text | Points | Code | Table | Chart


class Section(NamedTuple):
    """A question, and the parts of its answer."""

    question: str
    parts: tuple[Part, ...]

    @property
    def anchor(self) -> str:
        """What links to it."""
        return re.sub(r"[^a-z]+", "-", self.question.lower()).strip("-")


class Page(NamedTuple):
    """All that a reader sees.

    Attributes:
        title: in one line.
        facts: a word and what is said, at the top.
        sections: in the order of a reader's questions.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


def columns_of(*columns: Sequence[str]) -> tuple[Column, ...]:
    """Columns from their field, title and kind."""
    return tuple(Column(*column) for column in columns)  # type: ignore[arg-type]
