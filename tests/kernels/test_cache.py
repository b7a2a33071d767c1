"""Machine code is kept where nobody else can write, never outlives its source, and never ends a run."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from faults.worlds import ALL
from kernels.copied import KEPT, LOADED, NOT_KEPT, World
from sdmw.kernels import folder


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_an_edit_of_an_inlined_function_in_another_file_is_seen(world):
    assert world.run() == (KEPT, [])
    assert world.run() == (LOADED, [])
    compiler = world.sources / "compiler.py"
    text = compiler.read_text()
    edited = text.replace(
        "np.uint32(word) << np.uint32(16))\n    return", "np.uint32(word) << np.uint32(17))\n    return"
    )
    assert edited != text
    compiler.write_text(edited)
    assert world.run()[0][0] != "1.0"
    compiler.write_text(text)
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


DAMAGE = ["cut", "another's entries", *(["empty", "noise", "a bit"] if ALL else [])]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_made_again(world, damage):
    world.run()
    path = world.kept()
    content = bytearray(path.read_bytes())
    if damage == "another's entries":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("entries.json", '[{"unknown": 1}]')
    else:
        flipped = content.copy()
        flipped[len(content) // 2] ^= 4
        damaged = {"empty": b"", "cut": content[: len(content) // 2], "noise": os.urandom(500), "a bit": flipped}
        path.write_bytes(damaged[damage])
    words, warnings = world.run()
    assert (words[0], words[-1], warnings) == ("1.0", "linked", [])
    assert world.run() == (LOADED, [])


def test_a_directory_in_the_place_of_a_file_is_a_warning(world):
    world.run()
    path = world.kept()
    path.unlink()
    path.mkdir()
    words, (warning,) = world.run()
    assert (words, str(path) in warning) == (["1.0", "True", "here"], True)


def test_what_another_library_would_have_to_define_is_not_called(world):
    """A symbol that nothing defines: LLVM would put zero in its place."""
    world.run()
    path = world.kept()
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    entries = json.loads(found["entries.json"])
    entries[0]["needs"].append("nobody_has_this")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**found, "entries.json": json.dumps(entries)}.items():
            archive.writestr(name, content)
    words, (warning,) = world.run()
    assert words == ["1.0", "here"]
    assert "no nobody_has_this" in warning


def test_a_full_disk_is_a_warning(world):
    full = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    words, warnings = world.run(full + "import sys; sys.dont_write_bytecode = True\n")
    assert (words, len(warnings)) == (["1.0", "True", "here"], 1)


@pytest.mark.parametrize("before", ["", "import numba\n"], ids=["first", "after Numba"])
def test_numba_works_in_the_same_process(world, before):
    """Whichever comes first: both have one runtime for memory."""
    world.run()
    after = (
        "import numba\n"
        "@numba.njit\ndef both(n):\n    return np.arange(n).sum() + np.sin(1.0)\n"
        "assert both(5) == 10 + np.sin(1.0)\n"
        "probe(np.array([0x4000], np.uint16), out)\nassert out[0] == 2\n"
    )
    world.run(before, after)


def test_a_kernel_takes_what_it_was_compiled_for_alone(world):
    world.run()
    refused = (
        "import pytest\n"
        "for words in (np.zeros(1, np.int16), np.zeros((1, 1), np.uint16), np.zeros(4, np.uint16)[::2]):\n"
        "    with pytest.raises(TypeError, match='probe takes uint16: as argument 0'): probe(words, out)\n"
        "with pytest.raises(TypeError, match='takes 2 arguments, not 1'): probe(out)\n"
    )
    assert world.run("", refused) == (LOADED, [])


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
