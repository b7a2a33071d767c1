"""A page as HTML, from a template that a wheel brings compiled."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sdmw.errors import printable
from sdmw.reporting.pages.page import Chart, Page, Part

if TYPE_CHECKING:
    from jinja2 import Environment

SOURCES = Path(__file__).parent
PLACE = SOURCES / "compiled"  # in wheels
TEMPLATE = "page.html.jinja"
PIECES = 1000  # of a page that are put together at once: all of 40,000 rows take 80 MB


def html_of(page: Page) -> str:
    """A page as one HTML file, which fetches nothing; names in it are only ever text."""
    drawn = any(isinstance(part, Chart) for section in page.sections for part in section.parts)
    scripts = [_file("vega", name) for name in ("vega.min.js", "vega-lite.min.js")] if drawn else []
    template = _environment().get_template(TEMPLATE)
    stream = template.stream(page=page, scripts=[*scripts, _file("page.js")], style=_file("page.css"))
    stream.enable_buffering(PIECES)
    return "".join(stream)


def kind_of(part: Part) -> str:
    """The word by which the template knows a part."""
    return type(part).__name__.lower()


def compile_into(place: Path) -> None:
    """Write the template as Python, which spares a process 15 ms; the work of a wheel's build."""
    from jinja2 import FileSystemLoader

    environment = _environment().overlay(loader=FileSystemLoader(SOURCES))
    environment.compile_templates(_compiled(place), extensions=["jinja"], zip=None, ignore_errors=False)


@cache
def _environment() -> "Environment":
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, ModuleLoader, StrictUndefined

    loader = ChoiceLoader([ModuleLoader(_compiled(PLACE)), FileSystemLoader(SOURCES)])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["kind"] = kind_of
    environment.filters["printable"] = printable
    return environment


def _compiled(place: Path) -> Path:
    """Where templates lie that this release of Jinja can run; the number is that of its own cache of bytecode."""
    from jinja2.bccache import bc_version

    return place / f"jinja-{bc_version}"


@cache
def _file(*path: str) -> str:
    return SOURCES.joinpath(*path).read_text(encoding="utf-8")
