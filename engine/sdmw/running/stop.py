"""Signals that end a run: the first asks it to stop at the next tile, a second Ctrl-C ends at once."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        self._before: dict[signal.Signals, tuple[_Handler, _Action]] = {}
        self._owner: ProcessSignals | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        if _owner:
            self._owner = _owner
            self._owner.run = self
            if (signum := self._owner.ended_by) is not None:  # its exception was lost on the way
                self.note(signum)
            return self
        for each in SIGNALS:
            handler, action = signal.getsignal(each), _action_of(each)
            if _set(each, self._came):
                self._before[each] = handler, action
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owner:
            self._owner.run = None
        for each, (handler, action) in self._before.items():
            signal.signal(each, handler)
            _put_back(each, action)

    def check(self) -> None:
        """Raise StoppedError where a signal has come."""
        if self._signum is not None:
            raise StoppedError(self._signum)

    def note(self, signum: int) -> None:
        """A signal came."""
        self._signum = self._signum or signum

    def _came(self, signum: int, _frame: FrameType | None) -> None:
        if self._signum == signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.note(signum)


class EndedError(SystemExit):
    """A signal ended the process where there was no run to be stopped."""


class ProcessSignals:
    """The one owner of the signals of a process of ours, from its start to its exit: nothing is put back in between.

    A signal stops the run that is entered; where there is none it raises EndedError. A second Ctrl-C ends the process
    at once, as a kill would do: a run may be killed at any moment. When the process ends, no signal changes how.

    Attributes:
        run: the run that is entered.
        ended_by: the signal that came while there was none.
    """

    def __init__(self) -> None:
        self.run: StopSignals | None = None
        self.ended_by: int | None = None
        self._signum: int | None = None
        for each in SIGNALS:
            _set(each, self._came)

    def end(self) -> bool:
        """The exit code is known. Whether it was not before."""
        global _owner
        for each in SIGNALS:
            _set(each, signal.SIG_IGN)
        owned, _owner = _owner is self, None
        return owned

    def _came(self, signum: int, _frame: FrameType | None) -> None:
        if self._signum is not None:
            if self._signum == signum == signal.SIGINT:
                _end_at_once(128 + signum)
            return
        self._signum = signum
        if self.run is None:
            self.ended_by = signum
            raise EndedError(128 + signum)
        self.run.note(signum)


_owner: ProcessSignals | None = None


def own_signals() -> ProcessSignals:
    """The owner of this process's signals, from now to its exit."""
    global _owner
    _owner = _owner or ProcessSignals()
    return _owner


@contextmanager
def until_exit() -> Iterator[None]:
    """Own this process's signals from here to its exit; one that ends the process is reported in a line.

    Python itself would put the default back while it finalises: a late signal would then change the exit code. And it
    makes other exceptions of EndedError where that comes in odd places, such as the making of a class, or drops it.
    """
    signals, unraisable = own_signals(), sys.unraisablehook
    sys.unraisablehook = lambda said: None if isinstance(said.exc_value, EndedError) else unraisable(said)
    try:
        yield
    except BaseException as error:
        if signals.ended_by is None or (isinstance(error, SystemExit) and not isinstance(error, EndedError)):
            raise
        if signals.end():
            sys.stderr.write(f"error: {signal.Signals(signals.ended_by).name}: stopped by this signal\n")
        raise EndedError(128 + signals.ended_by) from None
    finally:
        signals.end()
        sys.unraisablehook = unraisable


def _end_at_once(code: int) -> None:
    if os.isatty(2):
        os.write(2, b"\x1b[?25h\n")  # a progress bar hides the cursor
    os._exit(code)


def _after_fork() -> None:
    """A forked child has no part in its parent's run: an executor ends its workers by signals."""
    global _owner
    _owner = None
    for each in SIGNALS:
        if isinstance(getattr(signal.getsignal(each), "__self__", None), StopSignals | ProcessSignals):
            signal.signal(each, signal.default_int_handler if each is signal.SIGINT else signal.SIG_DFL)


os.register_at_fork(after_in_child=_after_fork)

_Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None
_Action = bytes | None  # libc's struct sigaction

_libc = ctypes.CDLL(None)
_LARGEST_ACTION = 512  # bytes; of any libc


def _set(signum: signal.Signals, handler: _Handler) -> bool:
    """Set a handler unless the signal is ignored, as nohup wishes, or handled by C code (None), which goes on with it.

    Returns:
        Whether it is set; a sandbox may refuse it, and so does an interpreter that is not the process's main one.
    """
    if signal.getsignal(signum) in (None, signal.SIG_IGN):
        return False
    try:
        signal.signal(signum, handler)
    except (OSError, ValueError):
        return False
    return True


def _action_of(signum: signal.Signals) -> _Action:
    """What the kernel does with a signal: C code may have set a handler of which Python does not know."""
    action = ctypes.create_string_buffer(_LARGEST_ACTION)
    return None if _libc.sigaction(int(signum), None, action) else action.raw


def _put_back(signum: signal.Signals, action: _Action) -> None:
    if action is not None:
        _libc.sigaction(int(signum), action, None)
