"""The first failure to write is final: it is raised then, and by everything that is tried later."""

import errno
import os
import resource
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sdmw import linux
from sdmw.errors import OutputError, Problem
from sdmw.writing.layout import MODEL


class FirstFailure:
    """Keeps the first failure to write below a folder; the kernel may report lost data once only. Safe for threads.

    Attributes:
        error: the failure; None while nothing has failed.
    """

    def __init__(self, folder: str, sizes: Sequence[int]) -> None:
        """`sizes`: of the files that are to lie in the folder, in bytes, to say how many are missing."""
        self.error: OutputError | None = None
        self._folder, self._sizes = folder, sizes
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise the failure, if there was one."""
        if self.error:
            raise self.error

    @contextmanager
    def final(self, path: str, unwritten: int = 1) -> Iterator[None]:
        """Make an OSError in this block the failure.

        Args:
            path: what is written.
            unwritten: bytes that are lost where nothing better is known.

        Raises:
            OutputError: the failure, also where it came earlier.
        """
        self.check()
        try:
            yield
        except OSError as error:
            try:
                missing = self._missing(error, unwritten)
            except OSError:  # a disk that fails may not say how full it is either
                missing = unwritten
            divisible = os.path.basename(path).startswith(MODEL)  # a shard, of which there may be more
            raise self.keep(linux.write_failed(path, error, missing, divisible=divisible)) from error

    def keep(self, failure: OutputError) -> OutputError:
        """The first failure: this one, unless there was one before."""
        with self._lock:
            self.error = self.error or failure
            return self.error

    def keep_any(self, path: str, error: BaseException) -> OutputError:
        """The first failure, where a write ended by an error that is not the kernel's."""
        return self.keep(OutputError([Problem(path, "", f"cannot be written: {type(error).__name__} {error}")]))

    def _missing(self, error: OSError, unwritten: int) -> int:
        """Bytes for which there was no room."""
        largest_file = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if error.errno == errno.EFBIG:
            missing = 0 if largest_file == resource.RLIM_INFINITY else max(self._sizes, default=0) - largest_file
        else:
            above = os.path.dirname(os.path.dirname(self._folder))
            room = (linux.free(above) or 0) if error.errno == errno.ENOSPC else 0  # what a quota leaves is unknown
            missing = sum(self._sizes) - linux.allocated(self._folder) - room
        return missing if missing > 0 else unwritten
