"""Single system calls that fail, or kill the process, injected by strace: the n-th of each kind."""

import shutil
import subprocess

import pytest

from faults.worlds import ALL, bits, command, finish, undisturbed, whole_or_absent, write_models

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calls")
    recipe = write_models(folder)
    return folder, recipe, undisturbed(recipe, folder)


def calls(world, name):
    """How often an undisturbed run makes a call."""
    folder, recipe, expected = world
    out, log = folder / "out", folder / "log"
    traced = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", str(log), "-e", f"trace={name}"]
    subprocess.run([*traced, *command(recipe, out, pause=0)], check=True, capture_output=True)
    assert bits(out) == expected
    shutil.rmtree(out)
    return sum(f"{name}(" in line for line in log.read_text().splitlines())


def some(count):
    """The first, the last, and what lies between as there is time."""
    return range(1, count + 1) if ALL else sorted({1, count // 2 + 1, count})


def injected(world, name, how, when):
    """A run with one injected fault: its exit code and what it said."""
    folder, recipe, _ = world
    traced = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", f"trace={name}"]
    traced += ["-e", f"inject={name}:{how}:when={when}"]
    done = subprocess.run([*traced, *command(recipe, folder / "out", pause=0)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def goes_on(world, whole):
    """Whatever happened: absent or whole, and the next run gives the right bits."""
    folder, recipe, expected = world
    if whole_or_absent(folder / "out", expected):
        assert whole
        shutil.rmtree(folder / "out")
        shutil.rmtree(folder / ".out.sdmw", ignore_errors=True)  # ended between publishing and clearing up
        return
    finish(command(recipe, folder / "out", pause=0), folder / "out", expected)
    shutil.rmtree(folder / "out")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("pwrite64", "ENOSPC"),
        ("fdatasync", "EIO"),
        ("renameat2", "EIO"),
        *([("pwrite64", "EDQUOT"), ("pwrite64", "EIO"), ("fsync", "EIO"), ("fallocate", "ENOSPC")] if ALL else []),
    ],
)
def test_the_nth_call_fails(world, name, error):
    """Told in words, never published, and gone on with once the fault is gone."""
    for when in some(calls(world, name)):
        code, said = injected(world, name, f"error={error}", when)
        assert (code, "Traceback" in said) == (1, False) or code == 0, (name, when, said)
        if code:
            assert said.startswith(("working\nrefused", "refused")), said
        goes_on(world, whole=name == "fsync" or not code)


@pytest.mark.parametrize("name", ["fsync", "fdatasync", "renameat2", "unlink", "rmdir"])
def test_killed_at_the_nth_call(world, name):
    for when in some(calls(world, name)):
        injected(world, name, "signal=SIGKILL", when)
        goes_on(world, whole=True)


def test_inputs_that_cannot_be_read_are_named(world):
    """EIO where tiles are mapped, and where one is then read: the file, the tensor and the byte."""
    folder, recipe, _ = world
    traced = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=mremap,preadv2"]
    traced += ["-e", "inject=mremap:error=EIO", "-e", "inject=preadv2:error=EIO:when=20"]
    done = subprocess.run([*traced, *command(recipe, folder / "out", pause=0)], capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert (done.returncode, "Traceback" in said) == (1, False), said
    assert "model.safetensors: tensor 'model.layers." in said
    assert "read error at byte" in said
    goes_on(world, whole=False)
