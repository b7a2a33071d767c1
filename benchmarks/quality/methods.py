"""The merges of the study as recipes for sdmw."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deltas
import numpy as np
from deltas import Deltas

POWERS = (-2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 6.0)  # of the weight law's curve
POWERS_OF_SQUARES = tuple(power for power in POWERS if power)  # q = 2: at p = 0 both norms give equal weights
PRINTED = (-5.5, 5.5)  # the power that the article's weights imply, and its mirror: the same tilt the other way
SCALES = (0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4)  # lambda of the plain sum; 0.5 is the average of two
K = 10.0  # the article's
GRID = ((0.0, K, 50.0), (1, 2), (1.0, 2.0, 4.0), ("model", "layer"), ("tensor", "block"))  # k, q, p, scope, granularity
PRESERVED = {"lambda": "preserve_norm"}


@dataclass(frozen=True, slots=True)
class Merge:
    """One merge of the study.

    Attributes:
        name: as tables call it.
        recipe: for sdmw.
        like: merge again, scaled so that the length of the applied delta is this times the average's; None: as it is.
    """

    name: str
    recipe: dict[str, Any]
    like: float | None = None


@dataclass(frozen=True, slots=True)
class Trio:
    """A base and two experts: folders, and what their deltas say."""

    base: Path
    experts: tuple[Path, Path]
    deltas: Deltas

    @classmethod
    def of(cls, base: Path, *experts: Path) -> "Trio":
        """By the folders of the models."""
        return cls(base, experts, Deltas.of(base, experts))

    def recipe(self, method: str, weights: Sequence[Any] | None = None, **parameters: Any) -> dict[str, Any]:
        """A recipe of the two experts, with a weight each or the method's own."""
        models: list[dict[str, Any]] = [{"model": str(expert)} for expert in self.experts]
        for model, weight in zip(models, weights or (), strict=bool(weights)):
            model["parameters"] = {"weight": weight}
        found = {"merge_method": method, "models": models, "parameters": parameters}
        return found if method == "linear" else {"base_model": str(self.base), **found}


def common(trio: Trio) -> Iterator[Merge]:
    """What is merged for every pair, equally trained or not: the average, the law's curve, the blind rules."""
    yield Merge("average", trio.recipe("linear"))
    for norm, powers in ((1, (*POWERS, *PRINTED)), (2, POWERS_OF_SQUARES)):
        for power in powers:
            law = {"power": power, "norm": norm}
            yield Merge(f"law q={norm} p={power:g}", trio.recipe("sdm_w", k=K, normalization=law))
    for power in (0.0, 1.0, 2.0, -1.0):
        recipe = trio.recipe("sdm_w", k=K, normalization={"power": power}, **PRESERVED)
        yield Merge(f"preserve_norm p={power:g}", recipe)
    yield Merge("preserve_norm average", trio.recipe("task_arithmetic", (0.5, 0.5), **PRESERVED))
    yield Merge("sum of deltas, lambda=0.7", trio.recipe("task_arithmetic", (0.7, 0.7)))


def thorough(trio: Trio) -> Iterator[Merge]:
    """What is merged for equally trained pairs alone."""
    for scale in SCALES:
        if scale != 0.7:
            yield Merge(f"sum of deltas, lambda={scale:g}", trio.recipe("task_arithmetic", (scale, scale)))
    for k in (0.0, 50.0, 90.0):
        for power in (1.0, 2.0) if k < 90 else (1.0,):
            yield Merge(f"sdm_w k={k:g} p={power:g}", trio.recipe("sdm_w", k=k, normalization={"power": power}))
        if k:
            yield Merge(f"equal weights k={k:g}", trio.recipe("sdm_w", (0.5, 0.5), k=k))
    for granularity in ("module", "block", "component", "model"):
        yield Merge(f"sdm_w k=50 p=1 by {granularity}", trio.recipe("sdm_w", k=50, granularity=granularity))
    yield from by_layer(trio)
    yield from grid(trio)
    yield from others(trio)


