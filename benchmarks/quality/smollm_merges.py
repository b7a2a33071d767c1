"""The merges of tier B as recipes for sdmw: a part of tier A's, with the same names."""

from collections.abc import Iterator
from pathlib import Path

from deltas import Deltas

from methods import PRESERVED, K, Merge, Trio

SCALES = (0.6, 0.7, 0.8, 1.0)  # lambda of the plain sum of deltas; 0.5 is the average of two


def merges(base: Path, *experts: Path) -> Iterator[Merge]:
    trio = Trio(base, experts, Deltas({}))  # no length is matched here
    yield Merge("average", trio.recipe("linear"))
    for power in (0.0, 1.0, 2.0):
        law = {"power": power}
        yield Merge(f"law q=1 p={power:g}", trio.recipe("sdm_w", k=K, normalization=law))
        if power < 2:
            yield Merge(f"preserve_norm p={power:g}", trio.recipe("sdm_w", k=K, normalization=law, **PRESERVED))
    for scale in SCALES:
        yield Merge(f"sum of deltas, lambda={scale:g}", trio.recipe("task_arithmetic", (scale, scale)))
    for power in (0.0, 1.0, 2.0):
        yield Merge(f"sdm_w k=50 p={power:g}", trio.recipe("sdm_w", k=50.0, normalization={"power": power}))
    for name, method in (("ties", "ties"), ("dare", "dare_linear")):
        yield Merge(f"{name} density=0.5", trio.recipe(method, (1.0, 1.0), density=0.5))
