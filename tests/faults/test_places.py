"""Places for an output that are no plain folder of a local disk: mounts, overlays, memory, FUSE, no locks, no fsync."""

import contextlib
import errno
import fcntl
import json
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sdmw
from command_line import told
from faults.disks import mounted, sh
from faults.test_memory_limits import limited, run
from faults.worlds import ALL, bits, command, finish, killed, needs_root, undisturbed, write_models
from sdmw.errors import InputChangedError, OutputError, PlanError

SDMW = [sys.executable, "-m", "sdmw"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    recipe = write_models(folder)
    return folder, recipe, undisturbed(recipe, folder)


@pytest.fixture
def recipe_file(world, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(world[1]))
    return path


def merge(recipe, out, **options):
    return sdmw.merge(recipe, out, progress=False, max_shard_size="6MB", **options)


@contextlib.contextmanager
def overlay(folder):
    """An overlay whose lower layer holds a folder `out`."""
    for name in ("lower/out", "upper", "work", "merged"):
        (folder / name).mkdir(parents=True)
    layers = ",".join(f"{name}dir={folder / name}" for name in ("lower", "upper", "work"))
    # redirect_dir=on could move it.
    options = f"redirect_dir=off,{layers}"
    if subprocess.run(
        ["mount", "-t", "overlay", "none", f"-o{options}", folder / "merged"], capture_output=True
    ).returncode:
        pytest.skip("no overlay can be mounted here")
    try:
        yield folder / "merged"
    finally:
        sh("umount", folder / "merged")


@needs_root
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_mount_point_is_no_target(world, tmp_path, overwrite):
    with mounted("tmpfs", 64 << 20, tmp_path / "out") as out:
        with pytest.raises(PlanError, match=r"it is a mount point\. Name a directory inside it") as caught:
            merge(world[1], out, overwrite=overwrite)
        assert "--overwrite" not in str(caught.value)
        assert os.listdir(tmp_path) == ["out"]
        merge(world[1], out / "merged")
        assert bits(out / "merged") == world[2]


@needs_root
def test_a_folder_of_a_lower_layer_is_no_target(world, tmp_path):
    with overlay(tmp_path) as folder:
        with pytest.raises(PlanError, match=r"lower layer of an overlay.*\. Remove it first"):
            merge(world[1], folder / "out", overwrite=True)
        assert os.listdir(folder) == ["out"]
        (folder / "out").rmdir()
        merge(world[1], folder / "out", overwrite=True)
        assert bits(folder / "out") == world[2]
        merge(world[1], folder / "out", overwrite=True)  # of the upper layer
        assert os.listdir(folder) == ["out"]


def sparse_model(folder, size):
    """A model that takes no disk."""
    entry = {"model.w": {"dtype": "F16", "shape": [size // 2], "data_offsets": [0, size]}}
    header = json.dumps(entry).encode()
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)


@needs_root
def test_memory_that_a_group_does_not_have_is_told_at_planning(tmp_path):
    for name in ("base", "corp"):
        sparse_model(tmp_path / name, 400_000_000)
    recipe = {"merge_method": "linear", "models": [{"model": str(tmp_path / n), "parameters": {"weight": 1}}
              for n in ("base", "corp")], "base_model": str(tmp_path / "base")}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    with mounted("tmpfs", 1 << 30, tmp_path / "memory") as memory, limited(450 << 20) as group:
        done = run([*SDMW, "merge", tmp_path / "recipe.yaml", memory / "out"], group)
        assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)  # and not -9
        assert "expected 400 MB of memory for the output, which tmpfs keeps in memory, and" in done.stderr
        assert "Write to a disk, or raise the memory limit" in done.stderr
        assert os.listdir(memory) == []


@needs_root
def test_memory_that_a_group_has_is_taken(world, tmp_path):
    _, recipe, expected = world
    with mounted("tmpfs", 64 << 20, tmp_path / "memory") as memory, limited(400 << 20) as group:
        done = run(command(recipe, memory / "out", pause=0), group)
        assert done.returncode == 0, done.stdout + done.stderr
        assert bits(memory / "out") == expected


def no_fsync_of_folders(monkeypatch, number, only=None):
    real = os.fsync

    def fsync(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode) and only in (None, str(Path(f"/proc/self/fd/{fd}").readlink())):
            raise OSError(number, os.strerror(number))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("only_parent", [False, True])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EPERM])
