"""How many of each model's changes others share, and how many are its alone."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sdmw.statistics.look import Look, LookMemory, Tile, add_by_model, check_models


@dataclass(frozen=True, slots=True)
class Changes:
    """Of one model.

    Attributes:
        shared: elements that another model changes too.
        alone: elements that no other model changes.
    """

    shared: int = 0
    alone: int = 0

    def __add__(self, other: "Changes") -> "Changes":
        return Changes(self.shared + other.shared, self.alone + other.alone)


@dataclass(frozen=True, slots=True)
class ChangesLook(Look[tuple[Changes, ...]]):
    """Asks for the counts.

    Attributes:
        epsilon: a delta of at most this magnitude is no change.
    """

    epsilon: float

    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 14, result=1 << 10, kept=1 << 10)

    def counter(self, models: int) -> "ChangesCounter":
        """A new counter, at zero."""
        return ChangesCounter(models, self.epsilon)

    def nothing(self, models: int) -> tuple[Changes, ...]:
        """No change."""
        return (Changes(),) * models

    def add(self, one: tuple[Changes, ...], other: tuple[Changes, ...]) -> tuple[Changes, ...]:
        """Model by model."""
        return add_by_model(one, other)


class ChangesCounter:
    """Counts tiles of base and models."""

    def __init__(self, models: int, epsilon: float) -> None:
        from sdmw.kernels import ram

        self._count = ram.count_shared
        self._epsilon, self._counts = np.float32(epsilon), np.zeros((models, 2), np.int64)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        check_models(tile, len(self._counts))
        self._count(tile.addresses, tile.codes, tile.count, self._epsilon, self._counts)

    def result(self) -> tuple[Changes, ...]:
        """The counts so far; counting begins again."""
        found = tuple(Changes(int(shared), int(alone)) for shared, alone in self._counts)
        self._counts[:] = 0
        return found
