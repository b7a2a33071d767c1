"""Magnitudes that ranges leave open: of elements whose random words lie between the bounds of their ranges."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sdmw.statistics.kept import keys_of
from sdmw.statistics.look import Look, LookMemory, Tile, add_by_model, check_models
from sdmw.statistics.ranges import ends_of


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one model: (3, ranges) uint32, little-endian: starts, and lower and upper bounds of words."""

    data: bytes

    @classmethod
    def of(cls, starts: NDArray[np.uint32], lower: NDArray[np.uint32], upper: NDArray[np.uint32]) -> "Bounds":
        """From arrays."""
        return cls(np.array([starts, lower, upper], "<u4").tobytes())

    def arrays(self) -> NDArray[np.uint32]:
        """Starts, lower and upper bounds."""
        return np.frombuffer(self.data, "<u4").reshape(3, -1)


@dataclass(frozen=True, eq=False, slots=True)
class Between:
    """Of one model.

    Attributes:
        tensor: name of the tensor; empty where nothing was looked at.
        patterns: uint32, rising, each once; incomplete where there was no room.
        elements: that have them.
    """

    tensor: str
    patterns: NDArray[np.uint32]
    elements: int

    def __add__(self, other: "Between") -> "Between":
        patterns = np.union1d(self.patterns, other.patterns)
        return Between(self.tensor or other.tensor, patterns, self.elements + other.elements)


@dataclass(frozen=True, slots=True)
class BetweenLook(Look[tuple[Between, ...]]):
    """Asks for the patterns.

    Attributes:
        seed: of the random words.
        bounds: of each model's ranges.
        room: for so many patterns of each.
    """

    seed: int
    bounds: tuple[Bounds, ...]
    room: int

    # Ranges and patterns come to it, `Method.ranges`.
    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 16, result=1 << 14, kept=1 << 14)

    def counter(self, models: int) -> "BetweenCounter":
        """A new counter."""
        return BetweenCounter(models, self)

    def nothing(self, models: int) -> tuple[Between, ...]:
        """No pattern."""
        return (Between("", np.empty(0, np.uint32), 0),) * models

    def add(self, one: tuple[Between, ...], other: tuple[Between, ...]) -> tuple[Between, ...]:
        """Model by model."""
        return add_by_model(one, other)


class BetweenCounter:
    """Lists patterns, in tiles of base and models."""

    def __init__(self, models: int, look: BetweenLook) -> None:
        from sdmw.kernels import steps

        self._list, self._seed = steps.list_open, look.seed
        own = [each.arrays() for each in look.bounds]
        self._starts, self._lower, self._upper = (np.concatenate(each) for each in zip(*own, strict=True))
        self._ends = ends_of([each[0] for each in own])
        self._tensor = ""
        self._listed, self._sizes = np.empty((models, look.room), np.uint32), np.zeros(models, np.int64)

    def add(self, tile: Tile) -> None:
        """Look through a tile."""
        check_models(tile, len(self._sizes))
        self._tensor = tile.tensor
        keys = keys_of(self._seed, len(self._sizes), tile.tensor)
        self._list(
            tile.addresses, tile.codes, tile.count, tile.first, keys, self._starts, self._ends, self._lower,
            self._upper, self._listed, self._sizes,
        )  # fmt: skip

    def result(self) -> tuple[Between, ...]:
        """What was listed so far; listing begins again."""
        rows = zip(self._listed, self._sizes.tolist(), strict=True)
        found = tuple(Between(self._tensor, np.unique(row[:size]), size) for row, size in rows)
        self._sizes[:] = 0
        return found