def test_folders_that_cannot_be_synced_are_one_warning(world, tmp_path, monkeypatch, number, only_parent):
    no_fsync_of_folders(monkeypatch, number, str(tmp_path) if only_parent else None)
    report = merge(world[1], tmp_path / "out")
    assert [each for each in report.warnings if "fsync" in each] == list(report.warnings)
    assert len(report.warnings) == 1
    assert sdmw.Report.load(tmp_path / "out").warnings == report.warnings
    assert str(tmp_path) not in report.warnings[0]
    assert bits(tmp_path / "out") == world[2]
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_cannot_be_synced_is_told_on_the_terminal(world, tmp_path, monkeypatch, capsys, recipe_file):
    no_fsync_of_folders(monkeypatch, errno.EINVAL)
    models = [world[1]["base_model"], world[1]["models"][0]["model"]]
    for arguments in (["merge", recipe_file], ["pack", *models]):
        done = told(capsys, monkeypatch, *arguments, tmp_path / "out", "--quiet", "--overwrite")
        assert done.code == 0
        assert done.err.startswith("warning: the file system of the output cannot sync folders")
        assert done.err.count("warning") == 1


@pytest.mark.parametrize("only_parent", [False, True])
def test_a_folder_that_the_disk_cannot_sync_is_an_error(world, tmp_path, monkeypatch, only_parent):
    no_fsync_of_folders(monkeypatch, errno.EIO, str(tmp_path) if only_parent else None)
    with pytest.raises(OutputError, match="Input/output error"):
        merge(world[1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_may_not_be_listed(world, tmp_path):
    """It cannot be opened for its fsync either, but by root."""
    if os.geteuid() == 0:
        pytest.skip("root may list every folder")
    (tmp_path / "drop").mkdir(0o300)
    report = merge(world[1], tmp_path / "drop" / "out")
    assert len(report.warnings) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM])
