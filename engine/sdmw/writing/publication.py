"""The output checkpoint: reserved at once, written at offsets, published by one rename."""

import os
import uuid
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from sdmw import codec, linux
from sdmw.errors import OutputError, Problem, ResumeError, SdmwError, quoted
from sdmw.writing import beside
from sdmw.writing.journal import Journal
from sdmw.writing.kept_run import Identity, differences
from sdmw.writing.layout import ShardLayout, index_bytes
from sdmw.writing.sink import Sink
from sdmw.writing.target import OVERWRITE
from sdmw.writing.work_directory import WorkDirectory, remove_tree

_NOT_DURABLE = (
    "the file system of the output cannot sync folders (fsync): a power cut may lose files that it has not yet "
    "written to disk by itself"
)


class Publication:
    """A checkpoint being written beside its target, by the process that drives the merge.

    Beside TARGET stands `.TARGET.sdmw/` with the lock, the journal and `out/`. A reader of TARGET sees nothing or the
    whole. Shards are written through `sink`. A failure to write is final: the kernel may report lost data once only, so
    every later call raises the same error. Leaving the context unpublished removes all, unless by an error that says
    nothing against recipe or inputs: then what is done is kept for the next run, which the error's note says.

    Attributes:
        target: real path of the directory that will appear.
        path: of `out/`, to which other files may be added until it is published.
        beside: of the work directory, for what a run needs that is no part of the output.
        layouts: the shards.
        sink: where their bytes go.
        records: what an earlier run had vouched for.
        warnings: what is odd about the output or its place.
    """

    def __init__(self, target: str, layouts: Sequence[ShardLayout], *, overwrite: bool, threads: int = 1) -> None:
        self.layouts = tuple(layouts)
        self._overwrite = overwrite
        self._work = WorkDirectory(target)
        self.target, self.path, self.beside = self._work.target, self._work.out, self._work.path
        self.sink = Sink.of(self.path, self.layouts, uuid.uuid4().hex)
        self._writer = self.sink.at_home(threads)
        self._failure = self._writer.failure
        self.records: list[object] = []
        self.warnings: list[str] = []
        self._journal: Journal | None = None
        self._vouched = False  # something in the journal is worth keeping
        self._finished = False

    @classmethod
    def begin(
        cls,
        target: str,
        layouts: Sequence[ShardLayout],
        *,
        overwrite: bool,
        identity: Identity | None = None,
        resume: bool = True,
        threads: int = 1,
    ) -> Self:
        """Takes the lock, reserves every shard and writes headers and index, or finds them as an earlier run left them.

        Args:
            target: as checked by `check_target`.
            layouts: the shards.
            overwrite: whether publishing may replace a directory.
            identity: of the run; an earlier one is resumed if it has the same.
            resume: False removes what an earlier run left.
            threads: how many compute what is written.

        Raises:
            ResumeError: what is there is of a run with another identity; it stays.
            OutputError: another run writes there, or there is no room; nothing is left behind.
        """
        output = cls(target, layouts, overwrite=overwrite, threads=threads)
        try:
            with output._failure.final(output._work.path):
                output._work.take(output.sink.run)
                output._work.restore()
                for folder in (*map(os.path.dirname, output._work.made), output._work.parent):
                    output._sync_folder(folder)
            if not overwrite and os.path.lexists(output.target):  # another run was faster: report it before the work
                raise output._failure.keep(OutputError([Problem(output.target, "", "it exists", OVERWRITE)]))
            with output._failure.final(output._work.path):
                output._journal = output._reopened(identity) if resume else None
                if output._journal is None:
                    failed = output._work.clear()
                    if failed and os.path.lexists(output.path):
                        raise failed
                    os.mkdir(output.path)
            for layout in layouts:
                output._reserve(layout)
            if len(layouts) > 1:
                output.add("model.safetensors.index.json", index_bytes(layouts))
            with output._failure.final(output._work.path):
                output._journal = output._journal or Journal.begin(output._work.journal, codec.encode(identity))
                output.records = output._journal.records[1:]
                output._vouched = bool(output.records)
        except ResumeError:
            output._let_go()
            output._work.release()
            raise
        except BaseException as error:
            output._discard_after(error)
            raise
        return output

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.discard()
        elif self._work.held and self._vouched and getattr(error, "resumable", True):
            self._keep(error)
        else:
            self._discard_after(error)

    def sync(self) -> None:
        """Make durable what has been given to the sink in this process so far; from any thread.

        Raises:
            OutputError: it cannot be.
        """
        self._writer.sync()

    def settle(self) -> None:
        """Wait until the kernel has what has been given to the sink in this process; OutputError as for `sync`."""
        self._writer.settle()

    def vouch(self, records: Iterable[object]) -> None:
        """Notes durably what a run need not do again; the data that records vouch for are synced before.

        Raises:
            OutputError: it cannot be written.
        """
        with self._failure.final(self._work.journal):
            if self._journal and (worth := list(records)):
                self._journal.append(worth)
                self._vouched = True

    def add(self, name: str, data: bytes) -> None:
        """Writes a file beside the shards, or writes it anew.

        Args:
            name: its path in the output.
            data: its content.

        Raises:
            OutputError: it cannot be written.
        """
        with self._failure.final(os.path.join(self.path, name), len(data)):
            beside.write(self.path, name, data)

    def checksums(self) -> dict[str, str]:
        """XXH3-128 of every file beside the shards, in hex, by its path in the output.

        Raises:
            OSError: one cannot be read.
        """
        return beside.checksums(self.path, {layout.name for layout in self.layouts})

    def finish(self) -> None:
        """Makes the shards durable, and opens each as its consumers will. No write may follow.

        Raises:
            OutputError: a shard could not be written, or does not read as it was laid out.
        """
        self._writer.close(sync=True)
        with self._failure.final(self.path):
            for layout in self.layouts:
                linux.fsync_path(os.path.join(self.path, layout.name))
        for layout in self.layouts:
            _check(os.path.join(self.path, layout.name), layout)
        self._finished = True

    def publish(self) -> None:
        """Makes the directory appear at its target, durably, and removes the work directory.

        What cannot be removed of that is a warning: the output is there.

        Raises:
            OutputError: it cannot be. The target is as it was, unless the error speaks of the parent directory.
        """
        if not self._finished:
            raise ValueError("an output is finished before it is published")
        with self._failure.final(self.path):
            self._refuse_strays()
            for folder, _, names in os.walk(self.path, topdown=False):
                for name in names:
                    linux.fsync_path(os.path.join(folder, name))
                self._sync_folder(folder)
        with self._failure.final(self.target):
            self._work.rename(self._overwrite)
        with self._failure.final(self._work.parent):
            try:
                self._sync_folder(self._work.parent)
            except OSError:
                # Nobody knows which name is on disk, so a replaced checkpoint must not go yet.
                self._work.release()
                raise
        self._let_go()  # before it is removed: NFS and FUSE keep files that are open
        if failed := self._work.remove():
            self.warnings.append(
                f"the output is complete, but {self._work.path} cannot be removed: {failed.strerror}. "
                "Remove it once no program has a file of the replaced directory open"
            )

    def _sync_folder(self, path: str) -> None:
        if not linux.fsync_path(path) and _NOT_DURABLE not in self.warnings:
            self.warnings.append(_NOT_DURABLE)

    def discard(self) -> None:
        """Removes the work directory and lets go of the lock; waits for writes under way. Harmless when repeated.

        Raises:
            OutputError: something could not be removed; the lock is released all the same.
        """
        self._let_go()
        if failed := self._work.remove():
            problem = Problem(self._work.path, "", f"cannot be removed: {failed}", "Remove it by hand")
            raise OutputError([problem]) from failed

    def _discard_after(self, error: BaseException) -> None:
        """`discard`, where an error is under way: that something stays is one more problem, and not the only one."""
        try:
            self.discard()
        except OutputError as left:
            if isinstance(error, SdmwError):
                error.problems += left.problems

    def _keep(self, error: BaseException) -> None:
        self._let_go()
        self._work.release()
        error.add_note(f"finished work is kept in {self._work.path}: the same command resumes it")

    def _let_go(self) -> None:
        self._writer.discard(self.target)
        if self._journal:
            self._journal.close()
            self._journal = None

    def _reopened(self, identity: Identity | None) -> Journal | None:
        """The journal of an earlier run, its shards made ready; None where there is nothing to resume."""
        journal = Journal.reopen(self._work.journal) if os.path.isdir(self.path) else None
        if journal is None:
            return None
        if problems := differences(journal.records[0], identity, self._work.path):
            journal.close()
            raise ResumeError(problems)
        # Only shards are vouched for: what else is there is written anew, and may be of a target that was replaced.
        sizes = {layout.name: layout.size for layout in self.layouts}
        with os.scandir(self.path) as listing:
            for entry in listing:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
                elif entry.is_symlink() or entry.stat().st_size != sizes.get(entry.name):
                    os.unlink(entry.path)
        return journal

    def _reserve(self, layout: ShardLayout) -> None:
        path = os.path.join(self.path, layout.name)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with self._failure.final(path, layout.size), open(fd, "r+b") as file:
            if not linux.fallocate(file.fileno(), 0, layout.size):
                file.truncate(layout.size)
            file.write(layout.header)

    def _refuse_strays(self) -> None:
        """Looks for shards that are not ours: vLLM reads every file of this suffix as weights."""
        found = {name for name in os.listdir(self.path) if name.endswith(".safetensors")}
        if strays := sorted(found - {layout.name for layout in self.layouts}):
            raise OutputError([Problem(self.path, "only its own shards", ", ".join(map(quoted, strays)))])


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
        raise OutputError([Problem(path, f"the {len(expected)} planned tensors", "other tensors or shapes")])
