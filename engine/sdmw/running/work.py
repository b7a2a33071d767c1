"""What one worker does with one piece; top-level functions of plain data, so that any executor can run them."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from sdmw.errors import DisagreementError, InputChangedError, NonFiniteError, Problem
from sdmw.kernels import tiles
from sdmw.kernels.codes import BF16, DELTA, F16, F32
from sdmw.methods.method import AnyMethod, Destination
from sdmw.planning.plan import SMALLEST, TensorPlan
from sdmw.running.nonfinite import MEND, count, explain
from sdmw.running.stop import GivenUp
from sdmw.statistics.look import Counter, Look, S, Tile
from sdmw.tensors import lost_pages
from sdmw.tensors.dtype import DType
from sdmw.tensors.staging import staging
from sdmw.tensors.tensor import Tensor
from sdmw.writing.sink import Sink

Write = Callable[[int, int, NDArray[Any]], None]  # shard, offset in bytes, contiguous data that nobody changes any more
Arrays = Sequence[NDArray[np.generic]]

CODES = {DType.F32: F32, DType.F16: F16, DType.BF16: BF16}


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of one tensor, with all that is needed to read it.

    Attributes:
        tensor: what it is a piece of.
        start, stop: elements.
        tile: elements in a tile.
        strict: NaN, infinity and overflow are errors.
        given_up: when it is set, the piece is left at the next tile.
    """

    tensor: TensorPlan
    start: int
    stop: int
    tile: int
    strict: bool
    given_up: GivenUp = field(default_factory=GivenUp)

    @property
    def nbytes(self) -> int:
        """Bytes read of all inputs."""
        return (self.stop - self.start) * sum(each.cost.read for each in self.tensor.inputs)

    def looked_at(self, look: Look[Any], models: int) -> list[Tensor]:
        """What a look reads: the base where the method takes deltas from it, and the models that the look names.

        Args:
            look: what to measure.
            models: how many models there are.
        """
        before = len(self.tensor.inputs) - models
        return [*self.tensor.inputs[:before], *(self.tensor.inputs[before + number] for number in look.reads(models))]

    @property
    def written(self) -> int:
        """Bytes of the output."""
        return (self.stop - self.start) * self.tensor.output.dtype.itemsize

    def tiles(self) -> Iterator[tuple[int, Arrays]]:
        """Each tile's first element, and its elements in every input; they are released when the next is asked for."""
        return read_tiles(self.tensor.inputs, self.start, self.stop, self.tile, self.given_up.check)


def read_tiles(
    inputs: Sequence[Tensor], start: int, stop: int, tile: int, check: Callable[[], None]
) -> Iterator[tuple[int, Arrays]]:
    """Each tile's first element, and its elements in every input; they are released when the next is asked for.

    Args:
        inputs: tensors of one shape.
        start: first element.
        stop: the one behind the last.
        tile: elements in a tile.
        check: called before each tile; raises to stop.

    Raises:
        RunError: a file changed or cannot be read.
    """
    return read_ranges(inputs, tile_borders(start, stop, tile), check)


def read_ranges(
    inputs: Sequence[Tensor], ranges: Iterable[tuple[int, int]], check: Callable[[], None]
) -> Iterator[tuple[int, Arrays]]:
    """As `read_tiles`, for tiles given by their first element and the one behind the last."""
    sources = [each.open() for each in inputs]
    for first, last in ranges:
        check()
        lost = lost_pages.lost()
        arrays = [source.tile(first, last) for source in sources]
        yield first, arrays
        arrays.clear()  # no computed tile stays alive in the list while the next ones are made
        if lost_pages.lost() != lost and (errors := [error for s in sources if (error := s.lost())]):
            # The most telling: a file that is shorter now, before one whose pages may not have been the lost ones.
            raise min(errors, key=lambda error: not isinstance(error, InputChangedError))
        # A mapped page counts as resident until it is released, however little is kept.
        for source in sources:
            source.release(first, last)


