"""What arguments mean that several functions take."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sdmw.addresses import is_remote
from sdmw.errors import PlanError, Problem, UsageError, quoted
from sdmw.planning.limits import Apart, Limits
from sdmw.planning.plan import Plan
from sdmw.recipes.model_ref import expanded
from sdmw.recipes.recipe import Recipe
from sdmw.sizes import parse_size
from sdmw.storage import remote, remote_folder
from sdmw.storage.access import Access

if TYPE_CHECKING:
    from sdmw.reporting.extraction import ExtractionReport
    from sdmw.reporting.packing import PackReport
    from sdmw.reporting.report import Report
    from sdmw.running.events import Event
    from sdmw.stores.store import Store
    from sdmw.writing.output import Output

AnyReport = TypeVar("AnyReport", "Report", "ExtractionReport", "PackReport", "Store")
Path = str | os.PathLike[str]
RecipeLike = Recipe | Mapping[str, Any] | Path
Size = int | str  # bytes, or text such as "5GB", "1GiB"
ProgressLike: TypeAlias = "bool | Callable[[Event], None]"

MOST_THREADS = 1024


def path_of(given: Path) -> str:
    """A path as text, with `~` expanded as in recipes."""
    return expanded(os.fspath(given))


def folder_of(given: Path, argument: str) -> str:
    """As `path_of`, of what is read as files; UsageError where it is the address of a store."""
    if is_remote(path := path_of(given)):
        raise UsageError([Problem(argument, "a folder of this machine, such as a copy of it", quoted(path))])
    return path


def limits_of(budget: Size | None, threads: int | None, executor: object = None) -> Limits:
    """What a call allows; UsageError where that is no number. An executor's maker may tell of its workers (`apart`)."""
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MOST_THREADS):
        raise UsageError([Problem("threads", f"a whole number from 1 to {MOST_THREADS}", quoted(threads))])
    apart = getattr(executor, "apart", None)
    known = apart if isinstance(apart, Apart) else None
    return Limits(None if budget is None else parse_size(budget, "budget"), threads, known)


def access_of(header_limit: Size, download: bool, follow_links: bool = False, folder: Path | None = None) -> Access:
    """How far a call lets reading go; UsageError where that cannot be: no size, no directory.

    What an earlier call found in stores is forgotten, its config would stand beside weights that came since; and so are
    the credentials that it had.
    """
    remote_folder.forget()
    remote.forget()
    try:
        os.getcwd()
    except FileNotFoundError:
        mend = "Change to an existing directory (cd)"
        raise UsageError([Problem("current directory", "an existing directory", "a removed one", mend)]) from None
    place = None if folder is None else path_of(folder)
    if place is not None and not os.path.isdir(place):
        raise UsageError([Problem("inputs", "a directory", quoted(place))])
    return Access(download, parse_size(header_limit, "header_limit"), follow_links, place)


def check_executor(executor: object) -> None:
    """UsageError where it is neither an executor nor a function."""
    if not (executor is None or callable(executor) or isinstance(executor, Executor)):
        raise UsageError([Problem("executor", "an Executor, or a function that makes one", quoted(executor))])


def check_progress(progress: object) -> None:
    """UsageError where it is neither a truth value nor a function."""
    if not (callable(progress) or isinstance(progress, bool)):
        raise UsageError([Problem("progress", "True, False or a callable", quoted(progress))])


@contextmanager
def receiver(progress: ProgressLike) -> "Iterator[Callable[[Event], None]]":
    """What takes a run's events: the caller's function, the terminal, or nothing."""
    if callable(progress):
        yield progress
    elif progress:
        from sdmw.reporting.display import Display

        with Display() as display:
            yield display
    else:
        yield lambda _event: None


def with_warnings(report: AnyReport, publication: "Output", *planned: str) -> AnyReport:
    """A report that also tells what is odd about its output: what was planned, and what publishing it found."""
    told = dict.fromkeys((*planned, *report.warnings, *publication.warnings))
    return dataclasses.replace(report, warnings=tuple(told))


def sound(planned: Plan) -> Plan:
    """A plan that can be carried out; PlanError where there are problems."""
    if planned.problems or planned.base is None:
        raise PlanError(planned.problems)
    return planned
