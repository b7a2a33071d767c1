"""Finds the element that made a tile's delta or result NaN or infinite, in plain NumPy: this is no fast path."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmw.errors import Problem
from sdmw.planning.plan import TensorPlan
from sdmw.tensors.dtype import DType
from sdmw.tensors.matrices import widened

_EXPONENTS = {DType.F32: 0x7F800000, DType.F16: 0x7C00, DType.BF16: 0x7F80}  # all ones: NaN or infinity
_AT_ONCE = 1 << 16  # elements
MEND = "Repair the checkpoint, or let it through with the recipe field `nonfinite: pass`"


def count(words: NDArray[Any], dtype: DType) -> int:
    """How many elements of a float dtype are NaN or infinite, from their bits; a few at once, to take no memory."""
    ones = words.dtype.type(_EXPONENTS[dtype])
    blocks = (words[at : at + _AT_ONCE] for at in range(0, words.size, _AT_ONCE))
    return sum(int(np.count_nonzero((block & ones) == ones)) for block in blocks)


def explain(tensor: TensorPlan, arrays: Sequence[NDArray[np.generic]], start: int, *, deltas: bool) -> Problem | None:
    """The first input that is not finite, else the first delta that overflows; None where all are fine.

    Args:
        tensor: whose tile it is.
        arrays: the tile in every input, as sources hand it out.
        start: its first element.
        deltas: the first input is the base, from which the others' deltas are taken.
    """
    wide = [widened(array, info.dtype) for array, info in zip(arrays, tensor.inputs, strict=True)]
    found = next(_not_finite(tensor, wide, start), None)
    return found if found or not deltas else next(_overflowing(tensor, wide, start), None)


def _not_finite(tensor: TensorPlan, wide: Sequence[NDArray[np.float32]], start: int) -> Iterator[Problem]:
    for info, values in zip(tensor.inputs, wide, strict=True):
        for element in np.flatnonzero(~np.isfinite(values))[:1]:
            where = f"{info.where}, element {start + element}"
            yield Problem(where, "a finite number", str(values[element]), MEND)


def _overflowing(tensor: TensorPlan, wide: Sequence[NDArray[np.float32]], start: int) -> Iterator[Problem]:
    for info, values in zip(tensor.inputs[1:], wide[1:], strict=True):
        if info.gives == "delta":
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            delta = values - wide[0]
        for element in np.flatnonzero(~np.isfinite(delta))[:1]:
            where = f"{info.where}, element {start + element}"
            found = f"{values[element]!s} against {wide[0][element]!s} in {tensor.inputs[0].origin}"
            yield Problem(where, "a delta within the range of float32", found, MEND)
