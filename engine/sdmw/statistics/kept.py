"""The exact sums of all magnitudes, and of those kept by chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from sdmw.statistics.look import Counter, Look, LookMemory, Tile, add_by_model, check_models

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
class KeptLook(Look[tuple[Sums, ...]]):
    """Asks for the sums.

    Attributes:
        seed: of the random words.
        shares: of each model's elements that are kept, 0 to 1.
    """

    seed: int
    shares: tuple[float, ...]

    memory: ClassVar[LookMemory] = LookMemory(counter=1 << 15, result=1 << 11, kept=1 << 11)

    def counter(self, models: int) -> Counter[tuple[Sums, ...]]:
        """A new counter, at zero."""
        return KeptCounter(models, self)

    def nothing(self, models: int) -> tuple[Sums, ...]:
        """No magnitude."""
        return (Sums(),) * models

    def add(self, one: tuple[Sums, ...], other: tuple[Sums, ...]) -> tuple[Sums, ...]:
        """Model by model."""
        return add_by_model(one, other)


class KeptCounter:
    """Counts tiles of base and models."""

    def __init__(self, models: int, look: KeptLook) -> None:
        from sdmw.kernels import chance

        self._count, self._seed, self._below = chance.sum_kept, look.seed, bounds_of(look.shares)
        self._sums = np.zeros((models, 2, chance.EXPONENTS), np.int64)

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        check_models(tile, len(self._sums))
        keys = keys_of(self._seed, len(self._sums), tile.tensor)
        self._count(tile.addresses, tile.codes, tile.count, tile.first, keys, self._below, self._sums)

    def result(self) -> tuple[Sums, ...]:
        """The sums so far; counting begins again."""
        found = sums_of(self._sums)
        self._sums[:] = 0
        return found


def sums_of(mantissas: NDArray[np.int64]) -> tuple[Sums, ...]:
    """The sums of each model from (n,2,EXPONENTS) mantissas, of all and of those kept, added up by exponent."""
    return tuple(Sums(*(_total(row.tolist()) for row in model)) for model in mantissas)


def _total(mantissas: Sequence[int]) -> int:
    return sum(sum_ << (max(exponent, 1) - 1) for exponent, sum_ in enumerate(mantissas[:INFINITE]))
