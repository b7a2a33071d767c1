"""Signals that end a run: the first asks it to stop at the next tile, a second Ctrl-C ends at once."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from sdmw.errors import StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class GivenUpError(Exception):
    """A worker left its piece, because the run it belongs to is ending; nobody but the driver sees it."""


class GivenUp:
    """Tells the workers of one run to leave their pieces; in another process it is a copy that is never set."""

    def __init__(self) -> None:
        self._set = threading.Event()

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()

    def set(self) -> None:
        """Leave at the next tile."""
        self._set.set()

    def check(self) -> None:
        """Raise GivenUpError once it is set."""
        if self._set.is_set():
            raise GivenUpError


class StopSignals:
    """While it is entered, signals are noted and not acted on; outside the main thread they are left alone."""

    def __init__(self) -> None:
        self._signum: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for each in SIGNALS:
                # nohup's wish is kept.
                if signal.getsignal(each) is not signal.SIG_IGN:
                    self._before[each] = signal.signal(each, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def check(self) -> None:
        """Raise StoppedError where a signal has come."""
        if self._signum is not None:
            raise StoppedError(self._signum)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if self._signum == signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._signum = self._signum or signum


def _after_fork() -> None:
    """A forked child has no part in its parent's run: an executor ends its workers by signals."""
    for each in SIGNALS:
        if isinstance(getattr(signal.getsignal(each), "__self__", None), StopSignals):
            signal.signal(each, signal.default_int_handler if each is signal.SIGINT else signal.SIG_DFL)


os.register_at_fork(after_in_child=_after_fork)
