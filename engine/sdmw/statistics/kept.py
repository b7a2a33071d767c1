"""The exact sums of all magnitudes, and of those kept by chance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from sdmw.statistics.look import Look, LookMemory, Tile, add_by_model, check_models

INFINITE = 255  # the exponent of infinity and NaN


def keys_of(seed: int, models: int, tensor: str) -> NDArray[np.uint64]:
    """The key of each model's random words in a tensor. Source: METHODS.md, section 5."""
    texts = (f"{seed}\0{place}\0{tensor}" for place in range(models))
    return np.array([xxhash.xxh3_64_intdigest(text.encode()) for text in texts], np.uint64)


def bounds_of(shares: Sequence[float]) -> NDArray[np.uint64]:
    """The bound below which words keep an element, for each share that is kept."""
    return np.array([int(share * 2.0**32) for share in shares], np.uint64)


@dataclass(frozen=True, slots=True)
class Sums:
    """Of one model, as multiples of 2**-149; NaN and infinity are in none.

    Attributes:
        whole: of all magnitudes.
        kept: of those kept.
    """

    whole: int = 0
    kept: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.whole + other.whole, self.kept + other.kept)


@dataclass(frozen=True, slots=True)
class SumsLook(Look[tuple[Sums, ...]]):
    """Asks for the sums.

    Attributes:
        seed: of the random words.
    """

    seed: int

    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 16, result=1 << 11, kept=1 << 11)

    def nothing(self, models: int) -> tuple[Sums, ...]:
        """No magnitude."""
        return (Sums(),) * models

    def add(self, one: tuple[Sums, ...], other: tuple[Sums, ...]) -> tuple[Sums, ...]:
        """Model by model."""
        return add_by_model(one, other)


@dataclass(frozen=True, slots=True)
class KeptLook(SumsLook):
    """Asks for the sums where all elements of a model are as likely to be kept.

    Attributes:
        shares: of each model's elements that are kept, 0 to 1.
    """

    shares: tuple[float, ...]

    def counter(self, models: int) -> "SumsCounter":
        """A new counter, at zero."""
        from sdmw.kernels.chance import sum_kept

        below = bounds_of(self.shares)

        def count(tile: Tile, keys: NDArray[np.uint64], sums: NDArray[np.int64]) -> None:
            sum_kept(tile.addresses, tile.codes, tile.count, tile.first, keys, below, sums)

        return SumsCounter(models, self.seed, count)


class SumsCounter:
    """Counts tiles of base and models by a kernel that takes a tile, keys, and (n,2,EXPONENTS) mantissas to add to."""

    def __init__(
        self, models: int, seed: int, count: Callable[[Tile, NDArray[np.uint64], NDArray[np.int64]], None]
    ) -> None:
        from sdmw.kernels.chance import EXPONENTS

        self._count, self._seed, self._sums = count, seed, np.zeros((models, 2, EXPONENTS), np.int64)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        check_models(tile, len(self._sums))
        self._count(tile, keys_of(self._seed, len(self._sums), tile.tensor), self._sums)

    def result(self) -> tuple[Sums, ...]:
        """The sums so far, of all magnitudes and of those kept; counting begins again."""
        found = tuple(Sums(*(_total(row.tolist()) for row in model)) for model in self._sums)
        self._sums[:] = 0
        return found


def _total(mantissas: Sequence[int]) -> int:
    return sum(sum_ << (max(exponent, 1) - 1) for exponent, sum_ in enumerate(mantissas[:INFINITE]))
