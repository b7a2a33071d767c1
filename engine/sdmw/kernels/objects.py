"""A file of object code: a ZIP archive, whose checksums tell what is damaged."""

import json
import os
import zipfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdmw.kernels.entry import Entry

_ENTRIES = "entries.json"


class DamagedError(Exception):
    """A file is not what was written."""


def write(path: Path, objects: Iterable[tuple[Entry, bytes]]) -> None:
    """Write a file, which is not seen before it is whole.

    Args:
        path: of the file.
        objects: each function, and the object file that it is in.
    """
    written = path.with_name(f"{path.name}.{os.getpid()}")
    entries: list[dict[str, Any]] = []
    with zipfile.ZipFile(written, "w") as archive:
        for entry, content in objects:
            archive.writestr(str(len(entries)), content)
            entries.append(asdict(entry))
        archive.writestr(_ENTRIES, json.dumps(entries))
    written.replace(path)


def read(path: Path) -> list[tuple[Entry, bytes]]:
    """What was written to a file.

    Raises:
        DamagedError: it holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [Entry(**each) for each in json.loads(archive.read(_ENTRIES))]
            return [(entry, archive.read(str(number))) for number, entry in enumerate(entries)]
    except Exception as error:  # a damaged archive raises anything
        raise DamagedError(str(path)) from error
