"""The exact sums of all magnitudes, and of those kept by chance where the larger of a row are the likelier."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sdmw.statistics.kept import KeptLook, Sums, keys_of, sums_of
from sdmw.statistics.look import Counter, LookMemory, Tile, check_models


@dataclass(frozen=True, slots=True)
class RankedLook(KeptLook):
    """Asks for the sums. Its tiles hold whole rows.

    Attributes:
        epsilons: of each model, by how much the share of a row's largest is above that of all.
    """

    epsilons: tuple[float, ...]

    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 15, result=1 << 11, kept=1 << 11)
    whole_rows: ClassVar[bool] = True

    def counter(self, models: int) -> Counter[tuple[Sums, ...]]:
        """A new counter, at zero."""
        return RankedCounter(models, self)


class RankedCounter:
    """Counts tiles of base and models."""

    def __init__(self, models: int, look: RankedLook) -> None:
        from sdmw.kernels import chance, ranks

        self._count, self._look = ranks.sum_kept_by_rank, look
        self._densities, self._epsilons = np.array(look.shares), np.array(look.epsilons)
        self._sums = np.zeros((models, 2, chance.EXPONENTS), np.int64)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        check_models(tile, len(self._sums))
        keys = keys_of(self._look.seed, len(self._sums), tile.tensor)
        self._count(
            tile.addresses, tile.codes, tile.count, tile.first, tile.row, keys, self._densities, self._epsilons,
            self._sums,
        )  # fmt: skip

    def result(self) -> tuple[Sums, ...]:
        """The sums so far; counting begins again."""
        found = sums_of(self._sums)
        self._sums[:] = 0
        return found
