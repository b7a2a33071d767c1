"""Merged bytes in the order of the shards, for an output that can only be written from front to back."""

import threading
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from numpy.typing import NDArray

    from sdmw.writing.layout import ShardLayout

CHECK = 0.1  # seconds


class OrderedSink:
    """Takes tiles from the threads of this process, nearly in order, and hands them on in order, one at a time.

    What comes early is held: at most `early` tiles, and one more that is the next. A thread with a further one waits.
    The thread that brings the next tile hands on all that follow it, so that a slow receiver slows those that compute.
    Whoever writes does so in order: tiles are dealt in the order of the shards, and nobody waits with a tile before one
    that somebody else must write first.
    """

    def __init__(
        self,
        shards: "Sequence[ShardLayout]",
        take: Callable[[int, memoryview], None],
        early: int,
        check: Callable[[], None],
    ) -> None:
        """Hand tiles on as they come next.

        Args:
            shards: of the output; their data come one behind the other.
            take: is given the shard's number and the bytes that come next; what it raises, all later calls raise.
            early: tiles that may wait, at least 1.
            check: raises where the run is ending; asked while a thread waits.
        """
        sizes = [shard.size - len(shard.header) for shard in shards]
        self._shards, self._take, self._early, self._check = shards, take, early, check
        self._first = [0, *accumulate(sizes)]  # of each shard's data, in those of all
        self._changed = threading.Condition()  # guards what follows
        self._next = 0  # the byte that comes next, in the data of all shards
        self._held: dict[int, tuple[int, memoryview]] = {}  # tiles that wait, by their first byte, with their shards
        self._handing_on = False
        self._error: BaseException | None = None

    def write(self, shard: int, offset: int, data: "NDArray[Any] | ReadableBuffer") -> None:
        """Take bytes of a shard; from any thread.

        Args:
            shard: its number.
            offset: bytes from the beginning of the file, behind its header.
            data: a contiguous buffer, not to be changed any more.

        Raises:
            OutputError: what was handed on before could not be written.
        """
        place = self._shards[shard]
        view = memoryview(cast("ReadableBuffer", data))
        if not len(place.header) <= offset <= place.size - view.nbytes:
            raise ValueError(f"{view.nbytes} bytes at {offset} are outside the data of {place.name}")
        if not view.nbytes:  # an empty view cannot be cast
            return
        first = self._first[shard] + offset - len(place.header)
        with self._changed:
            while not self._changed.wait_for(lambda: self._may_enter(first), CHECK):
                self._check()
            self._raise()
            self._held[first] = shard, view.cast("B")
            if self._handing_on or first != self._next:
                return
            self._handing_on = True
        self._hand_on()

    def settle(self) -> None:
        """Nothing: what a task has written is this process's to send."""

    def check_complete(self) -> None:
        """Raise what went wrong, or RuntimeError where bytes are missing; when nobody writes any more."""
        self._raise()
        if self._held or self._next != self._first[-1]:
            raise RuntimeError(f"{self._next:,} of {self._first[-1]:,} bytes of tensors came in order")

    def _may_enter(self, first: int) -> bool:
        return bool(self._error) or first == self._next or len(self._held) < self._early

    def _raise(self) -> None:
        if self._error:
            raise self._error

    def _hand_on(self) -> None:
        """Hand on what is held, as long as it is the next."""
        try:
            while True:
                with self._changed:
                    found = self._held.pop(self._next, None)
                    if found is None:
                        self._handing_on = False
                        return
                    shard, view = found
                    self._next += view.nbytes
                    self._changed.notify_all()
                self._take(shard, view)
                del found, view
        except BaseException as error:
            with self._changed:
                self._error = error
                self._held.clear()
                self._changed.notify_all()
            raise
