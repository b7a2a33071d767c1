"""Small things are handed over together, in their order; large ones alone."""

from hypothesis import given
from hypothesis import strategies as st

from sdmw.running.bundles import LARGEST, MOST, SMALL, Bundles
from sdmw.running.gathered import Gathered

sizes = st.lists(st.sampled_from([1, 100, SMALL, SMALL + 1, LARGEST]), max_size=300)


@given(sizes)
def test_all_come_once_and_in_order(given_sizes):
    things = iter(list(enumerate(given_sizes, 1)))
    bundles = Bundles(lambda: next(things, None), lambda thing: thing[1])
    found = []
    while bundle := bundles.next():
        found.append(bundle)
        assert len(bundle) <= MOST
        if len(bundle) > 1:
            assert all(size <= SMALL for _, size in bundle)
            assert sum(size for _, size in bundle) <= LARGEST
    assert [thing for bundle in found for thing in bundle] == list(enumerate(given_sizes, 1))


def test_what_is_small_may_be_said():
    things = iter([5, 5, 5, 11, 10, 1])
    bundles = Bundles(lambda: next(things, None), lambda size: size, 10, 10)
    assert [bundles.next() for _ in range(5)] == [[5, 5], [5], [11], [10], [1]]
    assert bundles.next() == []


def test_what_comes_later_is_given_later():
    things = [1, 2]
    bundles = Bundles(lambda: things.pop() if things else None, lambda _: 1)
    assert bundles.next() == [2, 1]
    assert bundles.next() == []
    things.append(3)
    assert bundles.next() == [3]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([1, 100, 1 << 17, 1 << 18, 1 << 19])), max_size=12))
def test_what_is_gathered_is_written_as_it_was_given(parts):
    """Neighbours together, others by themselves; nothing is left behind."""
    import numpy as np

    wanted, written, place = {}, {}, 0
    gathered = Gathered(lambda shard, offset, data: written.update({(shard, offset): data.copy()}))
    for number, (apart, size) in enumerate(parts):
        place += 4096 * apart
        data = np.full(size, number, np.uint8)
        wanted[place] = data.copy()
        gathered(0, place, data)
        data[:] = 255  # its memory is used again
        place += size
    gathered.flush()
    found = {offset + at: byte for (_, offset), data in written.items() for at, byte in [(0, data[0])]}
    whole = np.zeros(place, np.uint8)
    for (_, offset), data in written.items():
        whole[offset : offset + data.size] = data
    for offset, data in wanted.items():
        assert (whole[offset : offset + data.size] == data).all()
    assert sum(data.size for data in written.values()) == sum(size for _, size in parts)
    assert len(found) == len(written)
