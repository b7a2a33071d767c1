"""Calls that only help and that a sandbox, an old kernel or a file system refuses: the same bits without them."""

import os
import shutil
import subprocess

import pytest

from faults.worlds import ALL, bits, command, undisturbed, write_models

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

HINTS = ("fadvise64", "fallocate", "sync_file_range", "madvise", "mremap", "renameat2", "statfs", "preadv2",
         "fstatfs", "rt_sigaction")  # fmt: skip
ERRORS = ("ENOSYS", "EPERM", "EINVAL", "EOPNOTSUPP", "ENOMEM", "EAGAIN", "EACCES", "EINTR")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hints")
    recipe = write_models(folder)
    return folder, recipe, undisturbed(recipe, folder)


def refused(world, error, hints):
    """A merge in which every call of these hints ends so."""
    folder, recipe, expected = world
    names = ",".join(hints)
    traced = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", f"trace={names}"]
    traced += ["-e", f"inject={names}:error={error}"]
    done = subprocess.run(
        [*traced, *command(recipe, folder / "out", pause=0)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (hints, error, done.stdout + done.stderr)
    assert "Traceback" not in done.stderr
    assert bits(folder / "out") == expected
    shutil.rmtree(folder / "out")
    assert not os.path.lexists(folder / ".out.sdmw")


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_without_any_hint_the_bits_are_the_same(world, error):
    refused(world, error, HINTS)


@pytest.mark.skipif(not ALL, reason="all hints and errors: scripts/faults")
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("hint", HINTS)
def test_each_hint_may_be_refused(world, hint, error):
    refused(world, error, [hint])
