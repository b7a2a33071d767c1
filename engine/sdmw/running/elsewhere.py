"""What is particular about a task that runs in another process than the one that drives the merge."""

import dataclasses
import io
import pickle
import threading
import traceback
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from types import NotImplementedType
from typing import Any, cast

from sdmw.errors import OtherFilesError, Problem, RunError, SdmwError
from sdmw.kernels import ready
from sdmw.storage.shard import Shard
from sdmw.tensors import lost_pages
from sdmw.tensors.read_ahead import HELD, blocks
from sdmw.tensors.tile_memory import forget
from sdmw.version import __version__

_lock = threading.Lock()
_run: str | None = None  # whose tasks this process has last carried out


@dataclass(frozen=True, slots=True)
class Setting:
    """What a process needs to know of a run before its first task.

    Attributes:
        kernels: groups that the run needs beside those that every run does.
        inputs: fingerprints of the files that are read, as the driver saw them.
        ahead: bytes that may be fetched ahead from stores, by all threads of a process.
        version: of the driver's sdmw.
    """

    kernels: tuple[str, ...]
    inputs: tuple[Shard, ...]
    ahead: int = 0
    version: str = __version__


@dataclass(frozen=True, slots=True)
class Raised:
    """What a task raised, as a value: what an executor itself raises then tells of a lost worker, whatever it is."""

    error: Exception


def packed(function: Callable[..., object], arguments: tuple[object, ...]) -> bytes:
    """A task as it travels."""
    with io.BytesIO() as buffer:
        _Packer(buffer, pickle.HIGHEST_PROTOCOL).dump((function, arguments))
        return buffer.getvalue()


class _Packer(pickle.Pickler):
    """Pickles a frozen dataclass as its class and its values.

    `pickle` alone lists the fields anew for each object: half of the time that a driver takes for a task.
    """

    def reducer_override(self, thing: Any) -> tuple[type[Any], tuple[object, ...]] | NotImplementedType:
        """What makes an equal one; as of `pickle.Pickler`."""
        names = _arguments_of(cast("Hashable", type(thing)))
        return (type(thing), tuple(getattr(thing, name) for name in names)) if names else NotImplemented


@cache
def _arguments_of(kind: Any) -> tuple[str, ...]:
    """The names of a class's arguments in order, where it is a frozen dataclass with slots that they make whole."""
    if not dataclasses.is_dataclass(kind) or getattr(kind.__getstate__, "__module__", "") != dataclasses.__name__:
        return ()
    fields = dataclasses.fields(kind)
    whole = all(each.init and not each.kw_only for each in fields) and kind.__reduce__ is object.__reduce__
    return tuple(each.name for each in fields) if whole else ()


def elsewhere(run: str, setting: bytes, task: bytes) -> object:
    """Carry out a task in a process that was set up for its run.

    Args:
        run: tells runs apart: what is kept of the files of one may be wrong for another.
        setting: a pickled `Setting`, which the first task of a run looks at.
        task: as `packed`. Both have come by the executor, which already had to be trusted.

    Returns:
        The task's result, or what was raised, as `Raised`.
    """
    try:
        _set_up(run, setting)
        function, arguments = pickle.loads(task)  # noqa: S301
        return function(*arguments)
    except Exception as error:
        if not isinstance(error, SdmwError):
            error.add_note(traceback.format_exc())  # a traceback does not travel
        return Raised(error)


def _set_up(run: str, setting: bytes) -> None:
    """Once for each run in a process: a lost page does not end the process, and nothing of another run is left.

    Raises:
        OtherFilesError: this process does not see the files that the driver sees.
        RunError: it has another version of sdmw.
    """
    global _run
    with _lock:
        if _run == run:
            return
        needs: Setting = pickle.loads(setting)  # noqa: S301
        if needs.version != __version__:
            mend = "Install the same version on all machines"
            raise RunError(
                [Problem("worker", f"sdmw {needs.version}, as on the machine that runs the merge", __version__, mend)]
            )
        if other := [(shard.path, found) for shard in needs.inputs if (found := shard.seen_here())]:
            mend = "Give the workers the same files under the same paths"
            raise OtherFilesError(
                [Problem(path, "", f"on a worker this file {found}, unlike on the machine that runs the merge", mend)
                 for path, found in other]
            )  # fmt: skip
        ready.prepare(lambda _: None, groups=needs.kernels)
        lost_pages.guard_for_good()
        forget()
        blocks.capacity = max(needs.ahead, HELD)
        _run = run
