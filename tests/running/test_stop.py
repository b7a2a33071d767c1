"""Signals while a merge runs, sent from its own progress."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from sdmw.errors import StoppedError
from sdmw.running import stop, verification
from sdmw.running.events import Planned, Published
from sdmw.running.stop import SIGNALS, StopSignals

pytestmark = pytest.mark.usefixtures("no_bundles")


@pytest.fixture
def recipe(tmp_path):
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "corp", fine_tuned(rng, base))
    models = [{"model": str(tmp_path / "corp")}]
    return {"merge_method": "sdm_w", "base_model": str(tmp_path / "base"), "models": models}


def sends(*signals, at):
    """A receiver that sends signals to its own process when the first event of a kind, or that stage, comes."""
    left = list(signals)

    def receive(event):
        if left and (isinstance(event, at) if isinstance(at, type) else getattr(event, "stage", "") == at):
            for each in [left.pop(0) for _ in signals]:
                os.kill(os.getpid(), each)

    return receive


@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize("at", [Planned, "measure", "apply"])
def test_a_signal_stops_a_run(tmp_path, recipe, signum, at):
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(StoppedError) as caught:
        sdmw.merge(recipe, tmp_path / "out", progress=sends(signum, at=at))
    assert (caught.value.signum, caught.value.exit_code) == (signum, 128 + signum)
    assert str(caught.value) == f"{signum.name}: stopped by this signal"
    kept = [] if at is Planned else [".out.sdmw"]
    assert sorted(os.listdir(tmp_path)) == [*kept, "base", "corp"]
    assert [signal.getsignal(each) for each in SIGNALS] == before
    sdmw.merge(recipe, tmp_path / "out", progress=False)
    assert sorted(os.listdir(tmp_path)) == ["base", "corp", "out"]


def test_a_signal_once_the_output_is_there_comes_too_late(tmp_path, recipe):
    report = sdmw.merge(recipe, tmp_path / "out", progress=sends(signal.SIGTERM, at=Published))
    assert report.models[0].facts["weight"] == 1
    assert sorted(os.listdir(tmp_path)) == ["base", "corp", "out"]


def test_a_second_interrupt_ends_at_once(tmp_path, recipe):
    with pytest.raises(KeyboardInterrupt):
        sdmw.merge(recipe, tmp_path / "out", progress=sends(signal.SIGINT, signal.SIGINT, at="measure"))
    assert sorted(os.listdir(tmp_path)) == [".out.sdmw", "base", "corp"]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_process_that_ends_at_once_shows_the_cursor_that_a_bar_has_hidden(monkeypatch, terminal):
    done = []
    monkeypatch.setattr(stop.os, "isatty", lambda descriptor: terminal and descriptor == 2)
    monkeypatch.setattr(stop.os, "write", lambda *arguments: done.append(arguments))
    monkeypatch.setattr(stop.os, "_exit", done.append)
    stop._end_at_once(130)
    assert done == [*([(2, b"\x1b[?25h\n")] if terminal else []), 130]


def test_the_first_signal_is_the_one_told(tmp_path, recipe):
    with pytest.raises(StoppedError) as caught:
        sdmw.merge(recipe, tmp_path / "out", progress=sends(signal.SIGTERM, signal.SIGINT, at="measure"))
    assert caught.value.signum == signal.SIGTERM


def test_what_is_ignored_stays_ignored(tmp_path, recipe):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        sdmw.merge(recipe, tmp_path / "out", progress=sends(signal.SIGHUP, at="measure"))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "out").is_dir()


def test_other_threads_leave_signals_alone():
    before = [signal.getsignal(each) for each in SIGNALS]
    inside = []

    def enter():
        with StopSignals() as signals:
            signals.check()
            inside.extend(signal.getsignal(each) for each in SIGNALS)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert inside == before


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_stops_verifying(tmp_path, recipe, monkeypatch, signum):
    """At the next tile: what is queued is not waited for."""
    sdmw.merge(recipe, tmp_path / "out", progress=False)
    read, begun = verification.read_tiles, []

    def slow(*arguments):
        for tile in read(*arguments):
            begun.append(1)
            time.sleep(0.1)
            yield tile

    monkeypatch.setattr(verification, "read_tiles", slow)
    assert sdmw.verify(tmp_path / "out", sample=1, progress=False).problems == ()
    tiles = len(begun)
    begun.clear()
    with pytest.raises(StoppedError) as caught:
        sdmw.verify(tmp_path / "out", sample=1, threads=2, progress=sends(signum, at="verify"))
    assert caught.value.signum == signum
    assert len(begun) <= 6 < tiles  # one done, what ran beside it, and what a worker began before it was told


EARLY = """
import os, signal, sys

PLACE = sys.argv[1]

def send():
    os.kill(os.getpid(), signal.SIGINT)

class OfAClass:
    def __set_name__(self, owner, name):
        send()

class Lost:
    def __del__(self):
        send()

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "sdmw.cli":
            return
        if PLACE == "import":
            send()
        if PLACE == "a class":
            type("Made", (), {"field": OfAClass()})
        if PLACE == "lost":
            Lost()  # what it raises is dropped

sys.meta_path.insert(0, Finder())
sys.last = Lost()  # Python finalises: it has put its own handlers back
sys.argv = ["sdmw", *sys.argv[2:]]
from sdmw.__main__ import main
main()
"""


@pytest.mark.parametrize("place", ["import", "a class", "lost"])
def test_a_signal_while_the_command_is_imported_and_another_at_the_end(recipe, tmp_path, place):
    """Where the exception of the first is lost, the run stops when it begins."""
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    command = [sys.executable, "-c", EARLY, place, "merge", tmp_path / "recipe.yaml", tmp_path / "out", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.startswith("error: SIGINT")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
