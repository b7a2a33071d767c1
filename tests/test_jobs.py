"""extract, pack, apply, revert as jobs: threads change no bit, budgets are kept or refused, signals end them."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import CONFIG, fine_tuned, llama_like, write_checkpoint
from command_line import told
from ending import processor_seconds, seconds_to_its_end
from sdmw.archives import planning, runs, shards
from sdmw.checkpoints import formats
from sdmw.errors import PlanError, ResumeError, StoppedError, UsageError
from sdmw.planning import extraction
from sdmw.running import decomposition
from sdmw.running.events import Progress
from sdmw.running.left_out import norm_of_change
from sdmw.running.stop import GivenUp

MAIN = [sys.executable, "-c", "from sdmw.cli import main; main()"]
GONE_WITHIN = 4  # seconds of processors after a signal; two are promised, machines that test are slow
MB = 10**6
ARGUMENTS = {
    "extract": ("base", "tune", "out", "--rank", "1"),
    "pack": ("base", "tune", "out"),
    "apply": ("base", "archive", "out"),
    "revert": ("tune", "archive", "out"),
}

# Does one thing within a budget, in a process of its own. Prints its peak, which `ru_maxrss` would take from us.
CHILD = """
import sys, sdmw
what, first, second, out, budget = sys.argv[1:]
options = {"rank": 1} if what == "extract" else {}
getattr(sdmw, what)(first, second, out, budget=budget, progress=False, overwrite=True, **options)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A base and a fine-tune of 320 MB that take no disk, since they are zero but for some rows; and their archive."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(3)
    rows, columns, count = 5000, 4000, 4
    size = 4 * rows * columns
    entries = {
        f"layers.{n}.up_proj.weight": {
            "dtype": "F32", "shape": [rows, columns], "data_offsets": [size * n, size * (n + 1)]
        }
        for n in range(count)
    }  # fmt: skip
    header = json.dumps(entries).encode()
    for name in ("base", "tune"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(CONFIG))
        with open(folder / name / "model.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            start = file.tell()
            file.truncate(start + size * count)
            for place in rng.integers(0, count * rows, 100) if name == "tune" else ():
                file.seek(start + 4 * columns * int(place))
                file.write(rng.standard_normal(columns, np.float32).tobytes())
    sdmw.pack(folder / "base", folder / "tune", folder / "archive", progress=False)
    return folder


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A tiny base and fine-tune in the working directory, and tiles and blocks that are tinier."""
    monkeypatch.chdir(tmp_path)
    for where, name, size in (
        (runs, "BLOCK", 8), (shards, "CHUNK", 8), (shards, "SHARD", 32), (planning, "TILE", 24),
        (decomposition, "ROWS", 100),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, size)
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    write_checkpoint("base", base)
    write_checkpoint("tune", fine_tuned(rng, base))
    return tmp_path


def files_of(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in Path(folder).rglob("*") if f.is_file()}


def run(what, out, **options):
    arguments = {"extract": ("base", "tune"), "pack": ("base", "tune"), "apply": ("base", "archive"),
                 "revert": ("tune", "archive")}[what]  # fmt: skip
    rank = {"rank": 3} if what == "extract" else {}
    return getattr(sdmw, what)(*arguments, out, **{"progress": False, **rank, **options})


@pytest.fixture
def archive(world):
    run("pack", "archive")


@pytest.mark.parametrize("what", ARGUMENTS)
def test_threads_change_no_bit(world, archive, what):
    for threads in (1, 2, 5):
        run(what, f"out{threads}", threads=threads)
    expected = files_of("out1")
    expected.pop("sdmw_report.json", None)
    for threads in (2, 5):
        found = files_of(f"out{threads}")
        found.pop("sdmw_report.json", None)
        assert found == expected


@pytest.mark.parametrize("what", ARGUMENTS)
@pytest.mark.parametrize(("option", "said"), [({"threads": 0}, "threads"), ({"budget": "much"}, "budget")])
def test_limits_are_checked(world, archive, what, option, said):
    with pytest.raises(UsageError, match=said):
        run(what, "out", **option)


@pytest.mark.parametrize("what", ARGUMENTS)
def test_a_budget_that_is_too_small_is_refused(world, archive, what):
    with pytest.raises(PlanError) as caught:
        run(what, "out", budget="10MiB")
    assert re.fullmatch(
        r"budget: expected at least [\d.]+ [MG]B of memory, found [\d.]+ MB\. Set the budget to \d+MB or more",
        str(caught.value),
    )
    assert not os.path.lexists("out")
    assert not os.path.lexists(".out.sdmw")


@pytest.mark.parametrize("what", ARGUMENTS)
def test_the_budget_that_a_refusal_names_is_enough_and_kept(large, tmp_path, what):
    """For models that are larger than it."""
    first, second, *_ = ARGUMENTS[what]
    command = [sys.executable, "-c", CHILD, what, str(large / first), str(large / second), str(tmp_path / "out")]
    refused = subprocess.run([*command, "50MiB"], capture_output=True, text=True, check=False)
    needed = int(re.search(r"Set the budget to (\d+)MB or more", refused.stderr)[1])
    assert needed * MB < (large / "base" / "model.safetensors").stat().st_size
    done = subprocess.run([*command, f"{needed}MB"], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 <= needed * MB


@pytest.mark.parametrize("what", ARGUMENTS)
def test_a_signal_ends_it_and_leaves_nothing(large, tmp_path, what):
    """But what an extraction can be resumed with."""
    arguments = [str(large / each) if (large / each).exists() else each for each in ARGUMENTS[what]]
    command = [*MAIN, what, *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        limit = time.monotonic() + 60
        while not (tmp_path / ".out.sdmw" / "out").exists() and time.monotonic() < limit:
            time.sleep(0.005)
        time.sleep(0.02)
        since = processor_seconds(process)
        os.kill(process.pid, signal.SIGTERM)
        took = seconds_to_its_end(process, since)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + signal.SIGTERM, b""), err
    assert took < GONE_WITHIN
    assert err.startswith(b"error: SIGTERM: stopped by this signal\n")
    assert os.listdir(tmp_path) == ([".out.sdmw"] if b"the same command resumes it" in err else [])
    assert b"resumes" not in err or what == "extract"


def stopping_after(weights):
    """A receiver that ends the run once so many weights are extracted."""
    left = [weights]

    def receive(event):
        left[0] -= isinstance(event, Progress)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    return receive


def counted(monkeypatch):
    """The names of the weights that are extracted from now on."""
    names, extract = [], decomposition.extract

    def noted(weight, *arguments):
        names.append(weight.base.name)
        return extract(weight, *arguments)

    monkeypatch.setattr("sdmw.running.extraction.extract", noted)
    return names


class TestAnInterruptedExtraction:
    @pytest.fixture(autouse=True)
    def _interrupted(self, world):
        run("extract", "undisturbed")
        with pytest.raises(StoppedError) as caught:
            run("extract", "out", threads=1, progress=stopping_after(2))
        assert caught.value.__notes__ == [f"finished work is kept in {world}/.out.sdmw: the same command resumes it"]

    def test_goes_on_to_the_same_bits_and_report(self, monkeypatch):
        names = counted(monkeypatch)
        events = []
        report = run("extract", "out", progress=events.append)
        assert 0 < len(names) <= len(report.weights) - 2
        assert files_of("out") == files_of("undisturbed")
        progress = [event for event in events if isinstance(event, Progress)]
        assert len(progress) == len(report.weights)
        assert progress[-1].done == progress[-1].total
        assert not os.path.lexists(".out.sdmw")

    def test_checks_what_it_finds(self, monkeypatch):
        file = Path(".out.sdmw/out/adapter_model.safetensors")
        data = bytearray(file.read_bytes())
        data[8 + int.from_bytes(data[:8], "little") :] = bytes(len(data) - 8 - int.from_bytes(data[:8], "little"))
        file.write_bytes(data)
        names = counted(monkeypatch)
        report = run("extract", "out")
        assert sorted(names) == sorted(weight.tensor for weight in report.weights)
        assert files_of("out") == files_of("undisturbed")

    def test_is_not_resumed_with_another_rank(self, capsys, monkeypatch):
        with pytest.raises(ResumeError, match=r"\.out\.sdmw: .*--restart[\s\S]*\nrank: 3 → 4$"):
            run("extract", "out", rank=4)
        done = told(capsys, monkeypatch, "extract", "base", "tune", "out", "--rank", "4", "--restart")
        assert (done.code, done.err) == (0, "")


def test_each_term_of_the_bound_on_tasks(monkeypatch):
    monkeypatch.setattr("sdmw.planning.budget.STAGING", 19)
    tasks = extraction.Tasks(loading=0, reserved=23, waiting=5, each=[2, 11, 3, 7])
    assert [tasks.peak(threads) for threads in (1, 2, 9)] == [
        23 + 5 + 11 + 19, 23 + 2 * 5 + 11 + 7 + 19, 23 + 9 * 5 + 23 + 19
    ]  # fmt: skip


def test_each_term_of_a_weights_memory(monkeypatch):
    monkeypatch.setattr(extraction, "ROWS", 29)
    monkeypatch.setattr(extraction, "SMALLEST", 2)
    monkeypatch.setattr(extraction, "OVERSAMPLED", 3)
    block = (29 + 2) * (2 * 13 + 12 + 16)
    width = 5 + 3
    assert extraction.working_bytes((17, 11), 5, 13) == block + 8 * (5 * width * 17 + 8 * width**2) + 4 * 5 * 28
    assert extraction.working_bytes((17, 1), 50, 13) == block + 12 * 50 * 18  # zeros beyond its rank, mostly


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("in_base", [True, False])
def test_the_memory_that_a_norm_of_change_takes_is_within_what_is_counted(tmp_path, dtype, in_base):
    rng = np.random.default_rng(1)
    for name in ("base", "tune"):
        write_checkpoint(tmp_path / name, {"scale": rng.standard_normal(1_000_000).astype(dtype)})
    base, tune = (formats.read(str(tmp_path / name)).tensors["scale"] for name in ("base", "tune"))
    tracemalloc.start()
    try:
        assert norm_of_change(base if in_base else None, tune, GivenUp())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    both = (base.cost.held + tune.cost.held) if in_base else tune.cost.held
    assert peak <= (extraction.COMPARED + both) * (extraction.TILE + extraction.SMALLEST)
