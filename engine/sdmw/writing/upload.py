"""An output in a store: shards sent in order, the other files after them, and last those by which it is known."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sdmw.errors import OutputError, Problem, SdmwError
from sdmw.storage import remote
from sdmw.storage.remote_writing import ObjectWriter, names_under, put, remove
from sdmw.writing import beside
from sdmw.writing.layout import ShardLayout, index_bytes
from sdmw.writing.mark import MARK, Mark
from sdmw.writing.ordered_sink import OrderedSink
from sdmw.writing.shard_writer import in_flight
from sdmw.writing.target import OVERWRITE

INDEX = "model.safetensors.index.json"
KNOWN_BY = ("adapter_config.json", "config.json", INDEX)  # sent last, in this order: who looks for a model sees it now
_FURTHER = 2  # tiles that the sink holds beside those that came early: the next, and the one that is being sent


class Upload:
    """A checkpoint that is being written to a folder of a store, by the threads of one process.

    One shard is under way at a time, in parts. When it is complete the store is asked for its header and size. Files
    beside the shards lie in a temporary folder of this machine until it is published. Leaving the context unpublished
    makes the store forget the parts, and removes what was sent: nothing is kept for another run. There is no lock, but
    a mark in the folder, which also tells before the work that the store takes what is written. A run that may
    overwrite takes the folder from one that is under way; that one sees it by the mark, ends, and removes nothing.

    Attributes:
        target: the address.
        path: of the temporary folder.
        sink: where the shards' bytes go.
        records: empty: nothing is resumed.
        warnings: what is odd about the output or its place.
    """

    def __init__(
        self, target: str, layouts: Sequence[ShardLayout], *, overwrite: bool, threads: int, check: Callable[[], None]
    ) -> None:
        """Write nothing yet.

        Args:
            target: as checked by `check_address`.
            layouts: the shards.
            overwrite: what is in the folder may be removed.
            threads: how many compute what is written.
            check: raises where the run is ending.
        """
        self.target, self.layouts = target.rstrip("/"), tuple(layouts)
        self.sink = OrderedSink(layouts, self._take, in_flight(threads) - _FURTHER, check)
        self.records: list[object] = []
        self.warnings: list[str] = []
        self._overwrite = overwrite
        self._folder = tempfile.TemporaryDirectory(prefix="sdmw-", ignore_cleanup_errors=True)
        self.path = self._folder.name
        self._writer: ObjectWriter | None = None
        self._sent = 0  # bytes of the shard that is under way
        self._complete = 0  # shards
        self._there: list[str] = []  # names of objects of this run, the last one last
        self._versions: dict[str, str] = {}  # of the shards that are complete, by name
        self._replaced: list[str] = []  # names that were there before
        self._mark = Mark(self.target)
        self._ending = False  # the mark is removed
        self._published = False

    def __enter__(self) -> Self:
        try:
            with self._refused(self.target):
                self._replaced = names_under(self.target)
            if self._replaced and not self._overwrite:  # another run was faster: said before the work
                raise self._taken()
            if len(self.layouts) > 1:
                self.add(INDEX, index_bytes(self.layouts))
            self._put_mark()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()
        if self._published:
            return
        if self._writer:
            self._writer.abort()
        left = list(self._left())
        if isinstance(error, SdmwError):
            error.problems += tuple(left)
        if error and not left:
            error.add_note(f"nothing is left in {self.target}: the same command starts over")

    def sync(self) -> None:
        """Nothing: no record is kept that data would have to be durable for."""

    def settle(self) -> None:
        """Nothing: what is on its way is waited for when the output is finished."""

    def vouch(self, records: Iterable[object]) -> None:
        """Nothing: an upload is not resumed."""

    def add(self, name: str, data: bytes) -> None:
        """As of `Publication`."""
        with self._refused(os.path.join(self.path, name)):
            beside.write(self.path, name, data)

    def checksums(self) -> dict[str, str]:
        """As of `Publication`."""
        return beside.checksums(self.path)

    def finish(self) -> None:
        """Completes the last shard. No write may follow.

        Raises:
            OutputError: a shard could not be sent, or is not in the store as it was laid out.
        """
        self.sink.check_complete()
        self._complete_before(len(self.layouts))

    def publish(self) -> None:
        """Sends the other files; the config and the index come last, and with them the model is there.

        Raises:
            OutputError: one cannot be sent.
        """
        if self._complete < len(self.layouts):
            raise ValueError("an output is finished before it is published")
        found = set(beside.names(self.path))
        last = [name for name in KNOWN_BY if name in found]
        for name in sorted(found.difference(last)):
            self._send(name, Path(self.path, name))
        self._check_own()
        self._check_whole()
        self._ending = True
        with self._refused(self._mark.address):
            self._mark.remove()
        for name in last:
            self._send(name, Path(self.path, name))
        self._published = True

    def _put_mark(self) -> None:
        self._there.append(MARK)  # before it is sent: an answer may be lost
        with self._refused(self._mark.address):
            if self._mark.put(anew=self._overwrite):
                return
        self._there.remove(MARK)  # it is the other run's
        raise self._taken()

    def _send(self, name: str, content: bytes | Path) -> None:
        self._there.append(name)  # before it is sent: an answer may be lost
        with self._refused(self._address(name)):
            put(self._address(name), content)

    def _check_own(self) -> None:
        """OutputError where another run has begun to write there."""
        with self._refused(self._mark.address):
            if not self._mark.stands():
                raise self._lost()

    def _check_whole(self) -> None:
        """OutputError where the folder holds other weights than those of this run, or another's beside them."""
        with self._refused(self.target):
            others = [name for name in names_under(self.target) if name not in self._there and _is_weight(name)]
            for name, version in self._versions.items():
                if remote.head(self._address(name)).version != version:
                    others.append(name)
        if others:
            found = "an object of another run"
            raise OutputError([Problem(self._address(name), "only objects of this run", found) for name in others])

    def _take(self, shard: int, data: memoryview) -> None:
        """Send bytes that come next, of the shard that is under way or a later one."""
        self._complete_before(shard)
        with self._refused(self._address(self.layouts[shard].name)):
            self._opened().write(data)
        self._sent += data.nbytes

    def _complete_before(self, shard: int) -> None:
        """Complete the shards before one, those without data too."""
        while self._complete < shard:
            layout = self.layouts[self._complete]
            address = self._address(layout.name)
            with self._refused(address):
                writer = self._opened()
                if self._sent != layout.size:
                    raise RuntimeError(f"{self._sent:,} of {layout.size:,} bytes of {layout.name} were sent")
                self._check_own()
                self._there.append(layout.name)
                writer.close()
                self._writer = None
                header, found = remote.fetch(address, 0, len(layout.header))
            if header != layout.header or found.size != layout.size:
                raise OutputError([Problem(address, "the shard that was sent", "another object")])
            self._versions[layout.name] = found.version
            self._complete += 1

    def _opened(self) -> ObjectWriter:
        """The shard that is under way, begun with its header."""
        if self._writer is None:
            if not self._complete:
                self._make_room()
            layout = self.layouts[self._complete]
            self._writer = ObjectWriter(self._address(layout.name), layout.size)
            self._writer.write(layout.header)
            self._sent = len(layout.header)
        return self._writer

    def _make_room(self) -> None:
        """Remove what is overwritten, first what makes it a model: nobody shall read half of two."""
        self._check_own()
        found = self._replaced
        last = [name for name in reversed(KNOWN_BY) if name in found]
        for name in (*last, *(name for name in found if name not in (*last, MARK))):
            remove(self._address(name))

    def _left(self) -> Iterator[Problem]:
        """Remove what was sent, unless the folder is another run's by now; what is left."""
        try:
            own = self._ending or MARK not in self._there or self._mark.stands()
            refused = not own and self._there == [MARK] and self._mark.is_gone()  # nothing was sent but it
        except OSError as error:
            found = f"objects of this run remain there, as it cannot be listed: {error.strerror}"
            yield Problem(self.target, "", found, "Remove it by hand")
            return
        if not own and not refused:
            yield Problem(self.target, "", "objects of this run remain there: another run has begun to write there")
        for name in reversed(self._there) if own else ():
            address = self._address(name)
            try:
                remove(address)
            except OSError as error:
                yield Problem(address, "", f"cannot be removed: {error.strerror}", "Remove it by hand")

    def _taken(self) -> OutputError:
        return OutputError([Problem(self.target, "", "it exists", OVERWRITE)])

    def _lost(self) -> OutputError:
        mend = "Let each run write to its own folder"
        return OutputError(
            [Problem(self.target, "", "another run, which was allowed to overwrite, has taken its place", mend)]
        )

    def _address(self, name: str) -> str:
        return f"{self.target}/{name}"

    @contextmanager
    def _refused(self, where: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError([Problem(where, "", f"cannot be written: {error.strerror}")]) from error


def _is_weight(name: str) -> bool:
    """Whether an object at the top of a folder would be read as part of the model, whatever the index says."""
    return "/" not in name and (name.endswith(".safetensors") or name in KNOWN_BY)
