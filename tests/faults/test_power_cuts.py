"""Power cuts: a disk's image is copied in an instant (FICLONE) while a merge runs on it, and the copy is looked at.

SIGKILL cannot find a missing fsync, since the page cache survives it. The image lies on btrfs, which copies it
atomically and at once; what the kernel had not written to the image is not in the copy, as after a power cut.
"""

import shutil
import subprocess
import time

import pytest

from faults.disks import mounted, sh
from faults.worlds import ALL, command, finish, moments, needs_root, undisturbed, whole_or_absent, write_models

CUTS, AT_PUBLISHING = (20, 10) if ALL else (1, 1)

pytestmark = [
    needs_root,
    pytest.mark.skipif(shutil.which("mkfs.btrfs") is None, reason="needs mkfs.btrfs (btrfs-progs)"),
    pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs mkfs.ext4"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuts")
    recipe = write_models(folder)
    expected = undisturbed(recipe, folder)
    with mounted("btrfs", 2 << 30, folder / "btrfs", image=folder / "btrfs-image") as host:
        yield folder, host, recipe, expected


def cut(world, moment, *, at_publishing=False, synced=True):
    """Run a merge on a disk, cut the power at a moment, and say what the disk then has: whole, or absent."""
    folder, host, recipe, expected = world
    image, copy = host / "image", host / "copy"
    for each in (image, copy):
        each.unlink(missing_ok=True)
    # The journal of ext4 is written every second, so that names reach the disk well before data that nobody synced.
    with mounted("ext4", 256 << 20, folder / "disk", image=image, options="commit=1") as disk:
        arguments = command(recipe, disk / "out", pause=0 if at_publishing else 0.02, synced=synced)
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "working\n"
            if at_publishing:
                process.wait()
            time.sleep(moment)
            sh("cp", "--reflink=always", image, copy)
            process.kill()
    with mounted("ext4", 0, folder / "disk", image=copy) as disk:
        whole = whole_or_absent(disk / "out", expected)
        if not whole:
            finish(command(recipe, disk / "out", pause=0), disk / "out", expected)
    return whole


def is_whole(world):
    """Whether a run of the mutant left a whole output; a broken one that looks whole is an AssertionError."""
    try:
        return cut(world, 2.5, at_publishing=True, synced=False)
    except AssertionError:
        return False


def test_cut_anywhere_it_goes_on(world):
    for moment in moments(CUTS, 1.5):
        cut(world, moment)


def test_cut_after_publishing_it_is_whole(world):
    """Published means durable: from the moment that the command has ended."""
    for moment in moments(AT_PUBLISHING, 0.3 if ALL else 0.0):
        assert cut(world, moment, at_publishing=True)


def test_an_engine_that_does_not_sync_is_caught(world):
    """The tests above must be able to fail: with fsync taken out, names are on the disk and data are not."""
    assert not all(is_whole(world) for _ in range(3))
