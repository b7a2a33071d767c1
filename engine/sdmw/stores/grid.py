"""Grids of settings that a store is asked for."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from sdmw.errors import Problem, quoted

PRESERVE_NORM = "preserve_norm"
SCOPES = ("model", "layer")
GRANULARITIES = ("tensor", "module", "block", "component", "model")
MOST_SETTINGS = 10_000
MOST_POWER = 1000.0
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Grid:
    """Settings of which every combination is asked for.

    Attributes:
        k: percent of the nonzero deltas dropped.
        power: p of the weights.
        norm: q of the weights, 1 or 2: W_i is proportional to (sum |delta|**q)**(p/q).
        granularity: which tensors are cut together.
        scale: lambda, a number or preserve_norm.
        scope: whose sums the weights follow from, the model's or a layer's.
    """

    k: Sequence[float]
    power: Sequence[float]
    norm: Sequence[int]
    granularity: Sequence[str]
    scale: Sequence[float | str]
    scope: Sequence[str] = ("model",)

    @property
    def lengths(self) -> dict[str, int]:
        """How many values each setting has, in the order of the rows."""
        return {"k": len(self.k), "power": len(self.power), "norm": len(self.norm), "scope": len(self.scope),
                "granularity": len(self.granularity), "lambda": len(self.scale)}  # fmt: skip

    @property
    def size(self) -> int:
        """How many combinations there are."""
        return math.prod(self.lengths.values())

    def problems(self) -> list[Problem]:
        """What is wrong with it; its size is said first."""
        if not 0 < self.size <= MOST_SETTINGS:
            said = " × ".join(f"{length:,} {name}" for name, length in self.lengths.items())
            return [Problem("grid", f"1 to {MOST_SETTINGS:,} settings", f"{self.size:,} ({said})")]
        return [
            *_outside("k", self.k, lambda each: 0 <= each <= 100, "a number from 0 to 100"),
            *_outside("power", self.power, lambda each: abs(each) <= MOST_POWER, "a number from -1000 to 1000"),
            *_outside(
                "lambda",
                [each for each in self.scale if each != PRESERVE_NORM],
                lambda each: abs(each) <= LARGEST,
                f"a number that float32 holds, or {PRESERVE_NORM}",
            ),
            *(Problem("norm", "1 or 2", quoted(each)) for each in self.norm if each not in (1, 2)),
            *_unknown("scope", self.scope, SCOPES),
            *_unknown("granularity", self.granularity, GRANULARITIES),
        ]


def _unknown(name: str, values: Iterable[str], words: Sequence[str]) -> Iterator[Problem]:
    yield from (Problem(name, ", ".join(words), quoted(each)) for each in values if each not in words)


def _outside(name: str, values: Iterable[Any], fits: Callable[[Any], bool], expected: str) -> Iterator[Problem]:
    for each in values:
        if isinstance(each, bool) or not isinstance(each, Real) or not fits(each):
            yield Problem(name, expected, quoted(each))
