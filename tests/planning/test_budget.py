import sys
from dataclasses import replace

import pytest

from sdmw.errors import Problem
from sdmw.methods import all_methods
from sdmw.planning import budget
from sdmw.planning.budget import Demand, default_budget, fit, projected_peak
from sdmw.statistics.look import LookMemory

MIB = 2**20
LOOKS = budget.memory_of(all_methods()["sdm_w"])
SDM_W = Demand(reserved=100 * MIB, element=8, output=2, working=0, models=2, components=1, looks=LOOKS)


def test_each_term_of_the_bound(monkeypatch):
    monkeypatch.setattr(budget, "STAGING", 19)
    looks_of = LookMemory(counter=11, kept=13, result=17)
    demand = Demand(reserved=23, element=5, output=37, working=43, models=3, components=7, looks=looks_of)
    monkeypatch.setattr(budget, "IN_FLIGHT", 41)
    written = 41 * 29 * 37
    looks = 3 * (13 * (7 + 1) + 17 * 2 * 31)
    assert projected_peak(demand, tile=29, threads=31) == 23 + 31 * (29 * 5 + 43 + 3 * 11) + written + looks + 19
    unmeasured = replace(demand, models=0)
    assert projected_peak(unmeasured, tile=29, threads=31) == 23 + 31 * (29 * 5 + 43) + written + 19


def test_the_largest_tile_where_there_is_room():
    found = fit(SDM_W, 2**40, 5)
    assert (found.threads, found.tile) == (5, budget.LARGEST_TILE)
    assert found.peak == projected_peak(SDM_W, budget.LARGEST_TILE, 5)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_tiles_shrink_first_then_threads_go(threads):
    """Whatever is allowed: it fits, and neither a larger tile nor more threads would."""
    least = projected_peak(SDM_W, budget.SMALLEST_TILE, 1)
    seen = set()
    for allowed in range(least, projected_peak(SDM_W, budget.LARGEST_TILE, threads) + MIB, MIB):
        found = fit(SDM_W, allowed, threads)
        assert found.peak == projected_peak(SDM_W, found.tile, found.threads) <= allowed
        if found.threads < threads:
            assert projected_peak(SDM_W, budget.SMALLEST_TILE, found.threads + 1) > allowed
        if found.tile < budget.LARGEST_TILE:
            assert projected_peak(SDM_W, found.tile * 2, found.threads) > allowed
        seen.add((found.threads, found.tile))
    assert {(threads, budget.LARGEST_TILE), (1, budget.SMALLEST_TILE)} <= seen


def test_below_the_least_the_number_is_named():
    least = projected_peak(SDM_W, budget.SMALLEST_TILE, 1)
    assert fit(SDM_W, least, 3).threads == 1
    refused = fit(SDM_W, least - 1, 3)
    assert isinstance(refused, Problem)
    assert refused.mend == f"Set the budget to {-(-(least + budget.ROOM) // MIB)}MiB or more"


@pytest.mark.parametrize(
    ("available", "taken"),
    [(0, 0), (100 * MIB, 75 * MIB), (400 * MIB, 256 * MIB), (600 * MIB, 300 * MIB), (2**40, 2**30)],
)
def test_the_default_leaves_room_for_others(available, taken):
    assert default_budget(7, available) == 7 + taken


def test_kernels_count_once(monkeypatch):
    monkeypatch.delitem(sys.modules, "sdmw.kernels.tiles", raising=False)
    assert budget.kernels_to_load() == budget.KERNELS
    monkeypatch.setitem(sys.modules, "sdmw.kernels.tiles", object())
    assert budget.kernels_to_load() == 0
