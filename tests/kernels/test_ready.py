"""Kernels are compiled once, in a child process; who loads them keeps to the plan's bound, the first run included."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import sdmw
from checkpoints_on_disk import write_checkpoint
from ending import processor_seconds, seconds_to_its_end
from faults.worlds import ALL
from sdmw.kernels import calls, folder, processor, ready

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "tests" / "data"
SDM_W = {
    "merge_method": "sdm_w",
    "base_model": str(DATA / "base"),
    "models": [{"model": str(DATA / "corp")}, {"model": str(DATA / "func")}],
}
LINEAR = {**SDM_W, "merge_method": "linear", "parameters": {"weight": 0.5}}
ADAPTERS = [{"model": str(DATA / f"{name}-lora"), "parameters": {"weight": 0.5}} for name in ("corp", "func")]

# Merges, and prints what it told, the peak, the bound, and whether kernels were compiled in it.
MERGE = """
import json, sys
import sdmw
told = []
options = json.loads(sys.argv[1])
report = sdmw.merge(*options.pop("arguments"), progress=lambda event: told.append(type(event).__name__), **options)
with open("/proc/self/status") as file:  # ru_maxrss would be our own, from before this program was begun
    peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
compiled = "numba" in sys.modules
print(json.dumps([told[0], peak, report.run.planned_peak, compiled]))
"""
# A process that can neither keep machine code nor make temporary files.
NOWHERE = "import tempfile\ndef none(): raise FileNotFoundError('none')\ntempfile.gettempdir = none\n"
NO_CHILDREN = "import sys\nsys.executable = '/bin/false'\n"


def environment(home):
    given = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    return {**given, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "XDG_CACHE_HOME": str(home)}


def started(home, *arguments, before="", **options):
    told = json.dumps({"arguments": [*map(str_or_dict, arguments)], **options})
    command = [sys.executable, "-W", "ignore", "-c", before + MERGE, told]
    return subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def str_or_dict(argument):
    return argument if isinstance(argument, dict) else str(argument)


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out)


def merged(*arguments, **options):
    return finished(started(*arguments, **options))


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A cache that a first run has filled, and what that run told."""
    home = tmp_path_factory.mktemp("warm")
    return home, merged(home, SDM_W, home / "out")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A cache of the kernels of all methods: a copy of the one that tests/conftest.py has filled."""
    home = tmp_path_factory.mktemp("full")
    kept = Path(folder.folder())
    shutil.copytree(kept, home / "sdmw" / "kernels" / kept.name)
    return home


def least_budget(home, recipe):
    code = "import json, sys, sdmw; print(sdmw.plan(json.loads(sys.argv[1]), budget=1).problems[0].mend)"
    command = [sys.executable, "-c", code, json.dumps(recipe)]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=True)
    return done.stdout.split()[4]


def test_a_first_run_keeps_to_the_plan(warm):
    _, (first, peak, planned, compiled) = warm
    assert first == "Compiling"
    assert peak <= planned
    assert not compiled


@pytest.mark.skipif(not ALL, reason="compiles for another minute; scripts/test --all")
def test_a_first_run_keeps_to_a_small_budget(tmp_path):
    budget = least_budget(tmp_path, SDM_W)
    first, peak, planned, compiled = merged(tmp_path, SDM_W, tmp_path / "out", budget=budget)
    assert (first, compiled) == ("Compiling", False)
    assert peak <= planned <= sdmw.sizes.parse_size(budget, "budget")


@pytest.mark.parametrize("before", [NOWHERE, NO_CHILDREN] if ALL else [NOWHERE])
def test_what_is_compiled_in_the_process_is_counted(tmp_path, before):
    home = "/proc" if before is NOWHERE else tmp_path
    first, peak, planned, compiled = merged(home, SDM_W, tmp_path / "out", before=before)
    assert (first, compiled) == ("Compiling", True)
    assert peak <= planned


RECIPES = {
    "linear": LINEAR,
    "task_arithmetic": {**LINEAR, "merge_method": "task_arithmetic"},
    "sdm_w of adapters": {**SDM_W, "models": [{"model": each["model"]} for each in ADAPTERS]},
    "lora": {**SDM_W, "merge_method": "lora", "models": ADAPTERS},
    "converted": {**LINEAR, "out_dtype": "float16"},
    **{
        f"{name} {given or ''}": {**SDM_W, "merge_method": name, "parameters": given}
        for name, given in (
            ("ties", {"weight": 1, "density": 0.5}),
            ("breadcrumbs", {"weight": 1, "density": 0.5, "rescale": True}),
            ("dare_ties", {"weight": 1, "density": 0.5}),
            ("della", {"weight": 1, "density": 0.5}),
            ("sce", {}),
            ("sce", {"select_topk": 0.5}),
            ("model_stock", {}),
            ("model_stock", {"filter_wise": True}),
            ("multislerp", {"weight": 1}),
            ("karcher", {}),
            ("ram", {}),
            ("ramplus_tl", {}),
            ("nuslerp", {"weight": 1, "nuslerp_flatten": False}),
            ("nuslerp", {"weight": 1, "nuslerp_flatten": False, "nuslerp_row_wise": True}),
        )
    },
    "passthrough": {"merge_method": "passthrough", "models": SDM_W["models"][:1], "parameters": {"scale": 0.5}},
    "slerp": {**SDM_W, "merge_method": "slerp", "models": SDM_W["models"][:1], "parameters": {"t": 0.5}},
    "nearswap": {**SDM_W, "merge_method": "nearswap", "models": SDM_W["models"][:1], "parameters": {"t": 0.5}},
    "arcee_fusion": {**SDM_W, "merge_method": "arcee_fusion", "models": SDM_W["models"][:1]},
}


SOME = {name: RECIPES[name] for name in RECIPES if ALL or name.split()[0] in ("sdm_w", "ties", "sce", "nuslerp")}


@pytest.mark.parametrize("recipe", SOME.values(), ids=SOME)
def test_whatever_is_merged_finds_its_kernels_compiled(full, tmp_path, recipe):
    """A kernel of a group that its method does not name would be compiled in the process."""
    first, peak, planned, compiled = merged(full, recipe, tmp_path / "out")
    assert (first, compiled) == ("Planned", False)
    assert peak <= planned


@pytest.mark.parametrize("name", ["ties {'weight': 1, 'density': 0.5}", *(RECIPES if ALL else ())])
def test_what_the_cache_lacks_is_compiled_by_a_child(warm, tmp_path, name):
    """Where it has other methods' kernels alone; and then there is nothing to compile."""
    for out, told in (("out", ("Planned", "Compiling")), ("again", ("Planned",))):
        first, peak, planned, compiled = merged(warm[0], RECIPES[name], tmp_path / out)
        assert (first in told, compiled) == (True, False)
        assert peak <= planned


