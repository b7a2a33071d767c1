import os
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints.formats.handmade import INDEX, SINGLE, checkpoint, entry, shard
from sdmw.checkpoints.formats import read
from sdmw.errors import CheckpointError
from sdmw.storage import files
from sdmw.storage.access import Access
from sdmw.storage.links import follow

ONE = shard({"t": entry()}, b"1234")


def problems(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(str(path))
    return str(caught.value)


def hub_cache(tmp_path):
    """A snapshot as huggingface_hub lays it out: files are links into the blobs of the model."""
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, (name, content) in enumerate({SINGLE: ONE, "config.json": b"{}"}.items()):
        (repository / "blobs" / f"b{number}").write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/b{number}")
    return snapshot


def test_a_snapshot_of_the_hub_cache_links_into_its_blobs(tmp_path):
    found = read(str(hub_cache(tmp_path)))
    assert list(found.tensors) == ["t"]
    assert found.shards[0].path.endswith(f"snapshots/0123abcd/{SINGLE}")


def test_a_snapshot_reached_by_a_link(tmp_path):
    (tmp_path / "model").symlink_to(hub_cache(tmp_path))
    assert list(read(str(tmp_path / "model")).tensors) == ["t"]


def test_a_snapshot_may_not_link_elsewhere(tmp_path):
    snapshot = hub_cache(tmp_path)
    other = tmp_path / "hub" / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (other / "b").write_bytes(ONE)
    (snapshot / SINGLE).unlink()
    (snapshot / SINGLE).symlink_to(other / "b")
    assert "a link that leaves it" in problems(snapshot)


def test_a_blob_that_is_a_link_out(tmp_path):
    snapshot = hub_cache(tmp_path)
    (tmp_path / "secret").write_bytes(ONE)
    blob = snapshot.parent.parent / "blobs" / "b0"
    blob.unlink()
    blob.symlink_to(tmp_path / "secret")
    assert "a link that leaves it" in problems(snapshot)


def test_a_snapshot_whose_blob_is_missing(tmp_path):
    snapshot = hub_cache(tmp_path)
    (snapshot.parent.parent / "blobs" / "b0").unlink()
    assert "a link to a file that is not there" in problems(snapshot)


@pytest.mark.parametrize("name", [SINGLE, "config.json", INDEX])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_plain_folder_may_not_link_outside(tmp_path, name, absolute):
    inside = tmp_path / "model"
    checkpoint(inside, {SINGLE: ONE}, index={"weight_map": {"t": SINGLE}})
    (inside / name).rename(tmp_path / name)
    (inside / name).symlink_to(tmp_path / name if absolute else f"../{name}")
    said = problems(inside)
    assert f"{inside / name}: expected a file of this directory, found a link that leaves it" in said


def test_blobs_without_a_hub_cache_around_are_outside(tmp_path):
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "rev"
    blobs.mkdir()
    (blobs / "b").write_bytes(ONE)
    checkpoint(folder, {})
    (folder / SINGLE).symlink_to("../../blobs/b")
    assert "a link that leaves it" in problems(folder)


def test_a_folder_whose_name_only_begins_alike_is_outside(tmp_path):
    checkpoint(tmp_path / "model", {})
    checkpoint(tmp_path / "model-2", {SINGLE: ONE})
    (tmp_path / "model" / SINGLE).symlink_to(f"../model-2/{SINGLE}")
    assert "a link that leaves it" in problems(tmp_path / "model")


def test_a_link_that_stays_inside(tmp_path):
    path = checkpoint(tmp_path, {"weights": ONE})
    (tmp_path / SINGLE).symlink_to("weights")
    assert list(read(path).tensors) == ["t"]


def test_the_folder_itself_may_be_a_link(tmp_path):
    checkpoint(tmp_path / "model", {SINGLE: ONE})
    (tmp_path / "link").symlink_to("model")
    assert list(read(str(tmp_path / "link")).tensors) == ["t"]


def test_a_link_to_itself(tmp_path):
    checkpoint(tmp_path, {})
    (tmp_path / SINGLE).symlink_to(SINGLE)
    assert "cannot be opened" in problems(tmp_path)


@pytest.mark.parametrize("name", [SINGLE, "config.json", INDEX])
def test_a_pipe_is_refused_and_does_not_hang(tmp_path, name):
    path = checkpoint(tmp_path, {SINGLE: ONE}, index={"weight_map": {"t": SINGLE}})
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    assert "expected a regular file, found a named pipe" in problems(path)


def test_a_folder_and_a_socket_for_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / SINGLE).mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("config.json")
        said = problems(tmp_path)
    assert "expected a regular file, found a directory" in said
    assert "config.json: cannot be opened" in said


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = checkpoint(tmp_path, {SINGLE: ONE})
    (tmp_path / SINGLE).chmod(0)
    assert "cannot be opened: Permission denied" in problems(path)


