"""Machine code is kept where nobody else can write, never outlives its source, and never ends a run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sdmw
from faults.worlds import ALL
from sdmw.kernels import folder

PACKAGE = Path(sdmw.__file__).parent
PROBE = """
from sdmw.kernels.jit import kernel, widened

@kernel
def probe(words, out):
    out[0] = widened(words[0])
"""
PROGRAM = """
import sys
import numpy as np
from sdmw.kernels.probe import probe

out = np.zeros(1, np.float32)
probe(np.array([0x3F80], np.uint16), out)  # 1.0 in bfloat16
print(out[0], probe._cache.__class__.__name__, sum(probe.stats.cache_hits.values()))
"""
KEPT, LOADED, NOT_KEPT = ["1.0", "_Kept", "0"], ["1.0", "_Kept", "1"], ["1.0", "NullCache", "0"]


class World:
    """A copy of the kernels with one more, and a cache folder of its own."""

    def __init__(self, place):
        self.root = place / "cache"
        self.sources = place / "source" / "sdmw" / "kernels"
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(place / "source"), *filter(None, sys.path)]),
            "HOME": str(place),
            "XDG_CACHE_HOME": str(self.root),
            "TMPDIR": str(place / "tmp"),
        }
        (place / "tmp").mkdir(0o700)
        shutil.copytree(PACKAGE / "kernels", self.sources, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("__init__.py", "version.py"):
            shutil.copy(PACKAGE / name, self.sources.parent)
        (self.sources / "probe.py").write_text(PROBE)

    def run(self, before="", **environment):
        """The words that the probe prints, and the warnings."""
        done = subprocess.run(
            [sys.executable, "-c", before + PROGRAM], env={**self.environment, **environment}, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.split(), [line for line in done.stderr.splitlines() if "Warning: " in line]

    def files(self, suffix):
        return sorted(self.root.rglob(f"*{suffix}"))


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_an_edit_of_an_inlined_function_in_another_file_is_seen(world):
    assert world.run() == (KEPT, [])
    assert world.run() == (LOADED, [])
    jit = world.sources / "jit.py"
    text = jit.read_text()
    edited = text.replace(
        "np.uint32(word) << np.uint32(16))\n    return", "np.uint32(word) << np.uint32(17))\n    return"
    )
    assert edited != text
    jit.write_text(edited)
    assert world.run()[0][0] != "1.0"
    jit.write_text(text)
    assert world.run() == (LOADED, [])  # the older folder was left: another version may use it


def test_a_folder_of_our_own_is_private(world):
    world.run()
    made = [world.root, *(path for path in world.root.glob("sdmw/kernels/*")), world.root / "sdmw"]
    assert len(made) == 3
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700}


@pytest.mark.parametrize("level", [".", "sdmw", "sdmw/kernels", "sdmw/kernels/*"])
@pytest.mark.parametrize("fault", ["writable by all", "writable by a group", "a link", "another's", "a file"])
def test_code_is_not_loaded_from_where_another_user_could_put_it(world, monkeypatch, level, fault):
    if fault == "another's" and os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    monkeypatch.setattr(folder, "_warned", set())
    monkeypatch.setenv("XDG_CACHE_HOME", str(world.root))
    monkeypatch.setattr(folder.tempfile, "tempdir", world.environment["TMPDIR"])
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    find = folder.folder.__wrapped__
    first = Path(find())
    assert first.is_relative_to(world.root)
    (spoiled,) = world.root.glob(level) if level != "." else [world.root]
    if fault.startswith("writable"):
        spoiled.chmod(0o777 if fault.endswith("all") else 0o770)
    elif fault == "another's":
        os.chown(spoiled, 1, 1)
    else:
        spoiled.rename(world.root.parent / "moved")
        if fault == "a link":
            spoiled.symlink_to(world.root.parent / "moved")
        else:
            spoiled.touch()
    second = Path(find())
    if fault == "a link" and level == ".":  # the user's own, below which nobody else can write either
        assert second == first
        return
    assert second.is_relative_to(world.environment["TMPDIR"])
    assert first.name == second.name
    second.parent.parent.chmod(0o777)  # and now there too
    with pytest.warns(folder.CacheWarning, match="only this user can write to"):
        assert find() is None


@pytest.fixture
def find(tmp_path, monkeypatch):
    """How a process whose home is `home` chooses its folder; temporary files go to `tmp`."""
    (tmp_path / "home").mkdir(0o700)
    (tmp_path / "tmp").mkdir(0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(folder.tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    return lambda: Path(folder.folder.__wrapped__()).relative_to(tmp_path).parts


def test_a_home_without_a_cache_gets_one(find):
    assert find()[:4] == ("home", ".cache", "sdmw", "kernels")


def test_a_relative_cache_home_is_ignored(find, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert find()[:2] == ("home", ".cache")
    assert not Path("here").exists()


def test_a_user_without_a_home_leaves_no_folder_named_by_a_tilde(find, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert find()[0] == "tmp"
    assert not Path("~").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_root_leaves_nothing_in_the_home_of_a_user(find):
    os.chown("home", 1, 1)
    assert find()[0] == "tmp"
    assert os.listdir("home") == []


def test_numbas_own_setting_is_followed(find, monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "chosen"))
    assert find()[0] == "chosen"


def test_a_shared_folder_of_temporary_files_is_taken_where_nobody_can_rename_what_is_ours(world):
    shared = Path(world.environment["TMPDIR"])
    shared.chmod(0o1777)
    assert world.run(XDG_CACHE_HOME="/proc") == (KEPT, [])
    assert list(shared.glob("sdmw-*/kernels/*"))
    shared.chmod(0o777)
    words, warnings = world.run(XDG_CACHE_HOME="/proc")
    assert (words, len(warnings)) == (NOT_KEPT, 1)


def test_no_temporary_files_are_needed_where_the_users_cache_is_good(world):
    no_place = "import tempfile\ndef none(): raise FileNotFoundError('no usable temporary directory')\n"
    assert world.run(no_place + "tempfile.gettempdir = none\n") == (KEPT, [])
    words, warnings = world.run(no_place + "tempfile.gettempdir = none\n", XDG_CACHE_HOME="/proc")
    assert (words, len(warnings)) == (NOT_KEPT, 1)


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "a directory"] if ALL else ["cut"])
def test_a_damaged_cache_is_a_warning_and_is_mended(world, suffix, damage):
    world.run()
    (path,) = world.files(suffix)
    content = path.read_bytes()
    if damage == "a directory":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "noise": os.urandom(500)}[damage])
    words, warnings = world.run()
    assert (words, len(warnings)) == (KEPT, 1)
    assert str(world.root) in warnings[0]
    if damage == "a directory":  # code that cannot be opened is compiled anew, and then cannot be kept
        assert "as kept there is damaged (" in warnings[0] or "IsADirectoryError" in warnings[0]
        assert world.run()[0] == KEPT
    else:
        assert "as kept there is damaged (" in warnings[0]
        assert world.run() == (LOADED, [])


def test_a_full_disk_is_a_warning(world):
    full = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    words, warnings = world.run(full + "import sys; sys.dont_write_bytecode = True\n")
    assert (words, len(warnings)) == (KEPT, 1)


def test_the_command_line_says_it_in_one_line(world, tmp_path):
    code = (
        "import sdmw.cli, sdmw.api\nfrom sdmw.kernels import folder\n"
        "sdmw.api.inspect = lambda *_, **__: [folder.warn('a'), folder.warn('b')] and exit()\n"
        "sdmw.cli.main()"
    )
    environment = {**world.environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", "x"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: the cache of compiled kernels cannot be used")
    assert line.endswith(": a")
