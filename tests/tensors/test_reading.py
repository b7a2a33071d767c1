"""Reading by pread: what the contract of sources does not say, above all how it fails."""

import os
from pathlib import Path

import numpy as np
import pytest

import sdmw
from checkpoints.formats.handmade import SINGLE, checkpoint, entry, shard
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from sdmw import linux
from sdmw.checkpoints.formats import read
from sdmw.errors import InputChangedError, RunError
from sdmw.tensors.reading import ReadTensor

ELEMENTS = 300_000
VALUES = np.arange(ELEMENTS, dtype="<u4")


@pytest.fixture
def file(tmp_path):
    checkpoint(tmp_path, {SINGLE: shard({"t": entry(shape=(ELEMENTS,), stop=4 * ELEMENTS)}, VALUES.tobytes())})
    return tmp_path / SINGLE


@pytest.fixture
def source(file):
    return ReadTensor(read(str(file.parent)).tensors["t"])


def test_local_files_are_mapped_and_those_of_a_virtual_file_system_are_not_told_apart_by_luck(file, monkeypatch):
    assert linux.maps_safely(str(file))
    assert not linux.maps_safely(str(file.parent / "missing"))  # nobody tells, so nothing is taken for granted
    kind = os.stat(file).st_dev and _type_of(file)
    monkeypatch.setattr(linux, "_REMOTE", {kind: "here"})
    linux.maps_safely.cache_clear()
    assert not linux.maps_safely(str(file))
    assert isinstance(read(str(file.parent)).tensors["t"].open(), ReadTensor)
    linux.maps_safely.cache_clear()


def _type_of(path):
    import subprocess

    return int(subprocess.run(["stat", "-f", "-c", "%t", path], capture_output=True, check=True).stdout, 16)


def test_a_truncated_file_is_told_with_both_sizes(file, source):
    size = file.stat().st_size
    os.truncate(file, 1000)
    with pytest.raises(InputChangedError, match=r"was 1\.20 MB at the start, is 1\.00 KB now") as caught:
        source.tile(ELEMENTS - 10, ELEMENTS)
    assert str(file) in str(caught.value)
    assert size > 1_200_000


def test_a_file_that_is_gone_or_a_fifo_now(file, source):
    file.unlink()
    with pytest.raises(InputChangedError, match="is gone"):
        source.tile(0, 1)
    os.mkfifo(file)
    with pytest.raises(InputChangedError, match="no longer a regular file"):
        source.tile(0, 1)


def test_a_read_error_names_the_byte(source, monkeypatch):
    def fails(fd, buffers, offset):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(RunError, match=r"read error at byte \d+ of the file: Input/output error"):
        source.tile(0, 10)


def test_short_reads_are_gone_on_with(source, monkeypatch):
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: whole(fd, [buffers[0][:1001]], offset))
    np.testing.assert_array_equal(source.tile(5, 9000), VALUES[5:9000])


def test_a_merge_gives_the_same_bits(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    base = llama_like(rng)
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "corp", fine_tuned(rng, base))
    recipe = {
        "merge_method": "sdm_w",
        "base_model": str(tmp_path / "base"),
        "models": [{"model": str(tmp_path / "corp")}],
    }
    sdmw.merge(recipe, tmp_path / "mapped", progress=False)
    monkeypatch.setattr(linux, "maps_safely", lambda path: False)
    sdmw.merge(recipe, tmp_path / "read", progress=False)
    shards = [Path(tmp_path, out, "model.safetensors").read_bytes() for out in ("mapped", "read")]
    assert shards[0] == shards[1]