def test_a_plain_folder_whose_links_are_followed_wherever_they_lead(tmp_path):
    """As an old `--local-dir` is: each file a link into a store elsewhere. Pipes stay refused."""
    store, inside = tmp_path / "store", tmp_path / "model"
    checkpoint(store, {SINGLE: ONE, "README.md": b"", "x.json": b"{}"}, index={"weight_map": {"t": SINGLE}})
    inside.mkdir()
    for file in store.iterdir():
        (inside / file.name).symlink_to(file)
    found = read(str(inside), Access(follow_links=True))
    assert list(found.tensors) == ["t"]
    assert found.follow_links
    assert files.size_of(str(inside), "x.json", follow_links=True) == 2
    assert files.read_bounded(str(inside), "x.json", 9, follow_links=True) == b"{}"
    assert files.read_start(str(inside), "x.json", 1, follow_links=True) == b"{"
    assert not read(str(store)).follow_links
    (store / SINGLE).unlink()
    os.mkfifo(store / SINGLE)
    with pytest.raises(CheckpointError, match="found a named pipe"):
        read(str(inside), Access(follow_links=True))


@pytest.mark.parametrize("name", [SINGLE, "config.json", INDEX])
def test_a_message_of_a_link_names_what_allows_it_where_there_is_such_an_option(tmp_path, name):
    checkpoint(tmp_path / "model", {SINGLE: ONE}, index={"weight_map": {"t": SINGLE}})
    (tmp_path / "model" / name).rename(tmp_path / name)
    (tmp_path / "model" / name).symlink_to(tmp_path / name)
    assert "(--follow-links, follow_links=True)" in problems(tmp_path / "model")
    with pytest.raises(CheckpointError) as caught:
        files.open_file(str(tmp_path / "model"), name)
    assert caught.value.problems[0].mend == "Copy the file into the directory"


