"""Settings of all tests."""

import signal

from hypothesis import HealthCheck, settings

# A shell starts what runs in its background with interrupts ignored, which the engine honours; tests send them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The first example of a test may compile a kernel, and machines of continuous integration are slow and shared.
settings.register_profile("sdmw", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sdmw")
