"""Disks that are full, that pretend to be larger than they are, and limits of a user's files."""

import os
import shutil
import subprocess

import pytest

from faults.disks import mounted
from faults.worlds import bits, command, finish, killed, needs_root, undisturbed, write_models


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disks")
    recipe = write_models(folder)
    return folder, recipe, undisturbed(recipe, folder)


@needs_root
def test_a_disk_that_is_too_small_is_told_before_anything_is_read(world, tmp_path):
    _, recipe, _ = world
    with mounted("tmpfs", 4 << 20, tmp_path / "small") as disk:
        done = subprocess.run(command(recipe, disk / "out"), capture_output=True, text=True)
        assert done.returncode == 1
        assert "of free disk, found" in done.stdout
        assert os.listdir(disk) == []


@needs_root
def test_a_disk_that_fills_up_while_it_is_reserved_has_nothing_taken(world, tmp_path, monkeypatch):
    """Room that is there when it is planned, and is not when it is reserved."""
    import sdmw
    from sdmw.errors import OutputError
    from sdmw.planning import build

    _, recipe, _ = world
    with mounted("tmpfs", 4 << 20, tmp_path / "small") as disk:
        monkeypatch.setattr(build, "check_target", lambda *_: [])
        with pytest.raises(OutputError, match=r"the disk is full, .* more are needed"):
            sdmw.merge(recipe, disk / "out", progress=False)
        assert os.listdir(disk) == []


@needs_root
@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs mkfs.ext4")
def test_a_thin_disk_is_never_published_on(world, tmp_path):
    """An image that promises 64 MB on a tmpfs of 12: writes fail where the kernel says so, at the latest in fsync."""
    _, recipe, _ = world
    with (
        mounted("tmpfs", 6 << 20, tmp_path / "thin") as thin,
        mounted("ext4", 64 << 20, tmp_path / "disk", image=thin / "image") as disk,
    ):
        done = subprocess.run(command(recipe, disk / "out", pause=0), capture_output=True, text=True)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "refused" in done.stdout
        assert "Traceback" not in done.stderr
        assert not os.path.lexists(disk / "out")


def test_a_limit_of_file_sizes_is_told_apart(world):
    folder, recipe, expected = world
    limited = ["prlimit", f"--fsize={2 << 20}", *command(recipe, folder / "out")]
    done = subprocess.run(limited, capture_output=True, text=True)
    assert done.returncode == 1
    assert "`ulimit -f` (2.10 MB) allows" in done.stdout
    assert not os.path.lexists(folder / ".out.sdmw")
    finish(command(recipe, folder / "out"), folder / "out", expected)
    shutil.rmtree(folder / "out")


def test_ten_runs_at_once_into_one_output(world):
    folder, recipe, expected = world
    arguments = command(recipe, folder / "out", pause=0.2)
    runs = [subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(10)]
    said = [run.communicate()[0] for run in runs]
    codes = sorted(run.returncode for run in runs)
    assert codes == [0] + [1] * 9, said
    # Who came when the first was done finds its output.
    refused = [each for each in said if "another run (pid" in each or "it exists" in each]
    assert len(refused) == 9, said
    assert bits(folder / "out") == expected
    shutil.rmtree(folder / "out")


def test_a_kept_run_is_gone_on_with_under_another_limit_of_memory(world):
    folder, recipe, expected = world
    killed(command(recipe, folder / "out", pause=0.05), 0.5)
    finish(command(recipe, folder / "out", pause=0), folder / "out", expected)
    shutil.rmtree(folder / "out")