def tile_borders(start: int, stop: int, tile: int) -> Iterator[tuple[int, int]]:
    """First element and the one behind the last of each tile; within a tensor they lie on multiples of the tile.

    Pieces begin at blocks of the file, a few elements behind such a multiple: these go with the tile before.
    """
    first = start
    while first < stop:
        last = min((first // tile + 1) * tile, stop)
        last = stop if stop - last < min(SMALLEST, tile) else last
        yield first, last
        first = last


def measure(span: Span, look: Look[S], models: int) -> S:
    """One look at a piece.

    Args:
        span: the piece.
        look: what to measure.
        models: how many models there are.

    Raises:
        NonFiniteError: a delta, or a value where no base is read, is NaN or infinite and the span is strict.
    """
    counter = _kept.take(look, models)
    inputs = span.looked_at(look, models)
    for start, arrays in read_tiles(inputs, span.start, span.stop, span.tile, span.given_up.check):
        counter.add(_tile(span.tensor, inputs, arrays, start))
    result = counter.result()
    _kept.give_back(look, models, counter)
    if span.strict and look.nonfinite(result):
        for start, arrays in span.tiles():
            if problem := explain(span.tensor, arrays, start, deltas=len(span.tensor.inputs) > models):
                raise NonFiniteError([problem])
    return result


@dataclass(frozen=True, slots=True)
class Portion:
    """A piece to be written, and the decision of its layer; None where it is not merged."""

    span: Span
    layer: object = None


@dataclass(frozen=True, slots=True)
class Written:
    """What was written of a piece.

    Attributes:
        checksum: XXH3-128 of its bytes, in hex.
        nonfinite: how many of its elements are NaN or infinite.
    """

    checksum: str
    nonfinite: int = 0


def write_portions(portions: Sequence[Portion], method: AnyMethod, model: object, sink: Sink) -> tuple[Written, ...]:
    """Merge, convert or copy pieces, and write them.

    Args:
        portions: pieces; of another process's task they share no block of a file with those of other tasks.
        method: the merge method.
        model: the model's decision.
        sink: where they go.

    Returns:
        What there is to tell of each piece.

    Raises:
        NonFiniteError: a result is NaN or infinite after rounding and the span is strict.
        DisagreementError: inputs of a copy differ.
        OutputError: an earlier write failed.
    """
    try:
        return tuple(write_portion(portion, method, model, sink.write) for portion in portions)
    finally:
        sink.settle()


def write_portion(portion: Portion, method: AnyMethod, model: object, write: Write) -> Written:
    """One of them; `write` takes its tiles one by one."""
    span = portion.span
    if span.tensor.action == "merge":
        return apply(span, method, portion.layer, model, write)
    return (copy if span.tensor.action == "copy" else convert)(span, write)


def apply(span: Span, method: AnyMethod, layer: object, model: object, write: Write) -> Written:
    """Merge a piece and write it.

    Raises:
        NonFiniteError: a result is NaN or infinite after rounding and the span is strict.
    """
    return _produce(
        span,
        write,
        lambda tile, destination: method.apply(tile, span.tensor.params, layer, model, destination),
        deltas=method.takes == "deltas",
    )


def convert(span: Span, write: Write) -> Written:
    """Round a piece of one input to the output dtype and write it; NonFiniteError as for `apply`."""
    nothing = np.empty(0, np.float32)
    one = np.float32(1)

    def rounded(tile: Tile, to: Destination) -> bool:
        return bool(
            tiles.merge_deltas(
                tile.addresses, tile.codes, tile.count, nothing, nothing, one, one, True, to.address, to.code
            )
        )

    return _produce(span, write, rounded, deltas=False)


def copy(span: Span, write: Write) -> Written:
    """Write a piece of a tensor that is not merged, which all inputs must agree on.

    Raises:
        DisagreementError: two inputs differ.
        NonFiniteError: a float64 is NaN or infinite and the span is strict.
    """
    tensor = span.tensor
    itemsize = tensor.output.dtype.itemsize
    checksum, nonfinite = xxhash.xxh3_128(), 0
    for start, (first, *others) in span.tiles():
        for info, other in zip(tensor.inputs[1:], others, strict=True):
            if not _same_bits(first, other):
                raise DisagreementError([_disagreement(tensor, info, start, first, other)])
        if tensor.output.dtype is DType.F64 and (odd := first.size - int(np.count_nonzero(np.isfinite(first)))):
            if span.strict:
                element = start + int(np.flatnonzero(~np.isfinite(first))[0])
                where = f"{tensor.inputs[0].where}, element {element}"
                raise NonFiniteError([Problem(where, "a finite number", str(first[element - start]), MEND)])
            nonfinite += odd
        offset = tensor.output.offset + start * itemsize
        copied = staging.array(offset, first.nbytes).view(first.dtype)  # the mapped pages are released, and may be lost
        copied[:] = first
        write(tensor.output.shard, offset, copied)
        checksum.update(copied.data)
    return Written(checksum.hexdigest(), nonfinite)


def check_copy(span: Span) -> None:
    """Raise what `copy` would raise, and write nothing."""
    copy(span, lambda shard, offset, data: None)


def holds(span: Span, checksum: str, sink: Sink) -> bool:
    """Whether the output already has a piece: its bytes are read again and compared by their checksum."""
    output = span.tensor.output
    itemsize, found = output.dtype.itemsize, xxhash.xxh3_128()
    try:
        for first, last in tile_borders(span.start, span.stop, span.tile):
            span.given_up.check()
            found.update(sink.read(output.shard, output.offset + first * itemsize, (last - first) * itemsize))
    finally:
        sink.settle()
    return found.hexdigest() == checksum


def equal(first: Tensor, second: Tensor, tile: int, check: Callable[[], None] = lambda: None) -> bool:
    """Whether two tensors of one shape and dtype have the same bits, read by tiles of so many elements."""
    same = True
    for _, arrays in read_tiles((first, second), 0, first.elements, tile, check):
        same &= _same_bits(*arrays)  # to the end: lost pages are reported before a difference
    return same


class _Kept(threading.local):
    """The thread's last counter: most pieces take the same look, and small tensors are many."""

    def __init__(self) -> None:
        self._counters: dict[tuple[Look[Any], int], Counter[Any]] = {}

    def take(self, look: Look[S], models: int) -> Counter[S]:
        """A counter at zero. Return it only after reading its result: one left by a failed piece still holds counts."""
        kept, self._counters = self._counters.get((look, models)), {}  # one of another look goes before a new one comes
        return kept or look.counter(models)

    def give_back(self, look: Look[S], models: int, counter: Counter[S]) -> None:
        self._counters = {(look, models): counter}


_kept = _Kept()


def _same_bits(first: NDArray[np.generic], second: NDArray[np.generic]) -> bool:
    return np.array_equal(first.view(np.uint8), second.view(np.uint8))


def _produce(span: Span, write: Write, kernel: Callable[[Tile, Destination], bool], *, deltas: bool) -> Written:
    tensor, output = span.tensor, span.tensor.output
    itemsize = output.dtype.itemsize
    checksum, nonfinite = xxhash.xxh3_128(), 0
    borders = list(tile_borders(span.start, span.stop, span.tile))
    read = read_ranges(tensor.inputs, (tensor.read_for(*each) for each in borders), span.given_up.check)
    for (start, stop), (first, arrays) in zip(borders, read, strict=True):
        tile = replace(_tile(tensor, tensor.inputs, arrays, first), begin=start - first, end=stop - first)
        offset = output.offset + start * itemsize
        merged = staging.array(offset, (stop - start) * itemsize).view(output.dtype.storage)
        if kernel(tile, Destination(merged.ctypes.data, CODES[output.dtype])):
            if span.strict:
                known = explain(tensor, arrays, first, deltas=deltas)
                raise NonFiniteError([known or _overflow(tensor, merged, start)])
            nonfinite += count(merged, output.dtype)
        write(tensor.output.shard, offset, merged)
        checksum.update(merged.data)
        del merged  # its memory is used again as soon as it is written
    return Written(checksum.hexdigest(), nonfinite)


def _tile(tensor: TensorPlan, inputs: Sequence[Tensor], arrays: Arrays, start: int) -> Tile:
    addresses = np.array([array.__array_interface__["data"][0] for array in arrays], np.int64)
    codes = [DELTA if one.gives == "delta" else CODES[one.dtype] for one in inputs]
    codes_ = np.array(codes, np.int64)
    return Tile(addresses, codes_, arrays[0].size, tensor.name, start, tensor.row, tensor.columns)


def _overflow(tensor: TensorPlan, merged: NDArray[Any], start: int) -> Problem:
    """What to say where inputs and deltas are finite and the result is not."""
    wide = np.empty(merged.size, np.float32)
    tiles.decode(merged.ctypes.data, CODES[tensor.output.dtype], 0, merged.size, wide)
    element = start + int(np.flatnonzero(~np.isfinite(wide))[0])
    where = f"{tensor.inputs[0].where}, element {element}"
    dtype = tensor.output.dtype
    narrow = "Choose a wider out_dtype or smaller weights, or let it through with `nonfinite: pass`"
    mend = narrow if dtype is DType.F16 else "Choose smaller weights, or let it through with `nonfinite: pass`"
    return Problem(where, f"a merged value within the range of {dtype.name}", "an overflow", mend)


def _disagreement(tensor: TensorPlan, info: Tensor, start: int, first: Any, other: Any) -> Problem:
    raw, raw_other = first.view(np.uint8), other.view(np.uint8)
    element = int(np.flatnonzero(raw != raw_other)[0]) // tensor.output.dtype.itemsize
    where = f"{info.where}, element {start + element}"
    expected = f"{first[element]} as in {tensor.inputs[0].origin}"
    dtype = tensor.output.dtype
    equal = f"{dtype.name} tensors are copied, not merged: make them equal in all inputs, or"
    bases = f"{equal} take the base's with the recipe field `integers: base`"
    mend = bases if dtype.whole else f"{equal} convert them to F32 in all"
    return Problem(where, expected, str(other[element]), mend)
