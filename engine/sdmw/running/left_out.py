"""How much of a fine-tune's delta lies in tensors that an extracted adapter does not have.

What it takes of memory is in `planning.extraction.COMPARED`, which must follow where arrays here become more.
"""

import math

import numpy as np
from numpy.typing import NDArray

from sdmw.errors import NonFiniteError, Problem
from sdmw.planning.extraction import TILE
from sdmw.running.span import read_tiles
from sdmw.running.stop import GivenUp
from sdmw.running.work import equal
from sdmw.tensors.dtype import DType
from sdmw.tensors.matrices import widened
from sdmw.tensors.tensor import Tensor


def norm_of_change(base: Tensor | None, model: Tensor, given_up: GivenUp) -> float | None:
    """The Frobenius norm of what the fine-tune changed in a tensor; None where it is the same bit by bit.

    Args:
        base: the base's; None where it has none, so that all of the fine-tune's is a change.
        model: the fine-tune's.
        given_up: when it is set, the tensor is left at the next tile.

    Returns:
        0 for integers and truth values, which have no norm here.

    Raises:
        NonFiniteError: the change is NaN or infinite.
        RunError: a file changed or cannot be read.
    """
    if not (_is_float(model) and (base is None or _is_float(base))):
        alike = base is not None and (base.dtype, base.shape) == (model.dtype, model.shape)
        return None if base is not None and alike and equal(base, model, TILE, given_up.check) else 0.0
    inputs = (model,) if base is None else (base, model)
    total, changed = 0.0, base is None
    for _, tiles in read_tiles(inputs, 0, model.elements, TILE, given_up.check):
        *below, above = (_values(tile, info.dtype) for tile, info in zip(tiles, inputs, strict=True))
        changed = changed or not np.array_equal(below[0].view(np.uint64), above.view(np.uint64))
        total += _square(above, *below)
    if not math.isfinite(total):
        raise NonFiniteError([Problem(model.where, "finite deltas", "NaN or infinity", "Repair the checkpoint")])
    return math.sqrt(total) if changed else None


def _square(above: NDArray[np.float64], below: NDArray[np.float64] | None = None) -> float:
    if below is None:
        return float(np.square(above).sum())
    # An infinity that both have is no change.
    differs = above.view(np.uint64) != below.view(np.uint64)
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.square(above[differs] - below[differs]).sum())


def _is_float(tensor: Tensor) -> bool:
    return tensor.dtype.merges or tensor.dtype is DType.F64


def _values(tile: NDArray[np.generic], dtype: DType) -> NDArray[np.float64]:
    if dtype is DType.F64:
        return np.asarray(tile).view(np.float64).copy()
    return widened(tile, dtype).astype(np.float64)
