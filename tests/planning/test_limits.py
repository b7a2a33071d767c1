"""What a caller allows: a budget that is set counts alone; the default gives way to a task that cannot be smaller."""

import os

import pytest

from sdmw.errors import Problem
from sdmw.planning import budget, memory
from sdmw.planning.budget import Tasks, Workers
from sdmw.planning.limits import Limits

GB = 10**9
RESIDENT = GB // 10


def tasks(largest):
    """Three tasks in a process that occupies some memory, and its peak with one thread."""
    asked = Tasks(loading=0, reserved=RESIDENT, waiting=0, each=[largest, largest, largest // 2])
    return asked, RESIDENT + largest + budget.STAGING


@pytest.fixture(autouse=True)
def free(monkeypatch):
    """Ten GB are free: the default budget is 1 GiB of them, and half are five."""
    monkeypatch.setattr(memory, "available", lambda: 10 * GB)


def test_the_default_leaves_most_of_what_is_free():
    assert Limits().allowed(RESIDENT) == RESIDENT + budget.DEFAULT_CAP
    assert Limits().allowed(RESIDENT, promised=10 * GB - 1000) == RESIDENT + 875
    assert Limits().allowed(RESIDENT, promised=11 * GB) == RESIDENT
    assert Limits(budget=7).allowed(RESIDENT, promised=10 * GB) == 7


def test_one_thread_may_take_half_of_what_is_free():
    asked, peak = tasks(4 * GB)
    assert Limits(threads=3).fit(asked, RESIDENT) == Workers(1, peak)
    asked, _ = tasks(5 * GB)
    refused = Limits(threads=3).fit(asked, RESIDENT)
    assert isinstance(refused, Problem)
    assert refused.found == "5.10 GB"


def test_a_budget_that_is_set_is_kept():
    asked, peak = tasks(4 * GB)
    assert Limits(budget=peak, threads=3).fit(asked, RESIDENT) == Workers(1, peak)
    assert isinstance(Limits(budget=peak - 1, threads=3).fit(asked, RESIDENT), Problem)


def test_as_many_threads_as_fit():
    asked, peak = tasks(GB // 10)
    assert Limits(threads=3).fit(asked, RESIDENT) == Workers(3, peak + GB // 10 + GB // 20)
    assert Limits(budget=peak + GB // 10, threads=3).fit(asked, RESIDENT) == Workers(2, peak + GB // 10)


def test_without_a_number_of_threads_it_is_one_a_core():
    assert Limits().most_threads() == len(os.sched_getaffinity(0))
    assert Limits(threads=7).most_threads() == 7
