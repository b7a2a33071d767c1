"""Arrays in shards: from any entry on they read as written, and nothing before it is read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmw.archives import shards
from sdmw.errors import ArchiveError

CHUNK, SHARD = 8, 32  # entries


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shards, "CHUNK", CHUNK)
    monkeypatch.setattr(shards, "SHARD", SHARD)


def written(folder, values):
    folder.mkdir()
    array = shards.ArrayWriter(str(folder), "<i8")
    for chunk in (*array.append(values), *array.rest()):
        array.store(shards.compressed(chunk, "shuffle"))
    array.finish_shard()
    return shards.ArrayReader(str(folder), values.size, "<i8", "shuffle")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arrays")


@settings(max_examples=30)
@given(st.data(), st.integers(1, 3 * SHARD))
def test_any_entries_in_any_order(folder, data, length):
    values = np.arange(length) * 7
    reader = written(folder / str(len(list(folder.iterdir()))), values)
    for _ in range(4):
        first = data.draw(st.integers(0, length))
        count = data.draw(st.integers(0, length - first))
        reader.seek(first)
        np.testing.assert_array_equal(reader.take(np.empty(count, "<i8")), values[first : first + count])


def test_what_lies_before_is_not_read(tmp_path):
    values = np.arange(3 * SHARD)
    reader = written(tmp_path / "array", values)
    (tmp_path / "array/c/0").unlink()
    with open(tmp_path / "array/c/1", "r+b") as file:
        file.write(bytes(16))  # the first chunk's head
    reader.seek(SHARD + CHUNK)
    np.testing.assert_array_equal(reader.take(np.empty(SHARD, "<i8")), values[SHARD + CHUNK : 2 * SHARD + CHUNK])
    for place in (0, SHARD):
        reader.seek(place)
        with pytest.raises(ArchiveError):
            reader.take(np.empty(1, "<i8"))


def test_beyond_the_end_is_nothing(tmp_path):
    reader = written(tmp_path / "array", np.arange(10))
    reader.seek(8)
    with pytest.raises(ArchiveError, match="fewer entries"):
        reader.take(np.empty(3, "<i8"))
    with pytest.raises(ArchiveError, match="fewer entries"):
        reader.seek(17)
