"""What one worker does with one piece; top-level functions of plain data, so that any executor can run them."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from sdmw.errors import DisagreementError, NonFiniteError, Problem
from sdmw.kernels import tiles
from sdmw.kernels.codes import BF16, DELTA, F16, F32
from sdmw.methods.method import AnyMethod, Destination
from sdmw.planning.plan import TensorPlan
from sdmw.running.deal import Alone, Deal, Share, Written, taken
from sdmw.running.gathered import Gathered, Write
from sdmw.running.nonfinite import MEND, count, explain
from sdmw.running.span import Arrays, Span, read_ranges, read_tiles
from sdmw.statistics.look import Counter, Look, Measured, S, Tile
from sdmw.tensors.dtype import DType
from sdmw.tensors.staging import staging
from sdmw.tensors.tensor import Tensor
from sdmw.writing.output import Tiles
from sdmw.writing.sink import Sink

CODES = {DType.F32: F32, DType.F16: F16, DType.BF16: BF16}


@dataclass(frozen=True, slots=True)
class Looking:
    """A piece to be looked at.

    Attributes:
        share: its tiles.
        look: what to measure.
        models: how many models there are.
        decides: where the piece is a whole layer, and this is its first look, the method that decides it.
    """

    share: Share
    look: Look[Any]
    models: int
    decides: AnyMethod | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """A layer that needs no further look.

    Attributes:
        decision: the method's.
    """

    decision: object


def measure_all(lookings: Sequence[Looking]) -> tuple[Any, ...]:
    """The statistic of each piece, or what its layer is `Decided` to be; errors as of `measure`."""
    return tuple(map(_looked, lookings))


def _looked(looking: Looking) -> Any:
    """What a look finds, or the decision where that is all it takes: it is smaller, and the driver has less to do."""
    deal, look, method = taken(looking.share), looking.look, looking.decides
    found = measure(deal, look, looking.models)
    if method is None:
        return found
    tensor = deal.span.tensor
    whole = look.add(look.nothing(looking.models), found)
    have = Measured().with_look(type(look), {tensor.component: whole})
    if method.needs(tensor.params, have) is not None:
        return found
    return Decided(method.decide_layer(tensor.params, have))


def measure(deal: Alone | Deal, look: Look[S], models: int) -> S:
    """One look at the tiles of a piece that fall to this worker.

    Args:
        deal: of the piece's tiles.
        look: what to measure.
        models: how many models there are.

    Raises:
        NonFiniteError: a delta, or a value where no base is read, is NaN or infinite and the span is strict.
    """
    span, counter = deal.span, _kept.take(look, models)
    inputs = span.looked_at(look, models)
    for start, arrays in read_ranges(inputs, deal.tiles(), span.given_up.check):
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

    share: Share
    layer: object = None


def write_portions(
    portions: Sequence[Portion], method: AnyMethod, model: object, sink: Tiles
) -> tuple[Written | None, ...]:
    """Merge, convert or copy the tiles of pieces that fall to this worker, and write them.

    Args:
        portions: pieces; of another process's task they share no block of a file with those of other tasks.
        method: the merge method.
        model: the model's decision.
        sink: where they go.

    Returns:
        What there is to tell of each piece; None where another worker has it still to complete.

    Raises:
        NonFiniteError: a result is NaN or infinite after rounding and the span is strict.
        DisagreementError: inputs of a copy differ.
        OutputError: an earlier write failed.
    """
    gathered = Gathered(sink.write) if len(portions) > 1 else None
    try:
        found = tuple(write_portion(portion, method, model, gathered or sink.write) for portion in portions)
        if gathered:
            gathered.flush()
        return found
    finally:
        sink.settle()


def write_portion(portion: Portion, method: AnyMethod, model: object, write: Write) -> Written | None:
    """One of them; `write` takes its tiles one by one."""
    deal = taken(portion.share)
    if deal.span.tensor.action == "merge":
        return apply(deal, method, portion.layer, model, write)
    return (copy if deal.span.tensor.action == "copy" else convert)(deal, write)


def apply(deal: Alone | Deal, method: AnyMethod, layer: object, model: object, write: Write) -> Written | None:
    """Merge a piece and write it.

    Raises:
        NonFiniteError: a result is NaN or infinite after rounding and the span is strict.
    """
    params = deal.span.tensor.params
    return _produce(
        deal,
        write,
        lambda tile, destination: method.apply(tile, params, layer, model, destination),
        deltas=method.takes == "deltas",
    )


def convert(deal: Alone | Deal, write: Write) -> Written | None:
    """Round a piece of one input to the output dtype and write it; NonFiniteError as for `apply`."""
    nothing = np.empty(0, np.float32)
    one = np.float32(1)

    def rounded(tile: Tile, to: Destination) -> bool:
        return bool(
            tiles.merge_deltas(
                tile.addresses, tile.codes, tile.count, nothing, nothing, one, one, True, to.address, to.code
            )
        )

    return _produce(deal, write, rounded, deltas=False)


def copy(deal: Alone | Deal, write: Write) -> Written | None:
    """Write a piece of a tensor that is not merged, which all inputs must agree on.

    Raises:
        DisagreementError: two inputs differ.
        NonFiniteError: a float64 is NaN or infinite and the span is strict.
    """
    span, tensor, written = deal.span, deal.span.tensor, None
    itemsize = tensor.output.dtype.itemsize
    for start, (first, *others) in read_ranges(tensor.inputs, deal.tiles(), span.given_up.check):
        for info, other in zip(tensor.inputs[1:], others, strict=True):
            if not _same_bits(first, other):
                raise DisagreementError([_disagreement(tensor, info, start, first, other)])
        odd = first.size - int(np.count_nonzero(np.isfinite(first))) if tensor.output.dtype is DType.F64 else 0
        if odd and span.strict:
            element = start + int(np.flatnonzero(~np.isfinite(first))[0])
            where = f"{tensor.inputs[0].where}, element {element}"
            raise NonFiniteError([Problem(where, "a finite number", str(first[element - start]), MEND)])
        offset = tensor.output.offset + start * itemsize
        copied = staging.array(offset, first.nbytes).view(first.dtype)  # the mapped pages are released, and may be lost
        copied[:] = first
        write(tensor.output.shard, offset, copied)
        written = deal.add(start, start + first.size, copied, odd)
    return written


def check_copy(span: Span) -> None:
    """Raise what `copy` would raise, and write nothing."""
    copy(Alone(span), lambda shard, offset, data: None)


def holds(span: Span, checksum: str, sink: Sink) -> bool:
    """Whether the output already has a piece: its bytes are read again and compared by their checksum."""
    output = span.tensor.output
    itemsize, found = output.dtype.itemsize, xxhash.xxh3_128()
    try:
        for first, last in span.borders():
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


def _produce(
    deal: Alone | Deal, write: Write, kernel: Callable[[Tile, Destination], bool], *, deltas: bool
) -> Written | None:
    span, tensor, output, written = deal.span, deal.span.tensor, deal.span.tensor.output, None
    itemsize = output.dtype.itemsize
    borders, asked = tee(deal.tiles())
    read = read_ranges(tensor.inputs, (tensor.read_for(*each) for each in asked), span.given_up.check)
    for (start, stop), (first, arrays) in zip(borders, read, strict=True):
        tile = _tile(tensor, tensor.inputs, arrays, first, start - first, stop - first)
        offset = output.offset + start * itemsize
        merged = staging.array(offset, (stop - start) * itemsize).view(output.dtype.storage)
        nonfinite = 0
        if kernel(tile, Destination(merged.ctypes.data, CODES[output.dtype])):
            if span.strict:
                known = explain(tensor, arrays, first, deltas=deltas)
                raise NonFiniteError([known or _overflow(tensor, merged, start)])
            nonfinite = count(merged, output.dtype)
        write(tensor.output.shard, offset, merged)
        written = deal.add(start, stop, merged, nonfinite)
        del merged  # its memory is used again as soon as it is written
    return written


def _tile(
    tensor: TensorPlan, inputs: Sequence[Tensor], arrays: Arrays, start: int, begin: int = 0, end: int = -1
) -> Tile:
    size = arrays[0].size
    return Tile(*_addressed(inputs, arrays), size, tensor.name, start, tensor.row, tensor.columns, begin, end)


def tile_of(inputs: Sequence[Tensor], arrays: Arrays, start: int) -> Tile:
    """The tile of some inputs, whose elements from `start` on are in arrays."""
    return Tile(*_addressed(inputs, arrays), arrays[0].size, first=start)


def _addressed(inputs: Sequence[Tensor], arrays: Arrays) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    addresses = np.array([array.ctypes.data for array in arrays], np.int64)
    codes = [DELTA if one.gives == "delta" else CODES[one.dtype] for one in inputs]
    return addresses, np.array(codes, np.int64)


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
