"""The output checkpoint: reserved at once, written at offsets, published by one rename."""

import errno
import os
import resource
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from sdmw import linux
from sdmw.errors import OutputError, Problem, ResumeError, quoted
from sdmw.writing.journal import Journal
from sdmw.writing.layout import ShardLayout, index_bytes
from sdmw.writing.streamed import StreamedFile
from sdmw.writing.work_directory import WorkDirectory

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from numpy.typing import NDArray

IN_FLIGHT = 3  # writes handed over and not done, before the next one waits
_MOST_OPEN = 16  # shards open at once, two descriptors each: an output of a thousand must not use them up
_WRITERS = 2  # threads that wait for the disk, so that those that compute need not; measured: a third gains nothing


class Output:
    """A checkpoint being written beside its target.

    Beside TARGET stands `.TARGET.sdmw/` with the lock, the journal and `out/`. A reader of TARGET sees nothing or the
    whole. Threads of its own write what it is given, while who gave it computes on. A failure to write is final: the
    kernel may report lost data once only, so every later call raises the same error. Leaving the context unpublished
    removes all, unless by an error that says nothing against recipe or inputs: then what is done is kept for the next
    run, which the error's note says.

    Attributes:
        target: real path of the directory that will appear.
        path: of `out/`, to which other files may be added until it is published.
        layouts: the shards.
        records: what an earlier run had vouched for.
    """

    def __init__(self, target: str, layouts: Sequence[ShardLayout], *, overwrite: bool) -> None:
        self.layouts = tuple(layouts)
        self._overwrite = overwrite
        self._work = WorkDirectory(target)
        self.target, self.path = self._work.target, self._work.out
        self.records: list[Any] = []
        self._journal: Journal | None = None
        self._vouched = False  # something in the journal is worth keeping
        self._writing = ThreadPoolExecutor(_WRITERS, thread_name_prefix="sdmw-write")
        self._changed = threading.Condition()  # guards what follows; told when a writer leaves a shard
        self._in_flight: set[object] = set()
        self._files: dict[int, StreamedFile] = {}  # the last used one last
        self._failure: OutputError | None = None
        self._finished = False

    @classmethod
    def begin(
        cls, target: str, layouts: Sequence[ShardLayout], *, overwrite: bool, head: Any = None, resume: bool = True
    ) -> Self:
        """Takes the lock, reserves every shard and writes headers and index, or finds them as an earlier run left them.

        Args:
            target: as checked by `check_target`.
            layouts: the shards.
            overwrite: whether publishing may replace a directory.
            head: a JSON value; what an earlier run has done is gone on with where its head was equal.
            resume: False removes what an earlier run left.

        Raises:
            ResumeError: what is there was begun with another head; it stays.
            OutputError: another run writes there, or there is no room; nothing is left behind.
        """
        output = cls(target, layouts, overwrite=overwrite)
        try:
            with output._final(output._work.path):
                output._work.take()
                output._work.restore()
            with output._final(output.target):
                if not overwrite and os.path.lexists(output.target):  # another run was faster: tell it before the work
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            with output._final(output._work.path):
                output._journal = output._reopened(head) if resume else None
                if output._journal is None:
                    output._work.clear()
                    os.mkdir(output.path)
            for layout in layouts:
                output._reserve(layout)
            if len(layouts) > 1:
                output.add("model.safetensors.index.json", index_bytes(layouts))
            with output._final(output._work.path):
                output._journal = output._journal or Journal.begin(output._work.journal, head)
                output.records = output._journal.records[1:]
                output._vouched = bool(output.records)
        except ResumeError:
            output._work.release()
            raise
        except BaseException:
            output.discard()
            raise
        return output

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._work.held and self._vouched and getattr(error, "resumable", True):
            self._keep(error)
        else:
            self.discard()

    def write(self, shard: int, offset: int, data: "NDArray[Any] | ReadableBuffer") -> None:
        """Takes bytes of a shard to be written; from any thread, in any order. Waits only where the disk is far behind.

        Args:
            shard: index into `layouts`.
            offset: bytes from the beginning of the file, behind its header.
            data: a contiguous buffer, not to be changed any more.

        Raises:
            OutputError: an earlier write failed, or the output was discarded.
        """
        if self._finished:
            raise ValueError("no write may follow finish")
        layout = self.layouts[shard]
        view = memoryview(cast("ReadableBuffer", data))  # NumPy says so to type checkers from Python 3.12 on only
        if not len(layout.header) <= offset <= layout.size - view.nbytes:
            raise ValueError(f"{view.nbytes} bytes at {offset} are outside the data of {layout.name}")
        if not view.nbytes:  # an empty view cannot be cast
            return
        ticket = object()
        with self._changed:
            self._changed.wait_for(lambda: self._failure or len(self._in_flight) < IN_FLIGHT)
            if self._failure:
                raise self._failure
            self._in_flight.add(ticket)
            try:
                self._writing.submit(self._write, ticket, shard, offset, view.cast("B"))
            except RuntimeError as error:  # no thread can be started
                self._in_flight.discard(ticket)
                self._fail(self._path_of(shard), error)
                raise self._failure from error  # type: ignore[misc] # set just now

    def _write(self, ticket: object, shard: int, offset: int, data: memoryview) -> None:
        try:
            with self._final(self._path_of(shard), data.nbytes), self._opened(shard) as file:
                file.write(offset, data)
        except OutputError:
            pass  # whoever comes next is told
        except BaseException as error:  # a lack of memory, say; nobody else looks at this thread
            self._fail(self._path_of(shard), error)
        finally:
            with self._changed:
                self._in_flight.discard(ticket)
                self._changed.notify_all()

    def sync(self) -> None:
        """Makes durable what has been given to `write` so far; from any thread.

        Raises:
            OutputError: it cannot be.
        """
        with self._changed:
            given = set(self._in_flight)
            self._changed.wait_for(lambda: not given & self._in_flight)
            if self._failure:
                raise self._failure
            files = list(self._files.values())  # those that are closed were synced then
            for file in files:
                file.writers += 1
        try:
            with self._final(self.path):
                for file in files:
                    file.sync()
        finally:
            self._left(files)

    def vouch(self, records: Iterable[Any]) -> None:
        """Notes durably what a run need not do again; the data that records vouch for are synced before.

        Raises:
            OutputError: it cannot be written.
        """
        with self._final(self._work.journal):
            if self._journal and (worth := list(records)):
                self._journal.append(worth)
                self._vouched = True

    def read(self, shard: int, offset: int, nbytes: int) -> bytes:
        """What stands in a shard, perhaps left there by an earlier run; shorter where the file ends.

        Raises:
            OSError: the disk cannot read.
        """
        with self._opened(shard) as file:
            return file.read(offset, nbytes)

    def add(self, name: str, data: bytes) -> None:
        """Writes a file beside the shards, or writes it anew.

        Raises:
            OutputError: it cannot be written.
        """
        if name in ("", ".", "..") or os.path.basename(name) != name:
            raise ValueError(f"{name!r} is no plain file name")
        path = os.path.join(self.path, name)
        with self._final(path, len(data)), open(path, "wb") as file:
            file.write(data)

    def finish(self) -> None:
        """Makes the shards durable, and opens each as its consumers will. No write may follow.

        Raises:
            OutputError: a shard could not be written, or does not read as it was laid out.
        """
        with self._final(self.path):
            with self._changed:
                self._wait_for_writers()
                if self._failure:
                    raise self._failure
                while self._files:
                    self._files.popitem()[1].close(sync=True)
            self._writing.shutdown()
            for layout in self.layouts:
                linux.fsync_path(os.path.join(self.path, layout.name))
        for layout in self.layouts:
            _check(os.path.join(self.path, layout.name), layout)
        self._finished = True

    def publish(self) -> None:
        """Makes the directory appear at its target, durably, and removes the work directory.

        Raises:
            OutputError: it cannot be. The target is as it was, unless the error speaks of the parent directory.
        """
        if not self._finished:
            raise ValueError("an output is finished before it is published")
        with self._final(self.path):
            self._refuse_strays()
            for folder, _, names in os.walk(self.path, topdown=False):
                for name in names:
                    linux.fsync_path(os.path.join(folder, name))
                linux.fsync_path(folder)
        with self._final(self.target):
            self._work.rename(self._overwrite)
        with self._final(self._work.parent):
            try:
                linux.fsync_path(self._work.parent)
            except OSError:
                # Nobody knows which name is on disk, so a replaced checkpoint must not go yet.
                self._work.release()
                raise
        with self._final(self._work.path):
            self._work.remove()

    def discard(self) -> None:
        """Removes the work directory and lets go of the lock; waits for writes under way. Harmless when repeated.

        Raises:
            OutputError: something could not be removed; the lock is let go of all the same.
        """
        with self._changed:
            self._failure = self._failure or OutputError([Problem(self.target, "", "this output was let go")])
            self._close_all()
        try:
            self._work.remove()
        except OSError as error:
            problem = Problem(self._work.path, "", f"cannot be removed: {error}", "Remove it by hand")
            raise OutputError([problem]) from error

    def _keep(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or OutputError([Problem(self.target, "", "this output was let go")])
            self._close_all()
        self._work.release()
        error.add_note(f"what is done is kept in {self._work.path}: the same merge goes on after it")

    def _close_all(self) -> None:
        self._wait_for_writers()
        while self._files:
            with suppress(OSError):
                self._files.popitem()[1].close(sync=False)
        self._writing.shutdown()
        if self._journal:
            self._journal.close()
            self._journal = None

    def _reopened(self, head: Any) -> Journal | None:
        """The journal of an earlier run, its shards made ready; None where there is none to go on with."""
        journal = Journal.reopen(self._work.journal) if os.path.isdir(self.path) else None
        if journal is None:
            return None
        if problems := list(_differences(journal.records[0], head)):
            journal.close()
            raise ResumeError(problems)
        # Only shards are vouched for: what else is there is written anew, and may be of a target that was replaced.
        sizes = {layout.name: layout.size for layout in self.layouts}
        with os.scandir(self.path) as listing:
            for entry in listing:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                elif entry.is_symlink() or entry.stat().st_size != sizes.get(entry.name):
                    os.unlink(entry.path)
        return journal

    def _reserve(self, layout: ShardLayout) -> None:
        path = os.path.join(self.path, layout.name)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with self._final(path, layout.size), open(fd, "r+b") as file:
            if not linux.fallocate(file.fileno(), 0, layout.size):
                file.truncate(layout.size)
            file.write(layout.header)

    @contextmanager
    def _opened(self, shard: int) -> Iterator[StreamedFile]:
        """The shard's file, kept open for its next writer as long as there are not too many."""
        with self._changed:
            if self._failure:
                raise self._failure
            self._close_idle()
            file = self._files.pop(shard, None) or StreamedFile(self._path_of(shard))
            self._files[shard] = file
            file.writers += 1
        try:
            yield file
        finally:
            self._left([file])

    def _left(self, files: Sequence[StreamedFile]) -> None:
        with self._changed:
            for file in files:
                file.writers -= 1
            self._changed.notify_all()

    def _close_idle(self) -> None:
        idle = [shard for shard, file in self._files.items() if not file.writers]
        for shard in idle[: max(0, len(self._files) - _MOST_OPEN)]:
            # Synced before it is closed: an error that nobody has an open file to hear of would be lost.
            with self._final(self._path_of(shard)):
                self._files.pop(shard).close(sync=True)

    def _wait_for_writers(self) -> None:
        self._changed.wait_for(lambda: not (self._in_flight or any(file.writers for file in self._files.values())))

    def _path_of(self, shard: int) -> str:
        return os.path.join(self.path, self.layouts[shard].name)

    @contextmanager
    def _final(self, path: str, unwritten: int = 1) -> Iterator[None]:
        """Makes the first failure to write the only one: it is raised now and by whatever is tried later."""
        if self._failure:
            raise self._failure
        try:
            yield
        except OSError as error:
            try:
                missing = self._missing(error, unwritten)
            except OSError:  # a disk that fails may not say how full it is either
                missing = unwritten
            failure = linux.write_failed(path, error, missing)
            with self._changed:
                self._failure = self._failure or failure
            raise self._failure from error

    def _fail(self, path: str, error: BaseException) -> None:
        found = f"cannot be written: {type(error).__name__} {error}"
        with self._changed:
            self._failure = self._failure or OutputError([Problem(path, "", found)])

    def _missing(self, error: OSError, unwritten: int) -> int:
        """Bytes for which there was no room."""
        largest_file = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if error.errno == errno.EFBIG:
            largest = max((layout.size for layout in self.layouts), default=0)
            missing = 0 if largest_file == resource.RLIM_INFINITY else largest - largest_file
        else:
            room = linux.free(self._work.parent) if error.errno == errno.ENOSPC else 0  # what a quota leaves is unknown
            missing = sum(layout.size for layout in self.layouts) - linux.allocated(self.path) - room
        return missing if missing > 0 else unwritten

    def _refuse_strays(self) -> None:
        """Looks for shards that are not ours: vLLM reads every file of this suffix as weights."""
        found = {name for name in os.listdir(self.path) if name.endswith(".safetensors")}
        if strays := sorted(found - {layout.name for layout in self.layouts}):
            raise OutputError([Problem(self.path, "no shards but its own", ", ".join(map(quoted, strays)))])


def _differences(before: Any, now: Any) -> Iterator[Problem]:
    mend = "Restore it, or begin anew (--restart, resume=False)"
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if before != now:
            yield Problem("resume", "the merge that was begun", "another", mend)
        return
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            for name in sorted(old.keys() | new.keys()):
                if old.get(name) != new.get(name):
                    yield Problem(f"resume: {key}: {name}", "as it was when the kept run was begun", "changed", mend)
        elif old != new:
            yield Problem(f"resume: {key}", f"{quoted(old)}, with which the kept run was begun", quoted(new), mend)


def _check(path: str, layout: ShardLayout) -> None:
    from safetensors import SafetensorError, safe_open

    expected = {tensor.name: (list(tensor.shape), tensor.dtype.name) for tensor in layout.tensors}
    try:
        with safe_open(path, framework="np") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  it is no dict
            found = {name: (part.get_shape(), part.get_dtype()) for name, part in parts.items()}
    except (SafetensorError, OSError) as error:
        raise OutputError([Problem(path, "a shard that safetensors opens", str(error))]) from error
    if found != expected:
        raise OutputError([Problem(path, f"the {len(expected)} tensors laid out", "others or other shapes")])
