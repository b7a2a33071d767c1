import errno
import os
import shutil
import stat
import subprocess

import pytest

from sdmw.writing import target as target_module
from sdmw.writing.target import check_target, replaced


def said(target, inputs=(), size=1, overwrite=False):
    return [str(problem) for problem in check_target(str(target), [str(i) for i in inputs], size, overwrite)]


@pytest.fixture
def base(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "adapter.safetensors").write_text("x")
    return base


@pytest.mark.parametrize("name", ["out", "out/", ".out", "a b", "-x", "é\n", "base2"])
def test_a_free_name_is_fine(tmp_path, base, name):
    assert said(f"{tmp_path}/{name}", [base]) == []
    assert said(f"{tmp_path}/{name}", [base], overwrite=True) == []


def test_a_relative_name_is_fine(tmp_path, base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said("out", ["base"]) == []
    assert said("base/../out", ["base"]) == []


@pytest.mark.parametrize("target", ["", ".", "..", "/", "//", "a/..", "a/.", "./", "a\0b", "a\0/b"])
def test_a_target_has_a_name(target):
    assert len(said(target)) == 1
    assert said(target)[0].startswith("output: expected a name for a new directory")


@pytest.mark.parametrize(
    ("make", "found", "overwritten"),
    [
        (lambda p: p.mkdir(), "it exists. Choose another name, or overwrite it", None),
        (lambda p: p.write_text(""), "it exists and is not a directory", "it exists and is not a directory"),
        (os.mkfifo, "it exists and is not a directory", "it exists and is not a directory"),
        (lambda p: p.symlink_to("nowhere"), "it is a symbolic link", "it is a symbolic link"),
        (lambda p: p.symlink_to("base"), "it is a symbolic link", "it is a symbolic link"),
    ],
)
def test_what_stands_there_already(tmp_path, base, make, found, overwritten):
    make(tmp_path / "out")
    assert found in said(tmp_path / "out")[0]
    assert found in said(f"{tmp_path}/out/")[0]
    with_overwrite = said(tmp_path / "out", overwrite=True)
    assert (overwritten in with_overwrite[0]) if overwritten else with_overwrite == []


@pytest.mark.parametrize("files", [
    [], ["config.json", "model.safetensors"], ["sdmw_report.json", "adapter_config.json"], ["zarr.json", "deltas/c"],
])  # fmt: skip
def test_models_and_what_sdmw_made_may_be_overwritten(tmp_path, files):
    fill(tmp_path / "out", files)
    assert said(tmp_path / "out", overwrite=True) == []


@pytest.mark.parametrize(
    ("files", "lost"),
    [
        (["notes.txt"], "'notes.txt'"),
        (["my/a", "my/b"], "'my/'"),
        (["1_Pooling/config.json", "1_Pooling/mine.txt"], "'1_Pooling/mine.txt'"),
        (["model-1.safetensors", "checkpoint-500/model.safetensors", "z", "y"],
         "'checkpoint-500/', 'model-1.safetensors', 'y' and 1 more"),
    ],
)  # fmt: skip
def test_what_an_overwriting_merge_would_not_write_is_named(tmp_path, files, lost):
    written = {"vocab.json", "1_Pooling/config.json"}
    of_a_merge = ["config.json", "README.md", "sdmw_report.json", "sdmw_recipe.yaml", "vocab.json", "model.safetensors",
                  "model-00001-of-00002.safetensors", "model.safetensors.index.json", "1_Pooling/config.json",
                  "adapter_config.json", "adapter_model.safetensors"]  # fmt: skip
    fill(tmp_path / "out", of_a_merge)
    assert list(replaced(f"{tmp_path}/out", written)) == []
    fill(tmp_path / "out", files)
    (said,) = replaced(f"{tmp_path}/out/", written)
    assert said.endswith(f"/out/: it is overwritten, and these files in it are lost: {lost}")


def test_a_folder_that_is_written_as_a_whole_is_not_lost(tmp_path):
    fill(tmp_path / "out", ["zarr.json", "gaps/zarr.json", "gaps/c/0", "mine/x"])
    (said,) = replaced(f"{tmp_path}/out", {"zarr.json", "gaps/"})
    assert said.endswith("are lost: 'mine/'")


@pytest.mark.parametrize("make", [lambda _: None, lambda p: p.write_text(""), lambda p: p.symlink_to("base")])
def test_where_no_directory_is_replaced_nothing_is_said(tmp_path, base, make):
    make(tmp_path / "out")
    assert list(replaced(f"{tmp_path}/out", ())) == []


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["notes.txt"], "it holds 'notes.txt', and is not a model or a result of sdmw"),
        (["adapter_config.json", "adapter_model.safetensors"], "it holds 'adapter_config.json' and 1 more"),
        (["config.json", "thesis.tex"], "it holds 'config.json' and 1 more"),
        (["base/model.safetensors", "base/config.json"], "it holds 'base'"),
    ],
)
def test_what_nobody_would_want_overwritten_is_not(tmp_path, files, found):
    fill(tmp_path / "out", files)
    assert found in said(tmp_path / "out", overwrite=True)[0]


