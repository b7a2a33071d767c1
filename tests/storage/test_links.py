import os
import socket
import sys

import pytest

from checkpoints.formats.handmade import INDEX, SINGLE, checkpoint, entry, shard
from sdmw.checkpoints.formats import read
from sdmw.errors import CheckpointError

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
