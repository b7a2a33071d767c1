"""What comes back, on standard output: as JSON, or as people read it; warnings go to standard error."""

import sys
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar


class Told(Protocol):
    """What a command got."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""


T = TypeVar("T", bound=Told)


def show(
    found: T, as_json: bool, people: Callable[[T], None], warnings: Iterable[str] = (), notes: Iterable[str] = ()
) -> None:
    """Print what was found.

    Args:
        found: by the api.
        as_json: as JSON, which says all; warnings and notes are shown all the same.
        people: prints it for people.
        warnings: of what was found.
        notes: likewise.
    """
    from sdmw.reporting import terminal

    terminal.print_warnings(warnings, notes)
    if as_json:
        print_json(found.to_dict())
    else:
        people(found)


def print_json(data: dict[str, Any]) -> None:
    """Print plain data; JSON is UTF-8 whatever the terminal is."""
    from sdmw.reporting.as_json import as_json

    sys.stdout.buffer.write(as_json(data).encode())
