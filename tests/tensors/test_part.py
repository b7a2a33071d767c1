"""Parts and tensors put together of parts: values, what is read from the disk, lost pages, memory."""

import os
from pathlib import Path

import numpy as np
import pytest

from sdmw.errors import InputChangedError
from sdmw.tensors import joined, lost_pages, part
from sdmw.tensors.dtype import DType
from sdmw.tensors.joined import Joined
from sdmw.tensors.part import Part
from sdmw.tensors.stored import Stored
from sdmw.tensors.tile_memory import tile_memory

EXPERTS, ROWS, COLUMNS = 3, 700, 900


@pytest.fixture
def whole(tmp_path):
    """Some matrices, BF16, behind an odd number of bytes."""
    values = np.random.default_rng(0).integers(0, 1 << 16, (EXPERTS, ROWS, COLUMNS), np.uint16)
    (tmp_path / "file").write_bytes(b"123" + values.tobytes())
    return Stored("whole", DType.BF16, values.shape, str(tmp_path / "file"), 3), values


def transposed(stored):
    axes = ((EXPERTS, ROWS * COLUMNS), (COLUMNS, 1), (ROWS, COLUMNS))
    return Part("turned", stored.dtype, (EXPERTS, COLUMNS, ROWS), stored, 0, axes)


def tiles(tensor, size):
    source = tensor.open()
    for start in range(0, tensor.elements, size):
        stop = min(start + size, tensor.elements)
        yield source.tile(start, stop)
        source.release(start, stop)


@pytest.mark.parametrize("chunk", [1 << 20, 5000, 100])
@pytest.mark.parametrize("size", [300_007, 70_001])
def test_a_transpose_of_every_matrix(whole, monkeypatch, size, chunk):
    monkeypatch.setattr(part, "CHUNK", chunk)
    stored, values = whole
    found = np.concatenate([tile.copy() for tile in tiles(transposed(stored), size)])
    np.testing.assert_array_equal(found, values.transpose(0, 2, 1).reshape(-1))


def test_a_disk_reads_a_transpose_once(whole):
    """Whatever the tiles: the page cache has what the next one takes of the same rows."""
    stored, _ = whole
    with open(stored.file, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = read_bytes()
    with tile_memory():
        for _ in tiles(stored, 1 << 16):
            pass
    plain = read_bytes() - before
    if plain < stored.nbytes:
        pytest.skip("this file system keeps the file in memory, or does not count")
    with open(stored.file, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = read_bytes()
    with tile_memory():
        for _ in tiles(transposed(stored), 1 << 16):
            pass
    assert 0 < read_bytes() - before <= 1.1 * stored.nbytes


def read_bytes():
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def test_no_more_is_mapped_than_a_chunk(whole, monkeypatch):
    """And each tile is let go before the next is asked for."""
    stored, _ = whole
    taken, out = [], set()
    real = type(stored.open())

    class Counting(real):
        __slots__ = ()

        def tile(self, start, stop):
            assert not out
            out.add((start, stop))
            taken.append(stop - start)
            return super().tile(start, stop)

        def release(self, start, stop):
            out.discard((start, stop))
            super().release(start, stop)

    monkeypatch.setattr(Stored, "open", lambda self: Counting(self))
    monkeypatch.setattr(part, "CHUNK", 10_000)
    for _ in tiles(transposed(stored), 1 << 17):
        pass
    assert max(taken) <= 10_000
    monkeypatch.setattr(joined, "CHUNK", 10_000)
    rows = [Part(f"{n}", stored.dtype, (COLUMNS,), stored, n * COLUMNS, ((COLUMNS, 1),)) for n in (5, 3, 9, 1)]
    taken.clear()
    for _ in tiles(Joined.of("rows", (4, COLUMNS), rows), 1000):
        pass
    assert max(taken) <= COLUMNS


def test_a_range_is_the_very_pages(whole):
    stored, values = whole
    rows = Part("rows", stored.dtype, (2, COLUMNS), stored, 7 * COLUMNS, ((2 * COLUMNS, 1),))
    tile = rows.open().tile(5, 1000)
    np.testing.assert_array_equal(tile, values.reshape(-1)[7 * COLUMNS + 5 :][:995])
    assert not tile.flags.owndata
    assert rows.cost == stored.cost


def test_parts_of_several_dtypes_are_float32(tmp_path):
    numbers = np.arange(12, dtype=np.float32)
    (tmp_path / "f32").write_bytes(numbers.tobytes())
    (tmp_path / "f16").write_bytes(numbers.astype(np.float16).tobytes())
    (tmp_path / "bf16").write_bytes((numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    each = [Stored(name, dtype, (3, 4), str(tmp_path / name), 0)
            for name, dtype in (("f32", DType.F32), ("f16", DType.F16), ("bf16", DType.BF16))]  # fmt: skip
    whole = Joined.of("whole", (9, 4), each)
    assert whole.dtype is whole.stored_as is DType.F32
    np.testing.assert_array_equal(whole.open().tile(0, 36).view(np.float32), np.tile(numbers, 3))
    np.testing.assert_array_equal(whole.open().tile(13, 20).view(np.float32), numbers[1:8])
    assert Joined.of("two", (6, 4), each[1:2] * 2).stored_as is DType.F16


@pytest.mark.parametrize("kind", ["transposed", "joined"])
def test_a_file_that_is_cut_is_told(whole, kind):
    stored, _ = whole
    tensor = transposed(stored) if kind == "transposed" else Joined.of("x", (6, ROWS, COLUMNS), [stored, stored])
    tensor.open().tile(0, 10)
    os.truncate(stored.file, 1000)
    with pytest.raises(InputChangedError):
        tensor.open().tile(0, tensor.elements)


@pytest.mark.parametrize("kind", ["transposed", "joined"])
def test_pages_that_are_lost_while_they_are_copied_are_told(whole, kind, monkeypatch):
    stored, _ = whole
    tensor = transposed(stored) if kind == "transposed" else Joined.of("x", (6, ROWS, COLUMNS), [stored, stored])
    counts = iter(range(100))
    monkeypatch.setattr(lost_pages, "lost", lambda: next(counts))
    with pytest.raises(Exception, match=r"whole|file"):
        tensor.open().tile(0, tensor.elements)
