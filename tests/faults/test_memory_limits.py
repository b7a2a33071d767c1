"""Control groups with little memory: it completes within, or is refused with the number it needs; never killed."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from faults.worlds import bits, command, needs_root, undisturbed, write_models

GROUPS = Path("/sys/fs/cgroup")
MB = 1_000_000


@contextlib.contextmanager
def limited(size):
    """A fresh memory control group of so many bytes, in version 1 or 2."""
    first = GROUPS / "memory" if (GROUPS / "memory").is_dir() else GROUPS
    group = first / f"sdmw-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if first.name == "memory" else "memory.max")).write_text(str(size))
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error}")
    try:
        yield group
    finally:
        group.rmdir()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("limits")
    recipe = write_models(folder)
    return folder, recipe, undisturbed(recipe, folder)


def run(arguments, group):
    def enter():
        (group / "cgroup.procs").write_text(str(os.getpid()))

    return subprocess.run(arguments, capture_output=True, text=True, preexec_fn=enter)


@needs_root
@pytest.mark.parametrize("size", [100 * MB, 160 * MB, 512 * MB])
def test_it_completes_or_is_refused_with_what_it_needs(world, size):
    folder, recipe, expected = world
    with limited(size) as group:
        done = run(command(recipe, folder / "out", pause=0), group)
    if size > 500 * MB:
        assert done.returncode == 0, done.stdout + done.stderr
    if done.returncode == 0:
        assert bits(folder / "out") == expected
        shutil.rmtree(folder / "out")
        return
    assert done.returncode == 1, done.stdout + done.stderr  # and not -9
    assert "of memory, found" in done.stdout
    assert "Set the budget to" in done.stdout
    assert not os.path.lexists(folder / "out")
    assert not os.path.lexists(folder / ".out.sdmw")
