"""Handlers that C code has set, before Python began or behind its back: a run leaves them as they were."""

import subprocess
import sys
from pathlib import Path

import pytest

import sdmw

ENGINE = str(Path(sdmw.__file__).parents[1])

# Python asks what the handlers are when it begins. A parent can hand down no handler, so what Python found is set here
# as it would have found it: its own table says None.
BEFORE = """
import _signal, ctypes
real = signal.getsignal
signal.getsignal = lambda each: None if each == signal.SIGTERM else real(each)
"""
SETS_HANDLER = """
import ctypes, os, signal, sys, time
libc = ctypes.CDLL(None)
heard = []
@ctypes.CFUNCTYPE(None, ctypes.c_int)
def handler(signum):
    heard.append(signum)
libc.signal.restype = ctypes.c_void_p
libc.signal(signal.SIGTERM, handler)
"""
RUNS = """
from sdmw.running.stop import StopSignals, own_signals
with StopSignals() as signals:
    if before:
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM], heard  # it is the C code's, also now
        signals.check()
        heard.clear()
assert not heard
os.kill(os.getpid(), signal.SIGTERM)
assert heard == [signal.SIGTERM], heard
print("as it was")
"""


@pytest.mark.parametrize("before", [True, False])
def test_a_handler_of_c_code_is_in_place_after_a_run(before):
    code = f"before = {before}\n" + SETS_HANDLER + (BEFORE if before else "") + RUNS
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ENGINE}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "as it was\n"), done.stderr
