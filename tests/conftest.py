"""Settings of all tests."""

from hypothesis import HealthCheck, settings

# The first example of a test may compile a kernel, and machines of continuous integration are slow and shared.
settings.register_profile("sdmw", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sdmw")
