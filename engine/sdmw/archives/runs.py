"""Where a run of elements differs, as the arrays of an archive hold it: plain NumPy, block by block."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmw.tensors.dtype import DType
from sdmw.tensors.matrices import widened

BLOCK = 1 << 16  # elements; places are counted from its beginning, so that a gap fits into 16 bits

Words = NDArray[Any]  # unsigned integers of the size of an element


@dataclass(frozen=True, slots=True)
class Run:
    """What is kept of a run of elements, which begins with a block of its tensor.

    Attributes:
        counts: how many elements are kept, by block.
        gaps: for each of them how many are passed over since the one before it in its block.
        xor: their bits on one side exclusive-or those on the other.
    """

    counts: NDArray[np.uint32]
    gaps: NDArray[np.uint16]
    xor: Words


def words_of(elements: NDArray[np.generic]) -> Words:
    """The bits of elements."""
    return elements.view(f"<u{elements.itemsize}")


def blocks(elements: int) -> int:
    """How many blocks so many elements take."""
    return -(-elements // BLOCK)


def run_of(xor: Words, gaps: NDArray[np.uint16]) -> Run:
    """The run of the elements that are not zero.

    Args:
        xor: of each element; what is kept is moved to its front.
        gaps: memory for as many entries, to be filled.
    """
    counts = np.empty(blocks(xor.size), np.uint32)
    kept = 0
    for number, (start, stop) in enumerate(_borders(xor.size)):
        places = np.flatnonzero(xor[start:stop])
        found = xor[start:stop][places]
        counts[number] = places.size
        gaps[kept : kept + places.size] = np.diff(places, prepend=-1) - 1
        xor[kept : kept + places.size] = found  # never beyond what was read
        kept += places.size
    return Run(counts, gaps[:kept], xor[:kept])


def flip(words: Words, run: Run) -> None:
    """Exclusive-or what a run keeps into its elements: from either side to the other.

    Raises:
        ValueError: a place is beyond the end of a block.
    """
    first = 0
    for (start, stop), count in zip(_borders(words.size), run.counts.tolist(), strict=True):
        places = np.cumsum(run.gaps[first : first + count].astype(np.int64) + 1) - 1
        if count and places[-1] >= stop - start:
            raise ValueError("a place beyond the end of a block")
        words[start:stop][places] ^= run.xor[first : first + count]
        first += count


def drop_small(xor: Words, base: Words, model: Words, dtype: DType, pattern: int) -> None:
    """Set to zero where the magnitude of the delta has a float32 pattern below a threshold's.

    NaN and infinity have higher patterns than any threshold: they stay, as in a merge that lets them pass.
    """
    for start, stop in _borders(xor.size):
        with np.errstate(invalid="ignore", over="ignore"):
            delta = widened(model[start:stop], dtype) - widened(base[start:stop], dtype)
        xor[start:stop][delta.view(np.uint32) & 0x7FFFFFFF < pattern] = 0


def _borders(elements: int) -> Iterator[tuple[int, int]]:
    for start in range(0, elements, BLOCK):
        yield start, min(start + BLOCK, elements)
