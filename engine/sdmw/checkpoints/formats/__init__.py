"""The input formats, one module each, found by listing this folder; modules with an underscore are shared by them.

A format offers:
    recognises(path: str) -> bool: whether it reads that directory.
    read(path: str, *, header_limit: int) -> Checkpoint: headers and config, checked.
"""

import pkgutil
from functools import cache
from importlib import import_module
from typing import Protocol, cast

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats._refusals import refusal
from sdmw.storage.files import HEADER_LIMIT as HEADER_LIMIT


class Format(Protocol):
    """What a module of this folder offers."""

    def recognises(self, path: str) -> bool:
        """Whether the format reads this directory; looks at names only."""

    def read(self, path: str, *, header_limit: int) -> Checkpoint:
        """The checked checkpoint in a directory; CheckpointError with all that is wrong."""


@cache
def formats() -> dict[str, Format]:
    """Every format by its module's name."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return {name: cast(Format, import_module(f"{__name__}.{name}")) for name in names}


def read(path: str, *, header_limit: int = HEADER_LIMIT) -> Checkpoint:
    """Reads and checks all headers and the config of a checkpoint directory; no tensor data.

    Args:
        path: the directory.
        header_limit: bytes that one shard's header may have.

    Raises:
        CheckpointError: with every problem that headers, index and config tell.
    """
    for form in formats().values():
        if form.recognises(path):
            return form.read(path, header_limit=header_limit)
    raise refusal(path)
