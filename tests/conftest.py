"""Settings of all tests."""

import signal

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 then, also where one file runs alone
import pytest
from hypothesis import HealthCheck, settings

from sdmw.archives import planning, runs, shards
from sdmw.kernels import calls, ready
from sdmw.planning import budget
from sdmw.running import bundles, decomposition, left_out, verification

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
    ready.prepare(lambda _once: None, groups=list(calls.CALLS))


TINY = {
    (budget, "SMALLEST_TILE"): 64, (budget, "LARGEST_TILE"): 64, (verification, "READ"): 128,
    (decomposition, "ROWS"): 100, (left_out, "TILE"): 100,
    (bundles, "MOST"): 2, (runs, "BLOCK"): 64, (planning, "TILE"): 512, (shards, "CHUNK"): 64, (shards, "SHARD"): 256,
}  # fmt: skip
USUAL = {(module, name): getattr(module, name) for module, name in TINY}


@pytest.fixture(scope="module")
def tiny_tiles():
    """The tests of a module that asks for it run with tiles, blocks and chunks of a few elements.

    So most tensors have several of them, as those of real models do: what is right in the first only is found.
    """
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), size in TINY.items():
            patch.setattr(module, name, size)
        yield


@pytest.fixture
def no_bundles(monkeypatch):
    """Small tensors are handed over one by one: a run of a tiny model has as many steps as that of a large one."""
    monkeypatch.setattr(bundles, "MOST", 1)


@pytest.fixture
def usual_tiles(monkeypatch):
    """One test of such a module that runs as users do."""
    for (module, name), size in USUAL.items():
        monkeypatch.setattr(module, name, size)
