"""What disks and processor give is measured for real, with few bytes; nothing is left behind."""

from dataclasses import replace

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import write_checkpoint
from sdmw.errors import RunError, UsageError
from sdmw.running import probe


@pytest.fixture
def shards(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "MOST", 1 << 23)
    for name in ("base", "one"):
        write_checkpoint(tmp_path / name, {"model.layers.0.w": np.ones((512, 1024), np.float32)})
    asked = {"merge_method": "linear", "models": [{"model": str(tmp_path / name)} for name in ("base", "one")]}
    return [shard for checkpoint in sdmw.plan(asked).checkpoints for shard in checkpoint.shards]


def test_rates_are_those_of_files_that_stay_as_they_are(shards, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    found = probe.measured(shards, str(tmp_path / "out"), 2)
    assert found.measured
    assert found.shared  # one disk
    assert 1e6 < found.read < 1e12  # bytes a second
    assert 1e5 < found.write < 1e12
    assert 0.05 < found.slowness < 500
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "one"]


def test_without_an_output_nothing_is_written(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "StreamedFile", None)
    found = probe.measured(shards, None, 1)
    assert found.write == found.read


@pytest.mark.parametrize(("most", "size", "read"), [(1 << 23, 1 << 21, 2 << 21), (1 << 22, 1 << 21, 1 << 21),
                                                     (1 << 28, 10**9, 1 << 28)])  # fmt: skip
def test_no_more_is_read_than_was_said(shards, monkeypatch, most, size, read):
    monkeypatch.setattr(probe, "MOST", most)
    places = probe._places([replace(shard, size=size) for shard in shards])
    assert sum(nbytes for *_, nbytes in places) == read
    assert len(set(places)) == len(places)
    assert all(first + nbytes <= size for _, first, nbytes in places)


def test_what_cannot_be_measured_is_said(shards, tmp_path):
    gone = replace(shards[0], path=str(tmp_path / "gone"))
    with pytest.raises(RunError, match="gone: cannot be read: No such file"):
        probe.measured([gone], None, 1)
    with pytest.raises(UsageError, match=r"bandwidth: expected files of this machine.*--bandwidth 200MB"):
        probe.measured([replace(shards[0], path="s3://bucket/a")], None, 1)
    with pytest.raises(UsageError, match="bandwidth: expected files of this machine"):
        probe.measured(shards, "s3://bucket/out", 1)
    with pytest.raises(RunError, match="cannot be written to: "):
        probe.measured(shards, "/proc/self/out", 1)
