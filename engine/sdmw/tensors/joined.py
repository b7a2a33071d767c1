"""A tensor whose elements are those of others, one after the other."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from sdmw.codec import tagged
from sdmw.errors import RunError
from sdmw.tensors.borrowed import borrowed
from sdmw.tensors.dtype import DType
from sdmw.tensors.matrices import computed, widened
from sdmw.tensors.staging import resident_bytes
from sdmw.tensors.stored import Stored
from sdmw.tensors.tensor import Cost, Source, Tensor, check_range, read_only

CHUNK = 1 << 20  # elements that are copied at once


@tagged
@dataclass(frozen=True, slots=True)
class Joined(Tensor):
    """Elements of several tensors of values, in order.

    Attributes:
        parts: at least one. Where their dtypes differ all of them merge, and the whole is float32.
    """

    parts: tuple[Tensor, ...]

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], parts: Sequence[Tensor]) -> "Joined":
        """Tensors of one dtype, or of several that merge, as one of a shape."""
        dtypes = {part.dtype for part in parts}
        return cls(name, dtypes.pop() if len(dtypes) == 1 else DType.F32, shape, tuple(parts))

    @property
    def stored_as(self) -> DType:
        """That of all parts; float32 where they differ."""
        kinds = {part.stored_as for part in self.parts}
        return kinds.pop() if len(kinds) == 1 else DType.F32

    @property
    def cost(self) -> Cost:
        """A tile within one part is that part's; one of several is copied, a chunk of a part at a time."""
        each = [part.cost for part in self.parts]
        held = max(cost.held for cost in each)
        beside = CHUNK * (held + 2 * self.dtype.itemsize) + resident_bytes(0)
        working = beside + max(cost.working for cost in each)
        return Cost(max(cost.read for cost in each), max(held, self.dtype.itemsize), working)

    def open(self) -> Source:
        """Tiles of the parts, or copies of several."""
        return JoinedSource(self, tuple(accumulate((part.elements for part in self.parts), initial=0)))

    def leaves(self) -> Iterator[Stored]:
        """Those of the parts."""
        for part in self.parts:
            yield from part.leaves()


@dataclass(frozen=True, slots=True)
class JoinedSource:
    """A `Source` of several tensors in order. Opens nothing before the first tile; pickles.

    Attributes:
        tensor: the whole.
        borders: the first element of each part, and the end.
    """

    tensor: Joined
    borders: tuple[int, ...]

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop in row-major order: 1-D, read-only, of `dtype.storage`, perhaps unaligned.

        Raises:
            InputChangedError: a file is gone, or shorter than when its header was read.
            RunError: it cannot be read.
        """
        check_range(self.tensor, start, stop)
        if (number := self._alone(start, stop)) is not None:
            first = self.borders[number]
            return self.tensor.parts[number].open().tile(start - first, stop - first)
        dtype = self.tensor.dtype
        found = computed.array(0, (stop - start) * dtype.itemsize).view(dtype.storage)
        for part, low, high, place in self._ranges(start, stop):
            with borrowed(part, low, high) as tile:
                own = tile if part.dtype is dtype else widened(tile, part.dtype).view(dtype.storage)
                found[place - start : place - start + high - low] = own
        return read_only(found)

    def release(self, start: int, stop: int) -> None:
        """Lets the tile of a part go; a copy needs nothing."""
        if (number := self._alone(start, stop)) is not None:
            first = self.borders[number]
            self.tensor.parts[number].open().release(start - first, stop - first)

    def lost(self) -> RunError | None:
        """What to say when pages were lost."""
        return next((error for part in self.tensor.parts if (error := part.open().lost())), None)

    def _alone(self, start: int, stop: int) -> int | None:
        """The part that has all of a tile, as it is."""
        number = min(bisect_right(self.borders, start), len(self.tensor.parts)) - 1
        within = stop <= self.borders[number + 1]
        return number if within and self.tensor.parts[number].dtype is self.tensor.dtype else None

    def _ranges(self, start: int, stop: int) -> Iterator[tuple[Tensor, int, int, int]]:
        """Chunks of the parts that a tile needs: part, from, up to, and the place of the first in the whole."""
        number = bisect_right(self.borders, start) - 1
        while start < stop:
            end = min(self.borders[number + 1], stop)
            first = self.borders[number]
            for low in range(start, end, CHUNK):
                yield self.tensor.parts[number], low - first, min(low + CHUNK, end) - first, low
            start, number = end, number + 1
