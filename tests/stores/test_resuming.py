"""A measuring run that was ended early goes on, reads nothing twice, and leaves the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from sdmw.errors import ResumeError
from sdmw.running import journal
from sdmw.running.events import Progress, Resuming
from sdmw.stores import spool

RECIPE = {"merge_method": "sdm_w", "base_model": "base", "models": [{"model": "corp"}, {"model": "func"}]}
pytestmark = pytest.mark.usefixtures("tiny_tiles")


class StopError(Exception):
    """Of the tests' own."""


@pytest.fixture
def world(tmp_path, monkeypatch, no_bundles):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    base = llama_like(rng, "F32")
    write_checkpoint("base", base)
    for name in ("corp", "func"):
        write_checkpoint(name, fine_tuned(rng, base))
    sdmw.measure(RECIPE, "whole", progress=False)
    return tmp_path


def bytes_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }


def stopped_after(count):
    """Measure, and be stopped after so many reports of progress."""
    seen = 0

    def tell(event):
        nonlocal seen
        seen += isinstance(event, Progress)
        if seen == count:
            raise StopError

    with pytest.raises(StopError):
        sdmw.measure(RECIPE, "store", progress=tell, threads=1)


@pytest.mark.parametrize("count", [1, 5, 9])
@pytest.mark.parametrize("commit", [0.0, 5.0])
def test_the_same_bytes(world, monkeypatch, count, commit):
    monkeypatch.setattr(journal, "COMMIT_EVERY", commit)
    stopped_after(count)
    assert not Path("store").exists()
    events = []
    sdmw.measure(RECIPE, "store", progress=events.append, threads=2)
    assert bytes_of("store") == bytes_of("whole")
    assert count == 1 or any(isinstance(event, Resuming) for event in events)
    assert not Path(".store.sdmw").exists()


def test_twice_ended_and_then_with_another_budget(world):
    stopped_after(5)
    stopped_after(9)
    sdmw.measure(RECIPE, "store", progress=False, threads=3, budget="8GiB")
    assert bytes_of("store") == bytes_of("whole")


def test_what_was_kept_and_is_damaged_is_measured_again(world):
    stopped_after(9)
    path = Path(".store.sdmw", spool.NAME)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    sdmw.measure(RECIPE, "store", progress=False)
    assert bytes_of("store") == bytes_of("whole")


def test_another_recipe(world):
    stopped_after(9)
    other = {**RECIPE, "models": [{"model": "func"}, {"model": "corp"}]}
    with pytest.raises(ResumeError):
        sdmw.measure(other, "store", progress=False)
    sdmw.measure(other, "store", progress=False, resume=False)
    assert sdmw.open_store("store").models == ("func", "corp")


def test_killed(world):
    """By SIGKILL, at any time: what stands in the journal is believed, all else is measured again."""
    program = """
import sys, time, sdmw
from sdmw.running import journal
journal.COMMIT_EVERY = 0.0
sdmw.measure(eval(sys.argv[1]), "store", progress=lambda event: time.sleep(0.01), threads=1)
"""
    for delay in (0.05, 0.2):
        process = subprocess.Popen([sys.executable, "-c", program, repr(RECIPE)])
        while process.poll() is None and not Path(".store.sdmw", "journal").exists():
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    sdmw.measure(RECIPE, "store", progress=False, overwrite=os.path.exists("store"))
    assert bytes_of("store") == bytes_of("whole")


def test_a_survey_is_read_as_it_was_written(world):
    from sdmw.statistics.blocks import BlockSums
    from sdmw.statistics.survey import Magnitudes, Survey

    model = Magnitudes(
        np.array([3, 9], np.uint16), np.array([1, 2**40]), np.array([0, 5]), np.array([7, 8]),
        np.array([[1, 2], [3, 4]]),
        nonfinite=2, unchanged=(3, 4), smallest=5, largest=2**31,
    )  # fmt: skip
    one = Survey(
        (model, Magnitudes()), BlockSums((2**1100, -5, 0), finite=False), np.eye(2, dtype=np.int64), np.arange(4)
    )
    other = spool.read(spool.written(one))
    assert spool.written(other) == spool.written(one)
    assert other.products == one.products
    assert other.models[0].unchanged == (3, 4)
    np.testing.assert_array_equal(other.models[0].squares, model.squares)
