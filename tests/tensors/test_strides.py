"""Boxes and cuts of axes hold every place once, whatever the axes and the range."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from sdmw.tensors import strides
from sdmw.tensors.strides import Box, boxes, cut, is_run, joined


@st.composite
def orders(draw):
    """Axes of an array in another order, with some of its places left out."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    steps = [math.prod(lengths[place + 1 :]) for place in range(len(lengths))]
    order = draw(st.permutations(range(len(lengths))))
    kept = [draw(st.integers(1, lengths[place])) for place in order]
    return tuple((count, steps[place]) for place, count in zip(order, kept, strict=True)), math.prod(lengths)


def listed(axes, first=0):
    return [first + sum(i * s for i, (_, s) in zip(place, axes, strict=True))
            for place in np.ndindex(*(length for length, _ in axes))]  # fmt: skip


@given(orders())
def test_joined_axes_are_the_same_places(order):
    axes, _ = order
    assert listed(joined(axes)) == listed(axes)
    assert is_run(joined(axes)) == (listed(axes) == list(range(len(listed(axes)))))


@given(orders(), st.data())
def test_boxes_hold_the_places_of_a_range_in_order(order, data):
    axes, _ = order
    places = listed(axes)
    start = data.draw(st.integers(0, len(places) - 1))
    stop = data.draw(st.integers(start + 1, len(places)))
    longest = data.draw(st.integers(1, 30))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(strides, "LONGEST_ROW", longest)
        found = list(boxes(joined(axes), start, stop, first=7))
    assert found[0].start <= start
    assert max(start - found[0].start, found[-1].start + found[-1].size - stop) < longest
    assert [place for box in found for place in range(box.start, box.start + box.size)] == list(
        range(found[0].start, found[-1].start + found[-1].size)
    )
    held = [element for box in found for element in listed(box.axes, box.first)]
    assert held == [7 + each for each in places[found[0].start : found[-1].start + found[-1].size]]


@given(orders(), st.integers(1, 40))
def test_a_box_that_is_cut_is_read_once_and_whole(order, most):
    axes, size = order
    array, box = np.arange(size), Box(0, 0, joined(axes))
    found = np.full(box.lengths, -1)
    filled = 0
    for places, part in cut(box, most):
        assert part.extent <= most
        tile = array[part.first : part.first + part.extent]
        assert found[places].shape == part.lengths
        found[places] = as_strided(tile, part.lengths, [stride * 8 for _, stride in part.axes])
        filled += part.size
    assert found.reshape(-1).tolist() == listed(axes)
    assert filled == box.size
