"""Tensors whose rows are gathered from others: a vocabulary in another order, with rows of other models in it.

Source: METHODS.md, section 8.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sdmw.codec import tagged
from sdmw.errors import RunError
from sdmw.tensors import lost_pages
from sdmw.tensors.dtype import DType
from sdmw.tensors.matrices import computed, widened
from sdmw.tensors.reading import read_runs
from sdmw.tensors.row_table import ZEROS, Numbers, RowTable
from sdmw.tensors.stored import Stored
from sdmw.tensors.tensor import Cost, Source, Tensor, check_range, read_only

SMALL = 1 << 20  # bytes: a source up to this size is read as a whole for each tile, however its rows lie
_STAGED = 4 << 20  # bytes by which the memory of a tile is larger than the tile
_UNPACKED, _SPAN = 12, 120  # bytes that a run takes in a table, and while a tile is put together
_WIDE = 64  # elements of a row: a tile of wider ones has few runs
_BLOCK = 1 << 18  # elements that are added at once to a mean of rows: fixed, so that the bits depend on nothing else
_MEANS = 8  # that are kept


@tagged
@dataclass(frozen=True, slots=True)
class Rows(Tensor):
    """Rows of other tensors, or zeros, along the first axis; float32 where the tensors have several dtypes.

    Attributes:
        sources: float tensors of as many elements a row; the first is the one in whose place it stands.
        table: which row of which source each row is.
    """

    sources: tuple[Tensor, ...]
    table: RowTable

    @classmethod
    def of(cls, name: str, sources: Sequence[Tensor], numbers: Numbers, rows: Numbers) -> "Rows":
        """From what each row is; sources that no row comes from are left out, but for the first.

        Args:
            name: the tensor's name.
            sources: as the attribute.
            numbers: (rows) int64, of the source of each row, or `ZEROS`.
            rows: (rows) int64, the row in it.
        """
        used = sorted({0, *np.unique(numbers[numbers != ZEROS]).tolist()})
        renumbered = np.full(len(sources) + 1, ZEROS, np.int64)  # the last stands for `ZEROS`
        renumbered[used] = np.arange(len(used))
        read = [sources[number] for number in used if number or np.any(numbers == 0)]
        dtypes = {source.dtype for source in read}
        dtype = dtypes.pop() if len(dtypes) == 1 else sources[0].dtype if not read else DType.F32
        shape = (numbers.size, *sources[0].shape[1:])
        return cls(name, dtype, shape, tuple(sources[u] for u in used), RowTable.of(renumbered[numbers], rows))

    @property
    def width(self) -> int:
        """Elements in a row."""
        return self.elements // self.shape[0] if self.shape[0] else 0

    @property
    def stored_as(self) -> DType:
        """Of the first source."""
        return self.sources[0].stored_as

    @property
    def cost(self) -> Cost:
        """Every row once. A tile is a copy; a part of it is in memory again while it is read and widened."""
        each = [source.cost for source in self.sources]
        wider = any(source.dtype is not self.dtype for source in self.sources)
        held = self.dtype.itemsize + max(cost.held for cost in each) + (12 if wider else 2)
        table = (_UNPACKED + (_SPAN if self.width < _WIDE else 0)) * self.table.count
        return Cost(max(cost.read for cost in each), held, SMALL + _STAGED + table + max(c.working for c in each))

    def open(self) -> Source:
        """Gathers each tile."""
        return RowsSource(self)

    def leaves(self) -> Iterator[Stored]:
        """Those of all sources."""
        for source in self.sources:
            yield from source.leaves()


@tagged
@dataclass(frozen=True, slots=True)
class Mean(Tensor):
    """The mean of tensors of one shape, in float32: added in their order, then divided.

    Attributes:
        parts: float tensors, at least one.
    """

    parts: tuple[Tensor, ...]

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> "Mean":
        """Of these tensors, with the name and the shape of the first."""
        return cls(parts[0].name, DType.F32, parts[0].shape, tuple(parts))

    @property
    def cost(self) -> Cost:
        """All parts are read, one after the other, and widened; beside them the sum is held."""
        each = [part.cost for part in self.parts]
        read, held = sum(cost.read for cost in each), max(cost.held for cost in each) + 16
        return Cost(read, max(held, read), max(cost.working for cost in each))

    def open(self) -> Source:
        """Adds tile by tile."""
        return ComputedSource(self)

    def computed(self, start: int, stop: int) -> NDArray[np.float32]:
        """Elements start to stop."""
        total = _values(self.parts[0], start, stop)
        with np.errstate(over="ignore", invalid="ignore"):
            for part in self.parts[1:]:
                total += _values(part, start, stop)
            total /= np.float32(len(self.parts))
        return total

    def leaves(self) -> Iterator[Stored]:
        """Those of all parts."""
        for part in self.parts:
            yield from part.leaves()


@tagged
@dataclass(frozen=True, slots=True)
class MeanRow(Tensor):
    """Rows that are all the mean of a tensor's rows, summed in float64 in their order and rounded to float32.

    Attributes:
        rows: a float tensor, read as a whole when the first tile is asked for.
    """

    rows: Tensor

    @classmethod
    def of(cls, rows: Tensor, count: int) -> "MeanRow":
        """So many rows."""
        return cls(rows.name, DType.F32, (count, *rows.shape[1:]), rows)

    @property
    def cost(self) -> Cost:
        """The mean is computed once a process, and not counted as read."""
        below = self.rows.cost
        width = self.elements // self.shape[0]
        return Cost(0, 4, below.working + (below.held + 20) * (_BLOCK + width) + 12 * _MEANS * width)

    def open(self) -> Source:
        """Repeats the mean."""
        return ComputedSource(self)

    def computed(self, start: int, stop: int) -> NDArray[np.float32]:
        """Elements start to stop."""
        mean = _mean_row(self.rows)
        return mean[np.arange(start, stop) % mean.size] if mean.size else np.zeros(stop - start, np.float32)

    def leaves(self) -> Iterator[Stored]:
        """Those of the rows."""
        return self.rows.leaves()


@lru_cache(maxsize=_MEANS)
def _mean_row(rows: Tensor) -> NDArray[np.float32]:
    count, width = rows.shape[0], rows.elements // rows.shape[0] if rows.shape[0] else 0
    total = np.zeros(width)
    step = max(1, _BLOCK // max(width, 1))
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, count, step):
            last = min(first + step, count)
            for row in _values(rows, first * width, last * width).reshape(last - first, width):
                total += row
        return (total / max(count, 1)).astype(np.float32)


def forget() -> None:
    """Lets go of means that were kept."""
    _mean_row.cache_clear()


@dataclass(frozen=True, slots=True)
class ComputedSource:
    """A `Source` of a mean. Opens nothing before the first tile; pickles.

    Attributes:
        tensor: what it computes.
    """

    tensor: Mean | MeanRow

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop in row-major order: 1-D, read-only, patterns of float32 (uint32).

        Raises:
            InputChangedError: a file is gone, or shorter than when its header was read.
            RunError: it cannot be read.
        """
        check_range(self.tensor, start, stop)
        return read_only(self.tensor.computed(start, stop).view(np.uint32))

    def release(self, start: int, stop: int) -> None:
        """A tile is computed: there is nothing to let go."""

    def lost(self) -> RunError | None:
        """Lost pages were reported while the tile was computed."""
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """What a tile is made of, in elements.

    Attributes:
        sources: (spans) int64, numbers of sources, or `ZEROS`.
        places: (spans) int64, in the tile.
        firsts: (spans) int64, the first element in the source.
        sizes: (spans) int64.
    """

    sources: Numbers
    places: Numbers
    firsts: Numbers
    sizes: Numbers

    def of(self, source: int) -> "Spans":
        """Those of one source."""
        mine = self.sources == source
        return Spans(self.sources[mine], self.places[mine], self.firsts[mine], self.sizes[mine])

    def each(self) -> "zip[tuple[int, int, int]]":
        """Place, first element and size of each."""
        return zip(self.places.tolist(), self.firsts.tolist(), self.sizes.tolist(), strict=True)