@pytest.mark.parametrize("name", ["arcee_fusion", "della", "ties"])
def test_long_rows_find_their_kernels_compiled(full, tmp_path, name):
    """Which some methods look at with kernels of other groups."""
    for number, each in enumerate(("base", "one")):
        values = np.random.default_rng(number).normal(0, 0.02, 300_000).astype(np.float32)
        write_checkpoint(tmp_path / each, {"w": values})
    recipe = {
        "merge_method": name,
        "base_model": str(tmp_path / "base"),
        "models": [{"model": str(tmp_path / "one")}],
        "parameters": {} if name == "arcee_fusion" else {"weight": 1, "density": 0.5},
    }
    assert merged(full, recipe, tmp_path / "out")[3] is False


def test_whoever_looks_again_finds_its_kernels_compiled(warm, tmp_path):
    """Further looks open the low bits of bins, and happen where a bracket misses."""
    never = "from sdmw.statistics import histogram\nhistogram.bracket = lambda *_: None\n"
    assert merged(warm[0], SDM_W, tmp_path / "out", before=never)[3] is False


def test_the_compiler_s_pages_are_let_go(warm, tmp_path):
    """Its code is mapped in larger parts where its file is cached in large folios, as it is after one long read."""
    code = (
        "import os, sys, psutil\nfrom sdmw.kernels import ready\nassert ready.prepare(lambda _: None)\n"
        "print(sum(each.rss for each in psutil.Process().memory_maps() if 'libllvmlite' in each.path))\n"
    )
    library = next(Path(each).parent for each in [__import__("llvmlite").__file__]) / "binding" / "libllvmlite.so"
    with open(library, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(1 << 22):
            pass
    done = subprocess.run([sys.executable, "-c", code], env=environment(warm[0]), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8 << 20  # it is above 60 MiB otherwise
    _, peak, planned, _ = merged(warm[0], LINEAR, tmp_path / "out")
    assert peak <= planned


def child_of(process):
    """The process that compiles for this one."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if children := psutil.Process(process.pid).children():
            return children[0]
        time.sleep(0.02)
    raise AssertionError("there is no child")


@pytest.mark.skipif(not ALL, reason="compiles for another minute; scripts/test --all")
@pytest.mark.parametrize("second", ["killed", "fine"])
def test_two_that_begin_at_once(tmp_path, second):
    """Both work, also where the child of one is killed; then that one compiles by itself."""
    both = [started(tmp_path, SDM_W, tmp_path / f"out{number}") for number in range(2)]
    if second == "killed":
        first = child_of(both[0])
        first.kill()
        while (again := child_of(both[0])) == first:  # it is tried once more
            time.sleep(0.01)
        again.kill()
    told = [finished(each) for each in both]
    assert [each[0] for each in told] == ["Compiling", "Compiling"]
    assert all(peak <= planned for _, peak, planned, _ in told)
    assert told[1][3] is False
    assert merged(tmp_path, SDM_W, tmp_path / "out")[3] is False
    assert merged(tmp_path, SDM_W, tmp_path / "again")[0] == "Planned"


def test_an_interrupt_while_they_are_compiled_ends_it_at_once(tmp_path):
    command = [sys.executable, "-c", "from sdmw.cli import main; main()", "merge", "tests/data/recipe.yaml"]
    out = str(tmp_path / "out")
    with subprocess.Popen([*command, out], env=environment(tmp_path), cwd=ROOT, stderr=subprocess.PIPE) as process:
        assert process.stderr.readline() == b"compiling kernels (once)\n"
        child = child_of(process)
        time.sleep(0.5)  # between the child's start and the parent's knowing it, only the whole group can be ended
        since = processor_seconds(process)
        os.kill(process.pid, signal.SIGINT)
        assert seconds_to_its_end(process, since) < 4
        assert process.wait(60) == 130
        assert b"Traceback" not in process.stderr.read()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert os.listdir(tmp_path) == ["sdmw"]


def test_of_two_groups_the_second_is_damaged(full, tmp_path):
    """The first is linked by then, and not again."""
    home = tmp_path / "home"
    subprocess.run(["cp", "-a", full, home], check=True)
    (kept,) = home.rglob(ready._path("ram").name)  # others may be of other versions
    kept.write_bytes(kept.read_bytes()[:-100])
    first, peak, planned, compiled = merged(home, {**LINEAR, "merge_method": "ram"}, tmp_path / "again")
    assert (first, compiled) == ("Planned", False)
    assert peak <= planned


def test_a_cache_that_lacks_something_is_not_complete(warm, tmp_path, monkeypatch):
    place = tmp_path / "place"
    subprocess.run(["cp", "-a", next((warm[0] / "sdmw" / "kernels").iterdir()), place], check=True)
    monkeypatch.setattr(ready, "_loaded", set())
    monkeypatch.setattr(ready, "_here", False)
    monkeypatch.setattr(folder, "folder", lambda: str(place))
    monkeypatch.setattr(ready.os, "environ", environment(warm[0]))
    assert ready.state() == "kept"
    with monkeypatch.context() as other:
        other.setattr(processor, "description", lambda: ("another",))
        assert ready.state() == "missing"
    next(place.glob(f"{calls.ALWAYS}-*.zip")).unlink()
    assert ready.state() == "missing"