class TestFollow:
    """The one policy, which weights and the files beside them share."""

    def test_what_is_no_link(self, tmp_path):
        for name, allowed in (("x", True), ("sub/x", True), (".", True), ("../x", False), ("/etc/passwd", False)):
            assert follow(str(tmp_path), name) == (os.path.realpath(tmp_path / name), allowed)

    def test_a_snapshot_leads_into_its_own_blobs_alone(self, tmp_path):
        snapshot = hub_cache(tmp_path)
        repository = snapshot.parent.parent
        for name, target, allowed in (
            ("ours", repository / "blobs" / "b0", True),
            ("refs", repository / "refs" / "main", False),
            ("sibling", repository / "snapshots" / "other" / "x", False),
            ("theirs", tmp_path / "hub" / "models--org--other" / "blobs" / "b", False),
            ("alike", tmp_path / "hub" / "models--org--name" / "blobs-2" / "b", False),
        ):
            (snapshot / name).symlink_to(target)
            assert follow(str(snapshot), name) == (str(target), allowed)

    def test_what_only_looks_like_a_cache(self, tmp_path):
        for folder in ("models--/snapshots/rev", "datasets--o--n/snapshots/rev", "models--o--n/snapshots/rev/sub"):
            place = tmp_path / folder
            place.mkdir(parents=True)
            blobs = tmp_path / folder.split("/")[0] / "blobs"
            blobs.mkdir(exist_ok=True)
            (place / "x").symlink_to(blobs / "b")
            assert follow(str(place), "x") == (str(blobs / "b"), False)

    def test_links_are_followed_wherever_they_lead_but_names_stay_below(self, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "x").symlink_to(tmp_path / "secret")
        assert follow(str(tmp_path / "model"), "x", anywhere=True) == (str(tmp_path / "secret"), True)
        for name in ("../secret", "x/../../secret", "/etc/passwd"):
            assert not follow(str(tmp_path / "model"), name, anywhere=True)[1]

    def test_links_in_links(self, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "out").symlink_to("..")
        (tmp_path / "model" / "x").symlink_to("out/secret")
        (tmp_path / "model" / "back").symlink_to("out/model/y")
        assert follow(str(tmp_path / "model"), "x") == (str(tmp_path / "secret"), False)
        assert follow(str(tmp_path / "model"), "back") == (str(tmp_path / "model" / "y"), True)

    @given(st.lists(st.sampled_from(["a", "b", "..", ".", "loop", "up", "in"]), min_size=1, max_size=6).map("/".join))
    def test_a_file_that_may_be_read_lies_in_the_directory(self, linked, name):
        target, allowed = follow(linked, name)
        assert allowed == (f"{target}/".startswith(f"{linked}/"))


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    path = tmp_path_factory.mktemp("linked").resolve() / "model"
    (path / "a" / "b").mkdir(parents=True)
    (path / "loop").symlink_to("loop")
    (path / "up").symlink_to("..")
    (path / "a" / "in").symlink_to("../a/b")
    return str(path)


class TestOtherReads:
    def test_entries(self, tmp_path):
        checkpoint(tmp_path, {"x": b""})
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "y").touch()
        (tmp_path / "link").symlink_to("sub")
        assert sorted(files.entries(str(tmp_path), "")) == [
            ("config.json", False), ("link", False), ("sub", True), ("x", False)
        ]  # fmt: skip
        assert files.entries(str(tmp_path), "sub") == [("y", False)]
        with pytest.raises(CheckpointError, match="none: the directory cannot be read: No such file"):
            files.entries(str(tmp_path), "none")

    def test_sizes_and_starts(self, tmp_path):
        (tmp_path / "x").write_bytes(b"12345")
        (tmp_path / "out").symlink_to("/etc/passwd")
        os.mkfifo(tmp_path / "pipe")
        assert files.size_of(str(tmp_path), "x") == 5
        assert files.size_of(str(tmp_path), "out") == "a link that leaves the folder"
        assert files.size_of(str(tmp_path), "pipe") == "not a regular file"
        assert files.size_of(str(tmp_path), "none") == "cannot be read: No such file or directory"
        assert [files.read_start(str(tmp_path), "x", most) for most in (0, 3, 5, 9)] == [
            b"",
            b"123",
            b"12345",
            b"12345",
        ]
        assert files.read_bounded(str(tmp_path), "x", 5) == b"12345"
        with pytest.raises(CheckpointError, match="expected at most 4 bytes, found 5 bytes"):
            files.read_bounded(str(tmp_path), "x", 4)
        with pytest.raises(CheckpointError, match="a link that leaves it"):
            files.read_start(str(tmp_path), "out", 9)


def test_the_commit_of_a_snapshot(tmp_path):
    snapshot = hub_cache(tmp_path)
    assert read(str(snapshot)).commit is None  # no name that the Hub gives
    named = snapshot.rename(snapshot.parent / ("0123456789abcdef" * 3)[:40])
    assert read(str(named)).commit == named.name