@dataclass(frozen=True, slots=True)
class RowsSource:
    """A `Source` that gathers rows. Opens nothing before the first tile; pickles.

    Attributes:
        tensor: the gathered tensor.
    """

    tensor: Rows

    def tile(self, start: int, stop: int) -> NDArray[np.generic]:
        """Elements start to stop in row-major order: 1-D, read-only, of `dtype.storage`, perhaps unaligned.

        Raises:
            InputChangedError: a file is gone, or shorter than when its header was read.
            RunError: it cannot be read.
        """
        check_range(self.tensor, start, stop)
        spans, dtype = self._spans(start, stop), self.tensor.dtype
        if (own := self._as_it_is(spans)) is not None:
            return own[0].open().tile(*own[1])
        if start == stop:
            return read_only(np.empty(0, dtype.storage))
        out = computed.array(0, (stop - start) * dtype.itemsize).view(dtype.storage)
        for number, source in enumerate(self.tensor.sources):
            if (mine := spans.of(number)).places.size:
                _gather(source, mine, out, dtype)
        zeros = spans.of(ZEROS)
        for place, size in zip(zeros.places.tolist(), zeros.sizes.tolist(), strict=True):
            out[place : place + size] = 0
        return read_only(out)

    def release(self, start: int, stop: int) -> None:
        """Lets go of what lies behind a tile that is a view of its source; others are copies."""
        if start < stop and (own := self._as_it_is(self._spans(start, stop))) is not None:
            own[0].open().release(*own[1])

    def lost(self) -> RunError | None:
        """What to say when pages were lost behind a tile that is a view."""
        return next((error for source in self.tensor.sources if (error := source.open().lost())), None)

    def _as_it_is(self, spans: Spans) -> tuple[Tensor, tuple[int, int]] | None:
        """The source and the range of it that a tile is, where it is one."""
        if spans.sources.size != 1 or spans.sources[0] == ZEROS:
            return None
        source, first = self.tensor.sources[int(spans.sources[0])], int(spans.firsts[0])
        return (source, (first, first + int(spans.sizes[0]))) if source.dtype is self.tensor.dtype else None

    def _spans(self, start: int, stop: int) -> Spans:
        """What a tile is made of."""
        width = self.tensor.width
        rows = (start // width, -(-stop // width)) if start < stop else (0, 0)
        runs = self.tensor.table.runs(*rows)
        first, last = np.maximum(runs.starts * width, start), np.minimum(runs.stops * width, stop)
        inside = first - runs.starts * width  # of a row, where a tile begins in the middle of one
        return Spans(runs.sources, first - start, runs.firsts * width + inside, last - first)


def _gather(source: Tensor, spans: Spans, out: NDArray[np.generic], dtype: DType) -> None:
    """Copy elements of a source to their places, widened where the dtype is another."""
    if source.dtype is not dtype:
        total = int(spans.sizes.sum())
        raw = np.empty(total, source.dtype.storage)
        ends = np.cumsum(spans.sizes)
        _copy(source, replace(spans, places=ends - spans.sizes), raw)
        values = raw if source.dtype is DType.F32 else widened(raw, source.dtype).view(np.uint32)
        for place, end, size in zip(spans.places.tolist(), ends.tolist(), spans.sizes.tolist(), strict=True):
            out[place : place + size] = values[end - size : end]
    else:
        _copy(source, spans, out)


def _copy(source: Tensor, spans: Spans, out: NDArray[np.generic]) -> None:
    """Copy elements of a source, as they are, to their places; by the system where they lie in a file."""
    if isinstance(source, Stored):
        read_runs(source, spans.firsts, spans.sizes, spans.places, out)
        return
    if source.nbytes <= SMALL and spans.sizes.size > 1:
        whole = np.empty(source.elements, source.dtype.storage)
        _read(source, 0, whole)
        for place, first, size in spans.each():
            out[place : place + size] = whole[first : first + size]
        return
    for place, first, size in spans.each():
        _read(source, first, out[place : place + size])


def _read(source: Tensor, start: int, out: NDArray[np.generic]) -> None:
    """Elements of a tensor, from one on, into an array."""
    opened, lost, stop = source.open(), lost_pages.lost(), start + out.size
    out[:] = opened.tile(start, stop)
    if lost_pages.lost() != lost and (error := opened.lost()):
        raise error
    opened.release(start, stop)


def _values(tensor: Tensor, start: int, stop: int) -> NDArray[np.float32]:
    """Elements of a tensor in float32, in memory of their own."""
    raw = np.empty(stop - start, tensor.dtype.storage)
    _read(tensor, start, raw)
    return raw.view(np.float32) if tensor.dtype is DType.F32 else widened(raw, tensor.dtype)
