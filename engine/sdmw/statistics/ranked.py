"""The exact sums of all magnitudes, and of those kept by chance where the larger of a row are the likelier."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sdmw.statistics.kept import SumsCounter, SumsLook
from sdmw.statistics.look import Tile
from sdmw.statistics.ranges import ends_of


@dataclass(frozen=True, slots=True)
class RankedLook(SumsLook):
    """Asks for the sums. Its tiles hold whole rows.

    Attributes:
        shares: of each model's elements that are kept, 0 to 1.
        epsilons: of each model, by how much the share of a row's largest is above that of all.
    """

    shares: tuple[float, ...]
    epsilons: tuple[float, ...]

    whole_rows: ClassVar[bool] = True

    def counter(self, models: int) -> SumsCounter:
        """A new counter, at zero."""
        from sdmw.kernels.ranks import sum_kept_by_rank

        shares, epsilons = np.array(self.shares), np.array(self.epsilons)

        def count(tile: Tile, keys: NDArray[np.uint64], sums: NDArray[np.int64]) -> None:
            sum_kept_by_rank(tile.addresses, tile.codes, tile.count, tile.first, tile.row, keys, shares, epsilons, sums)

        return SumsCounter(models, self.seed, count)


@dataclass(frozen=True, slots=True)
class SteppedLook(SumsLook):
    """Asks for the sums of one long row, whose ranks are known by ranges of magnitudes.

    Attributes:
        steps: of each model (2, ranges) uint32, little-endian: starts, and bounds of words; none where all is kept.
    """

    steps: tuple[bytes, ...]

    def counter(self, models: int) -> SumsCounter:
        """A new counter, at zero."""
        from sdmw.kernels.steps import sum_kept_by_step

        starts, ends, bounds = flattened(self.steps)

        def count(tile: Tile, keys: NDArray[np.uint64], sums: NDArray[np.int64]) -> None:
            sum_kept_by_step(tile.addresses, tile.codes, tile.count, tile.first, keys, starts, ends, bounds, sums)

        return SumsCounter(models, self.seed, count)


def flattened(steps: Sequence[bytes]) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.uint32]]:
    """The steps of all models as kernels take them: starts one behind the other, where each model's end, bounds."""
    arrays = [np.frombuffer(each, "<u4").reshape(2, -1) for each in steps]
    starts, bounds = (np.concatenate(each) for each in zip(*arrays, strict=True))
    return starts, ends_of([each[0] for each in arrays]), bounds