def fill(folder, files):
    folder.mkdir(exist_ok=True)
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")


def test_the_target_and_the_inputs_are_apart(tmp_path, base):
    (tmp_path / "alias").symlink_to("base")
    (tmp_path / "around" / "deep" / "model").mkdir(parents=True)
    is_input = f"it is the input {base}"
    assert is_input in said(base, [base], overwrite=True)[0]
    assert "it exists" in said(base, [base])[0]
    assert is_input in said(base, [base])[1]
    assert f"it is the input {tmp_path}/alias" in said(base, [tmp_path / "alias"], overwrite=True)[0]
    assert f"it is inside the input {base}" in said(base / "out", [base])[0]
    assert f"it is inside the input {base}" in said(tmp_path / "alias" / "out", [base])[0]
    inner = tmp_path / "around" / "deep" / "model"
    assert f"it contains the input {inner}" in said(tmp_path / "around", [inner], overwrite=True)[0]
    assert "it contains the input" in said(base, [base / "adapter.safetensors"], overwrite=True)[0]
    assert "it is the input" in said(base / "adapter.safetensors", [base / "adapter.safetensors"])[1]
    assert said(tmp_path / "out", [base, inner, tmp_path / "missing"]) == []


def test_a_second_mount_of_an_input_is_that_input(tmp_path, base):
    other = tmp_path / "other"
    other.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "--bind", base, other], capture_output=True, check=False).returncode
    ):
        pytest.skip("only root can mount")
    try:
        assert "it is inside the input" in said(other / "out", [base])[0]
        assert "it is the input" in said(other, [base], overwrite=True)[0]
        subprocess.run(["mount", "-o", "remount,bind,ro", other], check=True)
        assert f"the file system of {other} is read-only" in said(other / "out")[0]
    finally:
        subprocess.run(["umount", "-l", other], check=True)


def test_directories_above_it_are_made(tmp_path):
    assert said(tmp_path / "a" / "b" / "out") == []
    assert os.listdir(tmp_path) == []


def test_a_name_above_it_that_is_too_long(tmp_path):
    assert "found a name that is too long" in said(tmp_path / ("a" * 256) / "out")[0]


def test_a_file_above_it(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nothing")
    for parent in ("file", "file/a"):
        expected = (
            f"expected a directory to create it in, found {tmp_path}/file is not a directory. Choose another name"
        )
        assert said(tmp_path / parent / "out") == [f"{tmp_path}/{parent}/out: {expected}"]
    assert said(tmp_path / "link" / "out") == []  # it is made where the link leads


@pytest.mark.parametrize(
    ("number", "found"),
    [
        (errno.EACCES, "no permission to write in {}"),
        (errno.EPERM, "no permission to write in {}"),
        (errno.EROFS, "the file system of {} is read-only"),
        (errno.EDQUOT, "no directory can be made in {}: Disk quota exceeded"),
    ],
)
def test_a_parent_that_cannot_be_written_to(tmp_path, monkeypatch, number, found):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", refused)  # root may write everywhere
    expected = f"{tmp_path}/out: expected a place that can be written to, found {found.format(tmp_path)}"
    assert said(tmp_path / "out") == [f"{expected}. Choose another folder"]


@pytest.mark.parametrize(
    ("number", "found"),
    [
        (errno.EBUSY, "it is a mount point. Name a directory inside it"),
        (errno.EXDEV, "lower layer of an overlay, or under another quota. Remove it first, or choose another name"),
        (errno.EPERM, "Operation not permitted. Choose another name"),
    ],
)
def test_a_directory_that_cannot_be_replaced(tmp_path, monkeypatch, number, found):
    rename = os.rename

    def refused(old, new):
        if old == str(tmp_path / "out"):
            raise OSError(number, os.strerror(number))
        rename(old, new)

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "rename", refused)
    for overwrite in (True, False):
        (problem,) = said(tmp_path / "out", overwrite=overwrite)
        assert problem.startswith(f"{tmp_path}/out: it cannot be replaced: ")
        assert found in problem
    assert os.listdir(tmp_path) == ["out"]


