"""A page as values: sections of paragraphs, tables and charts. A chart draws what a table of the page says."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from sdmw.errors import printable

NAME = "sdmw_report.html"
Kind = Literal["text", "number", "count", "share"]
Cell = str | float | int | None
MISSING = "–"
PIECES = 1000  # of a page that are put together at once: all of 40,000 rows take 80 MB


@dataclass(frozen=True, slots=True)
class Column:
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


@dataclass(frozen=True, slots=True)
class Table:
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


@dataclass(frozen=True, slots=True)
class Chart:
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


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Points:
    """A list of sentences.

    Attributes:
        sort: what they are.
        texts: each of them.
    """

    sort: Literal["warning", "note"]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to be typed, or a file."""

    title: str
    text: str


Part = Text | Points | Code | Table | Chart


@dataclass(frozen=True, slots=True)
class Section:
    """A question, and the parts of its answer."""

    question: str
    parts: tuple[Part, ...]

    @property
    def anchor(self) -> str:
        """What links to it."""
        return re.sub(r"[^a-z]+", "-", self.question.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Page:
    """All that a reader sees.

    Attributes:
        title: in one line.
        facts: a word and what is said, at the top.
        sections: in the order of a reader's questions.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


def html_of(page: Page) -> str:
    """A page as one HTML file, which fetches nothing; names in it are only ever text."""
    drawn = any(isinstance(part, Chart) for section in page.sections for part in section.parts)
    scripts = [_file("vega", name) for name in ("vega.min.js", "vega-lite.min.js")] if drawn else []
    stream = _template().stream(page=page, scripts=[*scripts, _file("page.js")], style=_file("page.css"))
    stream.enable_buffering(PIECES)
    return "".join(stream)


def kind_of(part: Part) -> str:
    """The word by which the template knows a part."""
    return type(part).__name__.lower()


def columns_of(*columns: Sequence[str]) -> tuple[Column, ...]:
    """Columns from their field, title and kind."""
    return tuple(Column(*column) for column in columns)  # type: ignore[arg-type]


@cache
def _template() -> Any:
    from jinja2 import BaseLoader, Environment, StrictUndefined

    environment = Environment(
        loader=BaseLoader(), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["kind"] = kind_of
    environment.filters["printable"] = printable
    return environment.from_string(_file("page.html.jinja"))


@cache
def _file(*path: str) -> str:
    return files(__package__).joinpath(*path).read_text(encoding="utf-8")
