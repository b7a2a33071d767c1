"""The tiles of a piece, dealt to those who share it, and the checksum of what they make of them."""

import threading

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from sdmw.planning.plan import TensorPlan
from sdmw.running.deal import Alone, Deal, taken
from sdmw.running.span import Span
from sdmw.running.stop import GivenUpError
from sdmw.tensors.dtype import DType
from sdmw.writing.layout import Place

TENSOR = TensorPlan("w", "merge", (), (), None, "w", Place("w", DType.F32, (1000,), 0, 0))


def span(start: int = 0, stop: int = 1000, tile: int = 100) -> Span:
    return Span(TENSOR, start, stop, tile, True)


def dealt(start: int = 0, stop: int = 1000, tile: int = 100) -> Deal:
    return Deal(span(start, stop, tile))


def test_each_tile_is_dealt_once_and_in_order():
    deal = dealt()
    one, other = deal.tiles(), deal.tiles()
    assert [next(one), next(other), next(other), next(one)] == [(0, 100), (100, 200), (200, 300), (300, 400)]
    assert [start for start, _ in one] == [400, 500, 600, 700, 800, 900]
    assert list(other) == []


@given(workers=st.integers(1, 5), seed=st.integers(0, 99), start=st.integers(0, 500), tile=st.integers(30, 400))
def test_the_checksum_is_of_all_bytes_in_order_whoever_makes_them(workers, seed, start, tile):
    values = np.random.default_rng(seed).normal(size=1000).astype(np.float32)
    values[start + 5] = np.nan
    deal, told, lock = dealt(start, 1000, tile), [], threading.Lock()

    def work():
        for first, last in deal.tiles():
            made = values[first:last].copy()
            written = deal.add(first, last, made, int(np.isnan(made).sum()))
            with lock:
                told.append(written)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    (written,) = filter(None, told)
    assert written.checksum == xxhash.xxh3_128(values[start:].tobytes()).hexdigest()
    assert written.nonfinite == 1


def test_no_more_than_one_tile_waits_for_its_turn():
    """What waits is held in memory, which the plan counts."""
    deal = dealt()
    tiles, made, third = deal.tiles(), np.zeros(100, np.float32), threading.Event()
    first, second, *_ = tiles

    def late():
        deal.add(200, 300, made)
        third.set()

    deal.add(*second, made)
    thread = threading.Thread(target=late)
    thread.start()
    assert not third.wait(0.3)
    deal.add(*first, made)
    assert third.wait(10)
    thread.join()


def test_who_waits_leaves_when_the_run_is_given_up():
    """The worker whose tile is next may have failed."""
    deal = dealt()
    made = np.zeros(100, np.float32)
    deal.add(100, 200, made)
    deal.span.given_up.set()
    with pytest.raises(GivenUpError):
        deal.add(200, 300, made)


def test_a_piece_of_ones_own_begins_anew_each_time():
    """A task whose worker was lost is done again, with the same arguments."""
    own = span()
    for _ in range(2):
        assert list(taken(own).tiles()) == [(start, start + 100) for start in range(0, 1000, 100)]
    shared = dealt()
    assert taken(shared) is shared


def test_alone_tells_what_sharing_tells():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    alone, shared = Alone(span(30)), dealt(30)
    told = [[each.add(*tile, values[slice(*tile)], 2) for tile in each.tiles()] for each in (alone, shared)]
    assert told[0] == told[1]
    assert told[0][-1].checksum == xxhash.xxh3_128(values[30:].tobytes()).hexdigest()
    assert (told[0][:-1], told[0][-1].nonfinite) == ([None] * 9, 20)