def test_a_place_without_locks_is_refused_and_left_clean(world, tmp_path, monkeypatch, number):
    def refused(fd, how):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", refused)
        with pytest.raises(
            OutputError, match=r"it cannot be locked: .*\. Write to a local disk, and move the result. Or enable locks"
        ):
            merge(world[1], tmp_path / "out")
    assert os.listdir(tmp_path) == []
    merge(world[1], tmp_path / "out")


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("error", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_what_a_killed_run_left_outlives_a_place_without_locks(world, error):
    folder, recipe, expected = world
    killed(command(recipe, folder / "out", pause=0.05), 0.5)
    traced = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=flock"]
    traced += ["-e", f"inject=flock:error={error}"]
    done = subprocess.run([*traced, *command(recipe, folder / "out", pause=0)], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "it cannot be locked" in done.stdout
    finish(command(recipe, folder / "out", pause=0), folder / "out", expected)
    shutil.rmtree(folder / "out")


@pytest.fixture
def fuse(tmp_path):
    """A folder behind FUSE."""
    if shutil.which("bindfs") is None or not os.path.exists("/dev/fuse"):
        pytest.skip("needs bindfs and /dev/fuse")
    for name in ("behind", "fuse"):
        (tmp_path / name).mkdir()
    done = subprocess.run(["bindfs", tmp_path / "behind", tmp_path / "fuse"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted: {done.stderr}")
    yield tmp_path / "fuse"
    subprocess.run(["umount", "-l", tmp_path / "fuse"], check=True)


def test_nothing_stays_on_fuse(world, fuse):
    merge(world[1], fuse / "out")
    assert bits(fuse / "out") == world[2]
    assert os.listdir(fuse) == ["out"]
    merge(world[1], fuse / "out", overwrite=True)
    assert os.listdir(fuse) == ["out"]


def test_an_error_is_told_and_nothing_stays_on_fuse(world, fuse, monkeypatch):
    def changed(_checkpoints):
        raise InputChangedError([sdmw.errors.Problem("x", "", "input changed")])

    monkeypatch.setattr("sdmw.running.context.check_unchanged", changed)
    with pytest.raises(InputChangedError):
        merge(world[1], fuse / "out")
    assert os.listdir(fuse) == []


def test_a_replaced_shard_that_is_still_open_is_a_warning(world, fuse):
    merge(world[1], fuse / "out")
    name = next(path.name for path in (fuse / "out").iterdir() if path.suffix == ".safetensors")
    with open(fuse / "out" / name, "rb") as reader:
        before = reader.read(100)
        for _ in range(2):  # what is left does not stand in the way of the next one
            report = merge(world[1], fuse / "out", overwrite=True)
            assert len(report.warnings) == 1
            assert f"the output is complete, but {fuse}/.out.sdmw cannot be removed" in report.warnings[0]
            assert bits(fuse / "out") == world[2]
        reader.seek(0)
        assert reader.read(100) == before
    report = merge(world[1], fuse / "out", overwrite=True)
    assert report.warnings == ()
    assert os.listdir(fuse) == ["out"]


class Shaky:
    """What a look at a file tells, with another inode each time."""

    def __init__(self, status):
        self._status, self.st_ino = status, random.getrandbits(60)

    def __getattr__(self, name):
        return getattr(self._status, name)


@pytest.fixture
def shaky(monkeypatch):
    """Every look at a file gives another inode: some FUSE, above all after it is mounted again."""
    for name in ("stat", "lstat", "fstat"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, **k: Shaky(real(*a, **k)))


def test_inodes_that_change_at_each_look(world, tmp_path, shaky):
    merge(world[1], tmp_path / "out")
    merge(world[1], tmp_path / "out", overwrite=True)
    assert bits(tmp_path / "out") == world[2]
    assert os.listdir(tmp_path) == ["out"]


def test_a_run_goes_on_where_inodes_are_others_now(world, tmp_path, monkeypatch, request):
    _, recipe, expected = world
    killed(command(recipe, tmp_path / "out", pause=0.05), 0.6)
    assert os.listdir(tmp_path) == [".out.sdmw"]
    request.getfixturevalue("shaky")
    merge(recipe, tmp_path / "out")
    assert bits(tmp_path / "out") == expected


def test_an_input_is_no_target_whatever_its_inode(world, shaky):
    base = world[1]["base_model"]
    with pytest.raises(PlanError, match="it is the input"):
        merge(world[1], base, overwrite=True)


def test_a_lock_that_is_never_the_same_ends(world, tmp_path, shaky, monkeypatch):
    """Not even by its content: it ends, and soon."""
    monkeypatch.setattr("sdmw.writing.work_directory.WorkDirectory._reads_back", lambda *_: False)
    with pytest.raises(OutputError, match="its lock file keeps changing"):
        merge(world[1], tmp_path / "out")


def takes_signals(pid):
    """Whether a process has come so far: Python itself needs the first tenths."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return int(caught, 16) >> signal.SIGTERM - 1 & 1


@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM"])
def test_signals_at_any_moment(world, recipe_file, tmp_path, signal_name):
    """One, or some within milliseconds: never a traceback, never another exit code; all is told or nothing."""
    signum = getattr(signal, signal_name)
    rng = random.Random(7)
    for _ in range(60 if ALL else 6):
        process = subprocess.Popen([*SDMW, "merge", recipe_file, tmp_path / "out"], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)  # fmt: skip
        while not takes_signals(process.pid):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2))
        for _ in range(rng.choice([1, 2, 2, 3])):
            process.send_signal(signum)
            time.sleep(rng.choice([0.001, 0.005, 0.02]))
        said = process.communicate(timeout=60)[1]
        assert process.returncode in (0, 128 + signum), said
        lines = said.splitlines()
        assert "Traceback" not in said
        assert lines[:1] in ([], [f"error: {signal_name}: stopped by this signal"])
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.rmtree(tmp_path / ".out.sdmw", ignore_errors=True)
