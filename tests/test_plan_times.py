"""`sdmw plan --bandwidth` says where time goes; without it a plan says what it always said."""

import json
from pathlib import Path

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import told
from sdmw.api import timing
from sdmw.errors import UsageError
from sdmw.running import probe


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    base = llama_like(rng)
    write_checkpoint(tmp_path / "base", base)
    for name in ("corp", "func"):
        write_checkpoint(tmp_path / name, fine_tuned(rng, base))
    text = {"merge_method": "sdm_w", "base_model": "base", "models": [{"model": "corp"}, {"model": "func"}]}
    Path("recipe.yaml").write_text(json.dumps(text))
    return "recipe.yaml"


def test_without_a_bandwidth_nothing_is_estimated(recipe, monkeypatch):
    monkeypatch.setattr(timing, "with_estimates", None)
    planned = sdmw.plan(recipe)
    assert (planned.bandwidth, planned.estimates) == (None, ())
    assert (planned.to_dict()["bandwidth"], planned.to_dict()["estimates"]) == (None, [])


def test_tables_say_where_time_goes(recipe, capsys, monkeypatch):
    done = told(capsys, monkeypatch, "plan", recipe, "out", "--threads", 1, "--bandwidth", "10KB", "--workers", "1,8")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert next(line for line in lines if line.startswith("time")).endswith("limited by reading")
    words = [line.split() for line in lines]
    assert ["on", "1", "thread", "read", "compute", "write", "driver", "about", "limited", "by"] in words
    assert ["workers", "decide", "write", "about", "limited", "by"] in words
    assert {line[0] for line in words if line} >= {"decide", "write", "all", "1", "8"}
    assert lines[-1].startswith("based on: 10.0 KB/s (stated), shared by reading and writing; data that is read twice")
    assert max(len(line) for line in lines[:-1]) <= 80


def test_json_has_every_number_of_workers(recipe, capsys, monkeypatch):
    done = told(capsys, monkeypatch, "plan", recipe, "--threads", 1, "--bandwidth", "1MB", "--workers", "2,4", "--json")
    found = json.loads(done.out)
    assert found["bandwidth"] == {"read": 10**6, "write": 10**6, "shared": True, "measured": False, "slowness": 1.0}
    assert [each["workers"] for each in found["estimates"]] == [1, 2, 4]
    own = found["estimates"][0]
    assert own.keys() == {"workers", "kind", "seconds", "limit", "start", "phases"}
    assert [phase["phase"] for phase in own["phases"]] == ["decide", "write"]
    assert own["phases"][0]["read"] == pytest.approx(found["bytes_read"] / 2 / 1e6, abs=1e-3)
    assert own["seconds"] == pytest.approx(own["start"] + sum(phase["seconds"] for phase in own["phases"]), abs=0.002)


def test_a_plan_on_executors_says_what_workers_are(recipe):
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    for executor, kind in ((None, "threads"), (ThreadPoolExecutor, "threads"), (ProcessPoolExecutor, "processes")):
        made = executor and executor(1)
        assert sdmw.plan(recipe, threads=1, bandwidth=10**6, executor=made).estimates[0].kind == kind


def test_what_was_never_measured_is_said(recipe, capsys, monkeypatch):
    monkeypatch.delitem(sdmw.planning.costs.COSTS, "sdm_w")
    done = told(capsys, monkeypatch, "plan", recipe, "--bandwidth", "1MB")
    assert done.out.splitlines()[-1].endswith("; the computing time of sdm_w was never measured")


def test_measuring_reads_and_writes_beside_the_output(recipe, capsys, monkeypatch):
    monkeypatch.setattr(probe, "MOST", 1 << 20)
    done = told(capsys, monkeypatch, "plan", recipe, "out", "--bandwidth", "measured")
    assert (done.code, done.err) == (0, "")
    assert "(measured), one after the other" in done.out.splitlines()[-1]
    assert sorted(path.name for path in Path().iterdir()) == ["base", "corp", "func", "recipe.yaml"]


def test_a_rate_may_be_written_as_one(recipe):
    assert sdmw.plan(recipe, bandwidth="2GB/s").bandwidth == sdmw.plan(recipe, bandwidth="2GB").bandwidth


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": (1, 2)}, "workers: expected a bandwidth as well, found none"),
        ({"bandwidth": "fast"}, "bandwidth: expected bytes a second, as a size, or `measured`, found 'fast'"),
        ({"bandwidth": "1GB", "workers": 8}, "workers: expected a list of numbers, such as [1, 8], found 8"),
        ({"bandwidth": "1GB", "workers": (0,)}, "workers: expected whole numbers from 1 to 1024, found 0"),
        ({"bandwidth": "1GB", "workers": (1.5,)}, "workers: expected whole numbers from 1 to 1024, found 1.5"),
    ],
)
def test_what_cannot_be_is_refused(recipe, arguments, message):
    with pytest.raises(UsageError) as caught:
        sdmw.plan(recipe, **arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("counts", ["1,", "a", "0", "1.5", "-1"])
def test_counts_are_whole_numbers(recipe, capsys, monkeypatch, counts):
    done = told(capsys, monkeypatch, "plan", recipe, "--bandwidth", "1GB", "--workers", counts)
    assert (done.code, len(done.errors)) == (2, 1)
    assert "whole numbers above 0 between commas, such as 1,2,4" in done.errors[0]
