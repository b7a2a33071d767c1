"""A part of another tensor: a range of its elements, or some of them in another order, such as a transpose."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from sdmw.codec import tagged
from sdmw.errors import RunError
from sdmw.tensors.borrowed import borrowed
from sdmw.tensors.dtype import DType
from sdmw.tensors.matrices import computed
from sdmw.tensors.staging import resident_bytes
from sdmw.tensors.stored import Stored
from sdmw.tensors.strides import LONGEST_ROW, Axes, Box, boxes, cut, is_run
from sdmw.tensors.tensor import Cost, Source, Tensor, check_range, read_only

CHUNK = 1 << 20  # elements from which a tile is gathered at once; measured: more gains nothing


@tagged
@dataclass(frozen=True, slots=True)
class Part(Tensor):
    """Elements of another tensor.

    Attributes:
        whole: the other tensor, of values.
        first: which of its elements is the first.
        axes: in which order they follow, outermost axis first; joined (`strides`).
    """

    whole: Tensor
    first: int
    axes: Axes

    @property
    def stored_as(self) -> DType:
        """That of the other tensor."""
        return self.whole.stored_as

    @property
    def cost(self) -> Cost:
        """A range costs what the other tensor does; else a tile is gathered, from a chunk at a time."""
        whole = self.whole.cost
        if is_run(self.axes):
            return whole
        beside = resident_bytes(2 * LONGEST_ROW * self.dtype.itemsize)
        return Cost(whole.read, self.dtype.itemsize, beside + CHUNK * whole.held + whole.working)

    def open(self) -> Source:
        """Ranges of the other tensor, or what is gathered of it."""
        return RangeSource(self) if is_run(self.axes) else GatheredSource(self)

    def leaves(self) -> Iterator[Stored]:
        """Those of the other tensor."""
        return self.whole.leaves()


@dataclass(frozen=True, slots=True)
class RangeSource:
    """A `Source` whose tiles are tiles of another tensor. Opens nothing before the first tile; pickles.

    Attributes:
        tensor: a part whose elements lie one after the other.
    """

    tensor: Part

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop, as the other tensor's source hands them out; errors likewise."""
        check_range(self.tensor, start, stop)
        return self.tensor.whole.open().tile(self.tensor.first + start, self.tensor.first + stop)

    def release(self, start: int, stop: int) -> None:
        """Lets the other tensor's elements go."""
        self.tensor.whole.open().release(self.tensor.first + start, self.tensor.first + stop)

    def lost(self) -> RunError | None:
        """What to say when pages were lost."""
        return self.tensor.whole.open().lost()


@dataclass(frozen=True, slots=True)
class GatheredSource:
    """A `Source` that puts elements in another order. Opens nothing before the first tile; pickles.

    A tile of a transpose needs some columns of all rows. The rows are mapped a chunk at a time, in the order of the
    file: the page cache has them when the next tile takes its columns, so a disk reads them once.

    Attributes:
        tensor: a part whose elements lie apart.
    """

    tensor: Part

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop in row-major order: 1-D, read-only, of `dtype.storage`.

        Raises:
            InputChangedError: a file is gone, or shorter than when its header was read.
            RunError: it cannot be read.
        """
        tensor = self.tensor
        check_range(tensor, start, stop)
        if start == stop:
            return read_only(np.empty(0, tensor.dtype.storage))
        wanted = list(boxes(tensor.axes, start, stop, tensor.first))
        before, after = wanted[0].start, wanted[-1].start + wanted[-1].size
        found = computed.array(0, (after - before) * tensor.dtype.itemsize).view(tensor.dtype.storage)
        for box in wanted:
            place = box.start - before
            self._gather(box, found[place : place + box.size].reshape(box.lengths))
        return read_only(found[start - before : stop - before])

    def release(self, start: int, stop: int) -> None:
        """A tile is a copy: what it was gathered from was let go at once."""

    def lost(self) -> RunError | None:
        """Nothing can be lost of a copy."""
        return None

    def _gather(self, box: Box, out: NDArray[np.generic]) -> None:
        for places, part in cut(box, CHUNK):
            with borrowed(self.tensor.whole, part.first, part.first + part.extent) as tile:
                strides = [stride * tile.itemsize for _, stride in part.axes]
                np.copyto(out[places], as_strided(tile, part.lengths, strides, writeable=False))
