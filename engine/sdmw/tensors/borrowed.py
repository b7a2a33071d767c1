"""Elements of a tensor while they are copied from: nothing stays mapped, and pages that were lost are reported."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from sdmw.tensors import lost_pages
from sdmw.tensors.tensor import Tensor


@contextmanager
def borrowed(tensor: Tensor, start: int, stop: int) -> Iterator[NDArray[np.generic]]:
    """A tile that is let go at the end.

    Args:
        tensor: whose it is.
        start: first element.
        stop: the one behind the last.

    Raises:
        InputChangedError: a file is gone, or shorter than when its header was read.
        RunError: it cannot be read.
    """
    source, lost = tensor.open(), lost_pages.lost()
    yield source.tile(start, stop)
    if lost_pages.lost() != lost and (error := source.lost()):
        raise error
    source.release(start, stop)
