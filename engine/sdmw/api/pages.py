"""Pages that people look at."""

import os
from typing import TYPE_CHECKING

from sdmw.api.arguments import Path, folder_of
from sdmw.errors import CheckpointError, OutputError, Problem, UsageError, quoted

if TYPE_CHECKING:
    from sdmw.reporting.comparison import Comparison
    from sdmw.reporting.pages.page import Page
    from sdmw.reporting.report import Report
    from sdmw.stores.store import Store

LARGEST_RECIPE = 16 * 2**20  # bytes


def report(
    of: "Path | Report | Store | Comparison",
    to: Path = "sdmw_report.html",
    *,
    statistics: "Store | Path | None" = None,
    overwrite: bool = False,
) -> str:
    """Write the page of a merge, a store or a comparison: one HTML file that loads nothing else.

    `merge` leaves the page of a merge in its output; with statistics the page also tells whether the models agree.

    Args:
        of: the output of a merge, a statistics store, or what `merge`, `measure` or `compare` returned.
        to: the file to create.
        statistics: for a merge, a store that `measure` made of the same inputs.
        overwrite: replace an existing file.

    Returns:
        The path of the file.

    Raises:
        UsageError: `of` has no page, the store is of other models, or the file exists.
        CheckpointError: the directory holds no report that this version reads.
        StoreError: the store is damaged.
        OutputError: the file cannot be written.
    """
    path = folder_of(to, "to")
    if os.path.isdir(path):
        raise UsageError([Problem(quoted(path), "the name of a file", "a directory", "Name a file in it")])
    if os.path.lexists(path) and not overwrite:
        mend = "Choose another name, or overwrite it (--overwrite)"
        raise UsageError([Problem(quoted(path), "a new file", "an existing one", mend)])
    from sdmw.reporting.pages.rendering import html_of

    _write(path, html_of(_page(of, statistics)))
    return path


def _page(of: "Path | Report | Store | Comparison", statistics: "Store | Path | None") -> "Page":
    from sdmw.reporting.comparison import Comparison
    from sdmw.reporting.pages.comparison import page_of_comparison
    from sdmw.reporting.pages.merge import page_of_merge
    from sdmw.reporting.report import Report
    from sdmw.stores.store import Store, read_store

    opened = of if isinstance(of, Report | Store | Comparison) else _opened(folder_of(of, "of"))
    if isinstance(opened, Report):
        store = (
            statistics
            if statistics is None or isinstance(statistics, Store)
            else read_store(folder_of(statistics, "statistics"))
        )
        if store is None:
            return page_of_merge(opened, _recipe(opened))
        from sdmw.reporting.pages.evidence import evidence_for

        return page_of_merge(opened, _recipe(opened), evidence_for(opened, store))
    if statistics is not None:
        found = "a comparison" if isinstance(opened, Comparison) else "a store"
        raise UsageError([Problem("statistics", "a merge, which statistics describe further", found)])
    if isinstance(opened, Comparison):
        return page_of_comparison(opened)
    from sdmw.reporting.pages.store import page_of_store

    return page_of_store(opened)


def _opened(path: str) -> "Report | Store":
    """A merge's report or a store, whichever the directory holds."""
    from sdmw.reporting.report import Report
    from sdmw.stores.store import ATTRIBUTES, read_store

    return read_store(path) if os.path.isfile(os.path.join(path, ATTRIBUTES)) else Report.load(path)


def _recipe(report: "Report") -> str:
    """The recipe beside a report, or a sentence that it is missing."""
    from sdmw.storage.files import read_bounded

    for name in ("sdmw_recipe.yaml", "mergekit_config.yml"):
        if name in report.files.written:
            try:
                return read_bounded(report.path, name, LARGEST_RECIPE).decode(errors="replace")
            except CheckpointError as error:
                return f"# {error.problems[0].found}"
    return "# no recipe was written"


def _write(path: str, text: str) -> None:
    """All of a file, or none of it."""
    beside = f"{path}.{os.getpid()}.part"
    try:
        with open(beside, "x", encoding="utf-8") as file:
            try:
                file.write(text)
                file.flush()
                os.replace(beside, path)
            except BaseException:
                os.unlink(beside)
                raise
    except OSError as error:
        raise OutputError([Problem(quoted(path), "a file that can be written", str(error.strerror))]) from None
