"""Settings of all tests."""

import signal

import pytest
from hypothesis import HealthCheck, settings

from sdmw.kernels import ready

# A shell starts what runs in its background with interrupts ignored, and nohup with hang-ups, which the engine honours;
# tests send both.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The first example of a test may compile a kernel, and machines of continuous integration are slow and shared.
settings.register_profile("sdmw", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sdmw")


@pytest.fixture(scope="session", autouse=True)
def kernels():
    """Compiled, if need be, before any test looks at what a run says or takes."""
    ready.prepare(lambda _once: None)
