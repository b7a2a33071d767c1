"""Where merged bytes go: a value that any process can write with."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

from sdmw.errors import OutputError, Problem
from sdmw.writing.shard_writer import ShardWriter
from sdmw.writing.work_directory import run_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from numpy.typing import NDArray

    from sdmw.writing.layout import ShardLayout


@dataclass(frozen=True, slots=True)
class SinkShard:
    """One shard as writing sees it: its name, and where its data start and stop in the file."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Sink:
    """The shards of an output that exists, to be written at offsets by any thread of any process.

    The process that made the output keeps its files open and writes behind: `write` returns before the bytes are on
    their way. In another process, which sees the same folder, what a task has written is durable when its `settle`
    returns, and nothing stays open. Frozen and picklable.

    Attributes:
        folder: the directory that holds the shards.
        shards: the shards.
        run: tells runs apart that write one folder one after the other.
    """

    folder: str
    shards: tuple[SinkShard, ...]
    run: str

    @classmethod
    def of(cls, folder: str, layouts: "Sequence[ShardLayout]", run: str) -> "Sink":
        """The sink of shards as they are laid out."""
        return cls(folder, tuple(SinkShard(each.name, len(each.header), each.size) for each in layouts), run)

    def write(self, shard: int, offset: int, data: "NDArray[Any] | ReadableBuffer") -> None:
        """Take bytes of a shard to be written; from any thread, in any order. Waits only where the disk is far behind.

        Args:
            shard: index into `shards`.
            offset: bytes from the beginning of the file, behind its header.
            data: a contiguous buffer, not to be changed any more.

        Raises:
            OutputError: an earlier write failed, the output was discarded, or another run writes it now.
        """
        place = self.shards[shard]
        view = memoryview(cast("ReadableBuffer", data))  # NumPy says so to type checkers from Python 3.12 on only
        if not place.start <= offset <= place.stop - view.nbytes:
            raise ValueError(f"{view.nbytes} bytes at {offset} are outside the data of {place.name}")
        if view.nbytes:  # an empty view cannot be cast
            self._writer().write(self.path_of(shard), offset, view.cast("B"))

    def read(self, shard: int, offset: int, nbytes: int) -> bytes:
        """What stands in a shard, perhaps left there by an earlier run; shorter where the file ends.

        Raises:
            OSError: the disk cannot read.
        """
        return self._writer().read(self.path_of(shard), offset, nbytes)

    def settle(self) -> None:
        """At the end of a task: in a process that did not make the output, make durable what this thread has written.

        Raises:
            OutputError: it cannot be.
        """
        with _lock:
            writer = _elsewhere.pop((self.run, threading.get_ident()), None)
        if writer:
            writer.close(sync=True)

    def at_home(self, threads: int) -> ShardWriter:
        """The writer of the process that makes the output: it keeps the writer, and closes it in the end.

        Args:
            threads: how many compute what is written.
        """
        writer = ShardWriter(self.folder, [shard.stop for shard in self.shards], threads)
        with _lock:
            return _at_home.setdefault(self.run, writer)

    def path_of(self, shard: int) -> str:
        """Of a shard's file."""
        return os.path.join(self.folder, self.shards[shard].name)

    def _writer(self) -> ShardWriter:
        with _lock:
            if found := _at_home.get(self.run):
                return found
            # By thread, so that one task's end closes nothing that another still writes.
            key = (self.run, threading.get_ident())
            if key not in _elsewhere:
                if run_of(self.folder) != self.run:
                    raise OutputError([Problem(self.folder, "", "the run that this task belongs to has ended")])
                _elsewhere[key] = ShardWriter(self.folder, [shard.stop for shard in self.shards])
            return _elsewhere[key]


_lock = threading.Lock()
_at_home: WeakValueDictionary[str, ShardWriter] = WeakValueDictionary()  # by run
_elsewhere: dict[tuple[str, int], ShardWriter] = {}  # by run and thread


def _after_fork() -> None:
    """A forked child is another process: the threads of its parent's writers are not in it."""
    global _lock
    _lock = threading.Lock()
    _at_home.clear()
    _elsewhere.clear()


os.register_at_fork(after_in_child=_after_fork)
