"""The input formats, one module each, found by listing this folder; modules with an underscore are shared by them.

A format offers:
    recognises(path: str) -> bool: whether it reads that directory.
    read(path: str, access: Access) -> Checkpoint: headers and config, checked.
"""

import pkgutil
from functools import cache
from importlib import import_module
from typing import Protocol, cast

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats._refusals import refusal
from sdmw.storage.access import LEAST, Access


class Format(Protocol):
    """What a module of this folder offers."""

    def recognises(self, path: str) -> bool:
        """Whether the format reads this directory; looks at names only."""

    def read(self, path: str, access: Access) -> Checkpoint:
        """The checked checkpoint in a directory; CheckpointError with all that is wrong."""


@cache
def formats() -> dict[str, Format]:
    """Every format by its module's name."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return {name: cast(Format, import_module(f"{__name__}.{name}")) for name in names}


def read(path: str, access: Access = LEAST) -> Checkpoint:
    """Reads and checks all headers and the config of a checkpoint directory; no tensor data.

    Args:
        path: the directory.
        access: how far reading may go.

    Raises:
        CheckpointError: with every problem that headers, index and config tell.
    """
    for form in formats().values():
        if form.recognises(path):
            return form.read(path, access)
    raise refusal(path, access)
