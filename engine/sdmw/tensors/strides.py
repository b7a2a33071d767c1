"""Elements of one array in another order: axes by their strides, and the boxes that a range of them is cut into."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Axis = tuple[int, int]  # places along it, and how many elements of the other array lie from one to the next
Axes = tuple[Axis, ...]  # outermost first

LONGEST_ROW = 1 << 16  # elements; shorter rows are read whole rather than in parts


@dataclass(frozen=True, slots=True)
class Box:
    """Places that are read at once.

    Attributes:
        start: its first place, counted in the order of the axes.
        first: the element of the other array that lies there.
        axes: of the box.
    """

    start: int
    first: int
    axes: Axes

    @property
    def lengths(self) -> tuple[int, ...]:
        """Places along each axis."""
        return tuple(length for length, _ in self.axes)

    @property
    def size(self) -> int:
        """Number of places."""
        return math.prod(self.lengths)

    @property
    def extent(self) -> int:
        """Elements of the other array from the first to the one behind the last."""
        return 1 + sum((length - 1) * stride for length, stride in self.axes)


def joined(axes: Sequence[Axis]) -> Axes:
    """The same order by as few axes as can be: none of one place, and none that goes on where the next one ends."""
    found: list[Axis] = []
    for length, stride in axes:
        if length == 1:
            continue
        if found and found[-1][1] == length * stride:
            length *= found.pop()[0]
        found.append((length, stride))
    return tuple(found)


def is_run(axes: Axes) -> bool:
    """Whether joined axes are elements that lie one after the other."""
    return not axes or (len(axes) == 1 and axes[0][1] == 1)


def boxes(axes: Axes, start: int, stop: int, first: int = 0, before: int = 0) -> Iterator[Box]:
    """Boxes that follow each other and hold the places from start to stop: the outermost with whole rows.

    Args:
        axes: joined, of at least one place.
        start: first place.
        stop: the one behind the last; more than the first.
        first: element of the other array at place 0.
        before: places before place 0.
    """
    if not axes:
        yield Box(before, first, ())
        return
    (_, stride), *rest = axes
    inside = tuple(rest)
    row = math.prod(length for length, _ in inside)
    low, high = start // row, -(-stop // row)
    if row <= LONGEST_ROW:
        yield Box(before + low * row, first + low * stride, ((high - low, stride), *inside))
        return
    if start % row or stop < (low + 1) * row:
        end = min(stop - low * row, row)
        yield from boxes(inside, start - low * row, end, first + low * stride, before + low * row)
        low += 1
    if low < (whole := stop // row):
        yield Box(before + low * row, first + low * stride, ((whole - low, stride), *inside))
        low = whole
    if low * row < stop:
        yield from boxes(inside, 0, stop - low * row, first + low * stride, before + low * row)


def cut(box: Box, most: int) -> Iterator[tuple[tuple[slice, ...], Box]]:
    """Boxes of as few elements of the other array as `most` from first to last, with the place of each in the box.

    It is cut along the axis of the longest stride, so that what is read is read once and in the order of the array.
    """
    everywhere = tuple(slice(0, length) for length in box.lengths)
    if box.extent <= most:
        yield everywhere, box
        return
    number = max((n for n, (length, _) in enumerate(box.axes) if length > 1), key=lambda n: box.axes[n][1])
    length, stride = box.axes[number]
    alone = box.extent - (length - 1) * stride
    step = max(1, (most - alone) // stride + 1)
    for low in range(0, length, step):
        high = min(low + step, length)
        axes = (*box.axes[:number], (high - low, stride), *box.axes[number + 1 :])
        for places, part in cut(Box(0, box.first + low * stride, axes), most):
            yield (*places[:number], _moved(places[number], low), *places[number + 1 :]), part


def _moved(places: slice, by: int) -> slice:
    return slice(places.start + by, places.stop + by)
