"""How long a plan takes: each number by hand, of plans whose sizes are powers of ten, or nearly."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdmw
from checkpoints_on_disk import write_checkpoint
from sdmw.methods import all_methods
from sdmw.planning import costs, timing
from sdmw.planning.costs import COSTS, Costs
from sdmw.planning.estimate import Bandwidth, Estimate, Phase, shown_time
from sdmw.planning.plan import TILES_IN_PIECE
from sdmw.planning.timing import STILL_CACHED, estimate, estimates, read_apart, shared_tiles
from sdmw.running import bundles

ELEMENTS = 1_000_000  # of each of two tensors of bfloat16, in a base and two fine-tunes


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    zeros = {f"model.layers.{n}.w": np.zeros((1000, 1000), np.float16) for n in range(2)}
    for name in ("base", "one", "two"):
        write_checkpoint(folder / name, zeros)
    asked = {
        "merge_method": "sdm_w", "base_model": str(folder / "base"),
        "models": [{"model": str(folder / "one")}, {"model": str(folder / "two")}],
    }  # fmt: skip
    return sdmw.plan(asked, threads=2)


@pytest.fixture(autouse=True)
def round_costs(monkeypatch):
    """10 ns a byte to measure, 20 to apply; a task takes the driver 0.01 s, a tile Python 0.001 s."""
    monkeypatch.setitem(COSTS, "sdm_w", Costs((1, 1), (10, 20), (1, 1)))
    monkeypatch.setattr(timing, "TASK", {"threads": 0.01, "processes": 0.02, "dask": 0.03})
    monkeypatch.setattr(timing, "TILE", 0.001)


def phases(found):
    return {phase.name: phase for phase in found.phases}


def test_a_phase_takes_what_its_longest_part_takes():
    phase = Phase("write", read=3, compute=4, write=2, driver=1, shared=True)
    assert (phase.disks, phase.seconds, phase.limit) == (5, 5, "read")
    apart = Phase("write", read=3, compute=4, write=2, driver=1, shared=False)
    assert (apart.disks, apart.seconds, apart.limit) == (3, 4, "compute")
    assert Phase("write", 1, 2, 3, 9, shared=True).limit == "driver"
    assert Phase("write", 1, None, 3, 0, shared=True).limit == "write"
    both = Estimate(1, "threads", 0.5, (Phase("decide", 7, 0, 0, 0, shared=True), phase))
    assert (both.seconds, both.limit) == (12.5, "read")


def test_one_worker_by_hand(planned):
    """6 MB are read of each tensor, in a piece of one tile, twice; 2 MB are written of it, and a header."""
    assert (planned.measured_bytes, planned.applied_bytes) == (12_000_000, 12_000_000)
    found = phases(estimate(planned, Bandwidth(2_000_000, 1_000_000), 1, "threads", cache=0))
    decide, write = found["decide"], found["write"]
    assert decide.read == pytest.approx(6.0)
    assert decide.compute == pytest.approx(12e6 * 10e-9 + 2 * 0.001)
    assert decide.driver == pytest.approx(2 * 0.01 + 2 * 0.001)  # threads run Python one at a time
    assert decide.write == 0
    assert write.read == pytest.approx(6.0)
    assert write.compute == pytest.approx(12e6 * 20e-9 + 2 * 0.001)
    assert write.write == pytest.approx(planned.bytes_written / 1e6)
    assert write.seconds == pytest.approx(6.0 + planned.bytes_written / 1e6)


@pytest.mark.parametrize(("workers", "cores"), [(2, 64), (64, 2), (3, 3)])
def test_workers_share_the_arithmetic_as_far_as_there_are_cores(planned, workers, cores):
    alone = phases(estimate(planned, Bandwidth(10**9, 10**9), 1, "processes", 0))["decide"]
    found = phases(estimate(planned, Bandwidth(10**9, 10**9), workers, "processes", 0, cores))["decide"]
    assert found.compute == pytest.approx(alone.compute / min(workers, cores))
    assert (found.read, found.driver) == (alone.read, pytest.approx(alone.driver))
    assert found.driver == pytest.approx(2 * 0.02)  # Python of workers is their own


def test_a_slower_machine_takes_longer_by_as_much(planned):
    here = phases(estimate(planned, Bandwidth(10**9, 10**9), 1, "threads", 0))["write"]
    slow = phases(estimate(planned, Bandwidth(10**9, 10**9, slowness=3), 1, "threads", 0))["write"]
    assert (slow.compute, slow.driver) == (pytest.approx(3 * here.compute), pytest.approx(3 * here.driver))
    assert (slow.read, slow.write) == (here.read, here.write)


def test_what_stays_in_the_cache_is_not_read_twice(planned, monkeypatch):
    rate = Bandwidth(1_000_000, 10**9)
    whole = estimate(planned, rate, 1, "threads", cache=12_000_000)
    assert [phase.read for phase in whole.phases] == [12.0, 0.0]
    monkeypatch.setattr(timing, "STILL_CACHED", 4_000_000)
    part = estimate(planned, rate, 1, "threads", cache=11_000_000)
    assert [phase.read for phase in part.phases] == [12.0, 8.0]
    assert STILL_CACHED == 1 << 30


def test_a_method_that_nobody_measured_is_said_to_be_unknown(planned, monkeypatch):
    monkeypatch.delitem(COSTS, "sdm_w")
    found = estimate(planned, Bandwidth(10**6, 10**6), 1, "threads", 0)
    assert [phase.compute for phase in found.phases] == [None, None]
    assert found.seconds == pytest.approx(timing.START + 24 + planned.bytes_written / 1e6)


def test_the_plans_own_workers_come_first_and_once(planned):
    found = estimates(planned, Bandwidth(10**9, 10**9), (1, 2, 8), "threads", 2, 0)
    assert [each.workers for each in found] == [2, 1, 8]


def test_costs_are_of_methods_that_there_are():
    assert costs.COSTS.keys() <= all_methods().keys()
    assert all_methods().keys() - costs.COSTS.keys() == {"lora"}


def test_threads_take_more_tiles_for_a_task_the_more_there_are():
    assert [shared_tiles(threads) for threads in (1, 8, 15, 16, 32, 64, 1024)] == [1, 1, 1, 2, 4, 4, 4]


@given(st.integers(0, 10**13), st.integers(1, 1024))
def test_tasks_that_write_are_large_and_enough(applied, workers):
    size = read_apart(applied, workers)
    assert 1 <= size <= timing.APART
    assert size == timing.APART or size * timing.TASKS * workers <= max(applied, timing.TASKS * workers)


def test_tasks_are_counted_as_they_are_dealt(planned):
    assert (timing.BUNDLE, timing.SMALL) == (bundles.MOST, bundles.SMALL)
    small = replace(planned, tile=100_000)  # ten tiles, so two pieces, a tensor
    assert timing.tasks(small, small.tensors, None) == 2 * -(-10 // TILES_IN_PIECE)
    assert timing.tasks(small, small.tensors, 2) == 20
    assert timing.tasks(small, small.tensors, 32) == 2 * 3


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0, "0.00 s"), (0.614, "0.61 s"), (0.996, "1.0 s"), (4.16, "4.2 s"), (9.96, "10 s"), (99.4, "99 s"),
     (100, "1.7 min"), (601, "10 min"), (5399, "90 min"), (5400, "1.5 h"), (360_000, "100 h")],
)  # fmt: skip
def test_times_have_two_digits(seconds, expected):
    assert shown_time(seconds) == expected
