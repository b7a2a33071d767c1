"""What can go wrong, as one tree of exceptions; each carries problems that a person can act on."""

import re
import signal
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LONGEST_NAME = 200  # characters of a name that came from a file, in a message
MOST_NAMES = 5  # names in one message; the rest is counted
MOST_OF_A_KIND = 50  # problems that are listed; the rest of the kind is counted
MOST_KINDS = 20  # with more, the last kinds share one count

# Names and numbers: what differs between two problems of one kind.
_PARTICULARS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|/\S+|[\d,.]*\d""")


# A password may hold a slash; what follows a colon as a number is a port.
_USER = re.compile(r"(\w://)(?:[^\s/'\"]*|[^\s/'\":]*:(?!\d+(?:[/\s'\"]|$))[^\s'\"]*)@")
_PARAMETERS = re.compile(r"(\w://[^\s?'\"]*)\?[^\s'\"]*")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: the file, line, tensor or field.
        expected: what should have been there; empty where the finding says it all.
        found: what is there.
        mend: what to do about it.
        excerpt: lines of the file that show it, the last of them a caret; empty where there is no use for them.
    """

    where: str
    expected: str
    found: str
    mend: str = ""
    excerpt: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("where", "expected", "found", "mend"):
            if "://" in (said := getattr(self, name)):
                object.__setattr__(self, name, without_secrets(said))
        if any("://" in line for line in self.excerpt):
            object.__setattr__(self, "excerpt", tuple(map(without_secrets, self.excerpt)))

    def __str__(self) -> str:
        said = f"expected {self.expected}, found {self.found}" if self.expected else self.found
        lines = (f"{self.where}: {said}" + (f". {self.mend}" if self.mend else ""), *self.excerpt)
        # A file's name may hold a line end; a problem is one line all the same, with its excerpt below it.
        return "\n".join(printable(line).replace("\n", "\\n") for line in lines)


def shorten(problems: Iterable[Problem], where: str = "") -> list[Problem]:
    """The problems as they are listed: of each kind the first 50, then how many more there are.

    Two problems are of one kind if they say the same of different names and numbers. The rule holds wherever problems
    are listed; to shorten a list again changes nothing.

    Args:
        problems: all of them.
        where: what a count is about; by default the file of the first problem that is only counted.
    """
    listed: list[Problem] = []
    shown: Counter[tuple[str, ...]] = Counter()
    hidden: dict[tuple[str, ...], tuple[str, int]] = {}
    for problem in problems:
        kind = _kind(problem)
        kind = kind if kind in shown or len(shown) < MOST_KINDS else ()
        shown[kind] += 1
        if shown[kind] <= MOST_OF_A_KIND:
            listed.append(problem)
        else:
            hidden.setdefault(kind, (where or problem.where.split(": tensor ")[0], shown[kind] - 1))
    counts = (Problem(place, "", f"and {shown[kind] - before} more problems of this kind")
              for kind, (place, before) in hidden.items())  # fmt: skip
    return [*listed, *counts]


def _kind(problem: Problem) -> tuple[str, ...]:
    return _PARTICULARS.sub("", problem.expected), _PARTICULARS.sub("", problem.found)


class SdmwError(Exception):
    """The root: catch it to catch everything that sdmw raises on purpose.

    Attributes:
        problems: at least one; of many problems of one kind, the first ones and a count (`shorten`).
        exit_code: the exit code of the command line.
        resumable: whether finished work is kept, because neither recipe nor inputs are at fault.
    """

    exit_code = 1
    resumable = False

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(shorten(problems))
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class UsageError(SdmwError):
    """An argument of a call is no size, no thread count, no progress."""

    exit_code = 2


class RecipeError(SdmwError):
    """The recipe is not in the language, or asks for what is not there."""

    exit_code = 2


class CheckpointError(SdmwError):
    """An input is not a checkpoint that can be read: files, headers, index, config."""


class UnreachableError(CheckpointError):
    """A file of an input lies in a store that cannot be read now."""

    resumable = True


class ArchiveError(SdmwError):
    """A delta archive cannot be read: it is damaged, or none of this format."""


class StoreError(SdmwError):
    """A statistics store cannot be read: it is damaged, or none of this version."""


class PlanError(SdmwError):
    """Recipe, headers, output or budget do not fit together; nothing was read or written."""


class MissingExtraError(SdmwError):
    """An optional package is needed and not installed."""


class RunError(SdmwError):
    """Something that only the data or the machine could tell, while running."""

    resumable = True


class LostWorkerError(RunError):
    """The executor that a run works with broke: a worker was killed, say."""


class NonFiniteError(RunError):
    """NaN or infinity in an input, or a delta or result that overflows."""

    resumable = False


class DisagreementError(RunError):
    """Inputs hold different values where they must agree."""

    resumable = False


class InputChangedError(RunError):
    """An input is not the file that was planned with."""

    resumable = False


class OtherFilesError(RunError):
    """A worker in another process sees another file under an input's path, or none."""


class OtherModelError(RunError):
    """A delta archive was given a model that it does not belong to."""

    resumable = False


class OutputError(RunError):
    """The output cannot be written, checked or published."""


class ResumeError(OutputError):
    """What an earlier run left belongs to another merge."""


class StoppedError(RunError):
    """A signal asked the run to stop.

    Attributes:
        signum: its number; the exit code is 128 more.
    """

    def __init__(self, signum: int) -> None:
        name = signal.Signals(signum).name
        super().__init__([Problem(name, "", "stopped by this signal")])
        self.signum = signum
        self.exit_code = 128 + signum


def quoted(name: object) -> str:
    """A name that came from a file, as it may be shown: `repr`, cut at 200 characters."""
    shown = repr(name)
    return shown if len(shown) <= LONGEST_NAME else f"{shown[:LONGEST_NAME]}…{shown[-1]}"


def some(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    shown = ", ".join(quoted(name) for name in names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES} more"


def without_secrets(text: str) -> str:
    """The text with what addresses in it may have of credentials and signatures left out."""
    return _PARAMETERS.sub(r"\1?…", _USER.sub(r"\1…@", text))


def printable(text: str) -> str:
    """The text with terminal controls spelled out; line ends and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
