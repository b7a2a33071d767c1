"""How large deltas are, by powers of two."""

from dataclasses import dataclass

import numpy as np

from sdmw.stores.reading import StoreReader
from sdmw.stores.store import Store

BIAS = 127  # of float32's exponents
_EXPONENTS = 255  # of finite numbers; the first is that of all below 2**-126


@dataclass(frozen=True, slots=True)
class Powers:
    """One model's nonzero deltas, over all tensors.

    Attributes:
        model: its name.
        power: of the first of `counts`; None where nothing changed.
        counts: how many |delta| lie from 2**power up to 2**(power + 1), from there up to 2**(power + 2), and so on.
            Power -127 has all below 2**-126.
    """

    model: str
    power: int | None
    counts: tuple[int, ...]


def histograms(store: Store) -> tuple[Powers, ...]:
    """The histogram of each model, in one pass over the store.

    Raises:
        StoreError: the store is damaged.
    """
    reader, counts = StoreReader(store), np.zeros((len(store.models), _EXPONENTS), np.int64)
    for number in range(len(store.tensors)):
        for model, found in enumerate(reader.magnitudes(number)):
            np.add.at(counts[model], found.bins >> 7, found.counts)
    return tuple(_powers(name, own.tolist()) for name, own in zip(store.models, counts, strict=True))


def _powers(model: str, counts: list[int]) -> Powers:
    held = [exponent for exponent, count in enumerate(counts) if count]
    if not held:
        return Powers(model, None, ())
    return Powers(model, held[0] - BIAS, tuple(counts[held[0] : held[-1] + 1]))
