"""Where two tensors differ: how many elements, and by how much at most."""

from typing import Any

import numpy as np

from sdmw.kernels.jit import bits_of, kernel
from sdmw.kernels.tiles import BLOCK, decode


@kernel
def changed_in(one: Any, other: Any, size: int) -> int:
    """How many of `size` float32 have other patterns in `other`."""
    found = np.uint32(0)
    for i in range(size):
        found = np.uint32(found + np.uint32(bits_of(one[i]) != bits_of(other[i])))
    return int(found)


@kernel
def largest_in(one: Any, other: Any, size: int) -> int:
    """The largest pattern of the finite |other - one| of `size` float32; NaN and infinity are passed over."""
    found = np.uint32(0)  # a maximum of patterns stays in vectors of 32 bits
    for i in range(size):
        magnitude = abs(other[i] - one[i])
        found = max(found, bits_of(magnitude if magnitude < np.float32(np.inf) else np.float32(0.0)))
    return int(found)


@kernel
def count_changed(addresses: Any, codes: Any, count: int, found: Any) -> None:
    """(2),(2),(),(2) int64: add how many float32 patterns differ, and raise the largest pattern of a finite |delta|.

    float32 patterns of two values of one dtype differ where their bits do: zeros of unlike sign, NaNs of unlike bits.
    """
    one, other = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        decode(addresses[0], codes[0], start, size, one)
        decode(addresses[1], codes[1], start, size, other)
        found[0] += changed_in(one, other, size)
        found[1] = max(found[1], largest_in(one, other, size))
