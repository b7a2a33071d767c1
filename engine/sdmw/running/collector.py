"""Python's collector of cycles in a process of ours. What a command loads and plans lasts until its exit."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_waits = False  # for the passes of a command


@contextmanager
def nothing_to_collect() -> Iterator[None]:
    """Own this process's collector from here to its exit: it waits for the passes, and does not work at the exit.

    It would go through all functions and classes several times while they are loaded, and twice at the exit.
    """
    global _waits
    gc.disable()
    _waits = True
    try:
        yield
    finally:
        gc.freeze()


def collect_from_here() -> None:
    """Let the collector work on what is made from here on, in a process of ours; in any other nothing changes."""
    global _waits
    if _waits:
        _waits = False
        gc.freeze()
        gc.enable()