def test_directories_that_cannot_be_renamed(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "rename", refused)
    (problem,) = said(tmp_path / "out")
    assert f"no directory can be renamed in {tmp_path}: Function not implemented. Write to another" in problem
    assert os.listdir(tmp_path) == []


def test_trying_moves_nothing_even_where_what_is_not_empty_is_replaced(tmp_path, monkeypatch):
    rename = os.rename

    def replacing(old, new):
        if os.path.isdir(new):
            shutil.rmtree(new)
        rename(old, new)

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sdmw_report.json").write_text("old")
    monkeypatch.setattr(os, "rename", replacing)
    assert said(tmp_path / "out", overwrite=True) == []
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "sdmw_report.json").read_text() == "old"


def test_an_input_is_not_written_to_not_even_to_try(tmp_path, base, monkeypatch):
    monkeypatch.setattr(target_module, "try_place", None)
    assert "it is inside the input" in said(base / "out", [base])[0]


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_system_that_does_not_tell_its_room(tmp_path, monkeypatch, overwrite):
    real = os.statvfs(tmp_path)
    untold = os.statvfs_result([*real[:2], 0, 0, 0, *real[5:]])
    monkeypatch.setattr(os, "statvfs", lambda _: untold)
    assert said(tmp_path / "out", size=2**62, overwrite=overwrite) == []

    def refused(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "statvfs", refused)
    monkeypatch.setattr(os, "pathconf", refused)
    assert said(tmp_path / "out", size=2**62, overwrite=overwrite) == []


def test_files_of_hugetlbfs_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(target_module, "memory_file_system", lambda _: "hugetlbfs")
    assert "hugetlbfs, whose files cannot be written" in said(tmp_path / "out")[0]


def test_an_input_is_known_by_its_path_where_inodes_change(tmp_path, base, monkeypatch):
    real = os.stat
    looks = iter(range(10**6))

    def shaky(path, **names):
        found = list(real(path, **names))
        found[stat.ST_INO] = next(looks)
        return os.stat_result(found)

    monkeypatch.setattr(os, "stat", shaky)
    assert f"it is the input {base}" in said(base, [base], overwrite=True)[0]
    assert f"it is inside the input {base}" in said(base / "out", [base])[0]


def test_too_little_disk(tmp_path):
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    (found,) = said(tmp_path / "out", size=10 * free)
    assert "of free disk, found" in found
    assert f"in {tmp_path}" in found


def test_what_a_killed_run_left_counts_as_free(tmp_path, monkeypatch):
    left = tmp_path / ".out.sdmw" / "out"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(bytes(2**20))
    monkeypatch.setattr(target_module, "free", lambda folder: 2**20)
    assert said(tmp_path / "out", size=2 * 2**20) == []
    assert said(tmp_path / "out", size=2 * 2**20 + 1) != []


def test_a_name_that_leaves_no_room_for_the_work_directory(tmp_path):
    assert said(tmp_path / ("x" * 249)) == []
    assert "a name that is too long" in said(tmp_path / ("x" * 250))[0]
    assert "a name that is too long" in said(tmp_path / ("é" * 125))[0]


def test_all_problems_are_told_at_once(tmp_path, base):
    (tmp_path / "base" / "out").mkdir()
    assert len(said(base / "out", [base], size=2**62)) == 3