def by_layer(trio: Trio) -> Iterator[Merge]:
    """The law with each tensor as its own scope, and MetaGPT's weights (q = 2, p = 2, k = 0, the whole model)."""
    for norm, power in ((1, 1.0), (2, 2.0)):
        law = {"power": power, "norm": norm, "scope": "layer"}
        yield Merge(f"law q={norm} p={power:g} by layer", trio.recipe("sdm_w", k=K, normalization=law))
    yield Merge("law q=2 p=2 k=0", trio.recipe("sdm_w", k=0, normalization={"power": 2.0, "norm": 2}))


def grid(trio: Trio) -> Iterator[Merge]:
    """SDM-W over all of its settings."""
    for k, norm, power, scope, granularity in itertools.product(*GRID):
        law = {"power": power, "norm": norm, "scope": scope}
        recipe = trio.recipe("sdm_w", k=k, normalization=law, granularity=granularity)
        yield Merge(f"grid k={k:g} q={norm} p={power:g} scope {scope} by {granularity}", recipe)


def others(trio: Trio) -> Iterator[Merge]:
    """The field's methods at their papers' scale, and scaled to the length of other merges' deltas."""
    own = {
        "ties density=0.2": trio.recipe("ties", (1.0, 1.0), density=0.2),
        "ties density=0.5": trio.recipe("ties", (1.0, 1.0), density=0.5),
        "ties density=0.9": trio.recipe("ties", (1.0, 1.0), density=0.9),
        "dare density=0.5": trio.recipe("dare_linear", (1.0, 1.0), density=0.5),
        "dare density=0.1": trio.recipe("dare_linear", (1.0, 1.0), density=0.1),
        "breadcrumbs density=0.9": trio.recipe("breadcrumbs", (1.0, 1.0), density=0.9),
        "sdm_w k=50 p=1": trio.recipe("sdm_w", k=50),
    }
    preserved = deltas.norm_preserving((0.5, 0.5), trio.deltas.gram())
    for name, recipe in own.items():
        if not name.startswith("sdm_w"):
            yield Merge(name, recipe)
            yield Merge(f"{name}, average's length", recipe, like=1.0)
        yield Merge(f"{name}, experts' length", recipe, like=preserved)
    for power in (2.0, 5.5):
        recipe = trio.recipe("sdm_w", k=K, normalization={"power": power})
        yield Merge(f"law q=1 p={power:g}, average's length", recipe, like=1.0)
    yield Merge("model_stock", trio.recipe("model_stock"))
    slerp = trio.recipe("slerp", t=0.5)
    yield Merge("slerp t=0.5", {**slerp, "base_model": str(trio.experts[0])})


def lora(base: Path, adapters: Sequence[Path]) -> Iterator[Merge]:
    """Merging of low-rank adapters, which sdmw extracted from the experts: equal weights, and lambda 0.7.

    `svd` cuts the sum to one adapter's rank, `cat` keeps it whole; each expert by its adapter alone comes last.
    """
    for weight, combination in itertools.product((0.5, 0.7), ("svd", "cat")):
        models = [{"model": str(adapter), "parameters": {"weight": weight}} for adapter in adapters]
        parameters = {"combination_type": combination}
        recipe = {"merge_method": "lora", "base_model": str(base), "models": models, "parameters": parameters}
        yield Merge(f"lora {combination}, weights {weight:g}", recipe)
    for name, adapter in zip(("corp", "func"), adapters, strict=True):
        alone = {"merge_method": "linear", "base_model": str(base), "models": [{"model": str(adapter)}]}
        yield Merge(f"{name} by its adapter", alone)


def length(base: deltas.Tensors, merged: deltas.Tensors) -> tuple[float, float]:
    """(sum of absolute values, Euclidean length) of what a merge applied to the base."""
    parts = [(merged[name].astype(np.float64) - base[name]).ravel() for name in base]
    return float(sum(np.abs(part).sum() for part in parts)), float(np.sqrt(sum((part**2).sum() for part in parts)))
