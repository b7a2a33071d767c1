"""Writes shards by threads of its own, so that those that compute need not wait for the disk."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from sdmw.errors import OutputError, Problem
from sdmw.writing.failure import FirstFailure
from sdmw.writing.streamed import StreamedFile

FEWEST = 2  # threads that wait for the disk; measured: with two that compute a third gains nothing
_MOST_OPEN = 16  # shards open at once, two descriptors each: an output of a thousand must not use them up


def writers_for(threads: int) -> int:
    """How many threads should wait for the disk where so many compute: one write at a time is a part of a fast disk."""
    return max(FEWEST, threads // 2)


def in_flight(threads: int) -> int:
    """How many writes may be handed over and not done, before the next one waits."""
    return writers_for(threads) + 1


class ShardWriter:
    """The files of one output in one process. A failure to write is final; every later call raises the same error.

    Attributes:
        failure: the first failure to write.
    """

    def __init__(self, folder: str, sizes: Sequence[int], threads: int = 1) -> None:
        """`sizes`: of the shards, in bytes; `threads`: how many give it something to write."""
        self.failure = FirstFailure(folder, sizes)
        self._folder = folder
        self._writing = ThreadPoolExecutor(writers_for(threads), thread_name_prefix="sdmw-write")
        self._most = in_flight(threads)
        self._changed = threading.Condition()  # guards what follows; told when a writer leaves a shard
        self._in_flight: set[object] = set()
        self._files: dict[str, StreamedFile] = {}  # the last used one last
        self._closed = False

    def write(self, path: str, offset: int, data: memoryview) -> None:
        """Take bytes to be written at an offset of an existing file. Waits only where the disk is far behind.

        Raises:
            OutputError: an earlier write failed.
        """
        if self._closed:
            self.failure.check()
            raise ValueError("no write may follow finish")
        ticket = object()
        with self._changed:
            self._changed.wait_for(lambda: self.failure.error or len(self._in_flight) < self._most)
            self.failure.check()
            self._in_flight.add(ticket)
            try:
                self._writing.submit(self._write, ticket, path, offset, data)
            except RuntimeError as error:  # no thread can be started
                self._in_flight.discard(ticket)
                raise self.failure.keep_any(path, error) from error

    def _write(self, ticket: object, path: str, offset: int, data: memoryview) -> None:
        try:
            with self.failure.final(path, data.nbytes), self._opened(path) as file:
                file.write(offset, data)
        except OutputError:
            pass  # the next caller gets the error
        except BaseException as error:  # a lack of memory, say; nobody else looks at this thread
            self.failure.keep_any(path, error)
        finally:
            with self._changed:
                self._in_flight.discard(ticket)
                self._changed.notify_all()

    def read(self, path: str, offset: int, nbytes: int) -> bytes:
        """What stands in a file; shorter where it ends. OSError: the disk cannot read."""
        with self._opened(path) as file:
            return file.read(offset, nbytes)

    def settle(self) -> None:
        """Wait until the kernel has what was given to `write` so far.

        Raises:
            OutputError: it could not be written.
        """
        with self._changed:
            given = set(self._in_flight)
            self._changed.wait_for(lambda: not given & self._in_flight)
            self.failure.check()

    def sync(self) -> None:
        """Make durable what has been given to `write` so far; from any thread.

        Raises:
            OutputError: it cannot be.
        """
        self.settle()
        with self._changed:
            files = list(self._files.values())  # those that are closed were synced then
            for file in files:
                file.writers += 1
        try:
            with self.failure.final(self._folder):
                for file in files:
                    file.sync()
        finally:
            self._left(files)

    def close(self, *, sync: bool) -> None:
        """Close all files when nothing is under way any more. With `sync` all that was written is durable first.

        Raises:
            OutputError: with `sync`, it could not be written.
        """
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not (self._in_flight or any(file.writers for file in self._files.values())))
            try:
                if sync:
                    with self.failure.final(self._folder):
                        while self._files:
                            self._files.popitem()[1].close(sync=True)
            finally:
                while self._files:
                    with suppress(OSError):
                        self._files.popitem()[1].close(sync=False)
        self._writing.shutdown()

    def discard(self, target: str) -> None:
        """Let every later write fail, and close; harmless when repeated."""
        self.failure.keep(OutputError([Problem(target, "", "this output was abandoned")]))
        self.close(sync=False)

    @contextmanager
    def _opened(self, path: str) -> Iterator[StreamedFile]:
        """The shard's file, kept open for its next writer as long as there are not too many."""
        with self._changed:
            self.failure.check()
            self._close_idle()
            file = self._files.pop(path, None) or StreamedFile(path)
            self._files[path] = file
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
        idle = [path for path, file in self._files.items() if not file.writers]
        for path in idle[: max(0, len(self._files) - _MOST_OPEN)]:
            # Synced before it is closed: an error that nobody has an open file to hear of would be lost.
            with self.failure.final(path):
                self._files.pop(path).close(sync=True)
