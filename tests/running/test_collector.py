"""Python's collector of cycles: off while a command starts, at work in its passes; a caller's is left as it is."""

import gc
import json
import subprocess
import sys

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint

COMMAND = """
import gc, json, sys
import sdmw
from sdmw.running.collector import nothing_to_collect

before = gc.isenabled()
with nothing_to_collect():
    seen = [(type(None).__name__, gc.isenabled(), gc.get_freeze_count() > 0)]
    see = lambda event: seen.append((type(event).__name__, gc.isenabled(), gc.get_freeze_count() > 0))
    sdmw.merge(json.loads(sys.argv[1]), "out", progress=see)
    own = [object() for _ in range(1000)]
    frozen = gc.get_freeze_count()
print(json.dumps([before, seen, gc.get_freeze_count() > frozen]))
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    write_checkpoint("base", base)
    write_checkpoint("corp", fine_tuned(rng, base))
    return {"merge_method": "sdm_w", "base_model": "base", "models": [{"model": "corp"}]}


def test_a_command_collects_from_its_passes_on(recipe):
    done = subprocess.run([sys.executable, "-c", COMMAND, json.dumps(recipe)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, seen, frozen_at_exit = json.loads(done.stdout)
    assert before
    assert frozen_at_exit
    assert seen[0] == ["NoneType", False, False]
    in_passes = [each[1:] for each in seen if each[0] in ("Planned", "Progress", "Published")]
    assert in_passes
    assert all(each == [True, True] for each in in_passes), seen


@pytest.mark.parametrize("collects", [True, False])
def test_a_caller_s_collector_is_left_as_it_is(recipe, collects):
    before, frozen, seen = gc.isenabled(), gc.get_freeze_count(), set()
    (gc.enable if collects else gc.disable)()
    try:
        sdmw.merge(recipe, "out", progress=lambda _: seen.add(gc.isenabled()))
        assert seen == {collects}
        assert gc.isenabled() == collects
        assert gc.get_freeze_count() == frozen
    finally:
        (gc.enable if before else gc.disable)()
