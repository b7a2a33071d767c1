"""Limits of control groups, read from folders as the kernel lays them out."""

import os
from pathlib import Path

import psutil
import pytest

from sdmw.planning import memory

INSIDE = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]


def of_kernel(version):
    """The path of this process's group in a version, or a skip where there is none."""
    for _, controllers, path in INSIDE:
        if (controllers == "") if version == 2 else ("memory" in controllers.split(",")):
            return os.path.normpath(path.lstrip("/") or ".")
    pytest.skip(f"this process is in no memory control group of version {version}")
    return None


@pytest.fixture
def groups(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    return tmp_path


def limited(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_without_limits_it_is_the_machine_s(groups):
    assert memory.available() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_a_limit_of_version_2(groups):
    own = groups / of_kernel(2)
    limited(own, memory__max="max", memory__high="max", memory__current=70)
    assert memory.available() > 2**20
    limited(own, memory__max=100)
    assert memory.available() == 30
    limited(own, memory__high=90)
    assert memory.available() == 20
    limited(own, memory__stat="anon 5\nfile 66\ninactive_file 7")
    assert memory.available() == 27
    limited(own, memory__current=1000)
    assert memory.available() == 0


def test_a_limit_of_version_1(groups):
    own = groups / "memory" / of_kernel(1)
    limited(own, memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=70)
    assert memory.available() > 2**20
    limited(own, memory__limit_in_bytes=100, memory__stat="inactive_file 3\ntotal_inactive_file 5")
    assert memory.available() == 35


def test_the_ancestors_limits_hold_too(groups):
    """Those of the root of the hierarchy as we see it: in a container it is the container's own group."""
    version = 2 if any(controllers == "" for _, controllers, _ in INSIDE) else 1
    of_kernel(version)
    if version == 2:
        limited(groups, memory__max=100, memory__current=60)
    else:
        limited(groups / "memory", memory__limit_in_bytes=100, memory__usage_in_bytes=60)
    assert memory.available() == 40


def test_what_is_no_number_is_no_limit(groups):
    own = groups / of_kernel(2)
    limited(own, memory__max="-1", memory__current="x", memory__stat="broken")
    assert memory.available() > 2**20


def test_resident_is_what_the_kernel_says():
    assert memory.resident() == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)


@pytest.mark.parametrize("growth", [0, 300])
def test_an_output_in_memory_must_fit_there_with_the_run(tmp_path, monkeypatch, growth):
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    target = str(tmp_path / "out")
    assert memory.check_output(target, 10**9, growth) == []  # on a disk
    monkeypatch.setattr(memory, "memory_file_system", lambda _: "tmpfs")
    assert memory.check_output(target, 9_500, growth) == []
    (problem,) = memory.check_output(target, 10_001 - growth, growth)
    assert "of memory for the output, which tmpfs keeps in memory" in problem.expected
    assert ("for the run" in problem.expected) == (growth > 0)
    assert problem.found == "10.0 KB"
    left = tmp_path / ".out.sdmw" / "out"  # what a killed run wrote is taken already
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(bytes(8192))
    assert memory.check_output(target, 10_001, growth) == []
