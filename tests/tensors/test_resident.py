"""Of a mapped file the tiles in use are resident and nothing else, however the tiles lie and whoever reads."""

import json
import mmap
import threading

import pytest

from checkpoints.formats.handmade import SINGLE, checkpoint
from sdmw.checkpoints.formats import read
from sdmw.tensors import mapping
from sdmw.tensors.matrices import StoredMatrix
from tensors.mappings import mappings_of, resident

PAGE = mmap.PAGESIZE
ROWS, COLUMNS = 1024, 4096  # 8 MiB
ELEMENTS = ROWS * COLUMNS
UNALIGNED = 259_999  # elements in a tile: its edges lie within pages
ALIGNED = 1 << 18


def whole_pages(elements):
    """The most bytes that a tile of bfloat16 makes resident: its own pages, at both edges too, and the one behind."""
    return 2 * elements + 3 * PAGE


@pytest.fixture(params=["header of few bytes", "header of a page"])
def file(tmp_path, request):
    """A sparse file, wholly cached, in large folios where the file system has them."""
    entry = {"dtype": "BF16", "shape": [ROWS, COLUMNS], "data_offsets": [0, 2 * ELEMENTS]}
    text = json.dumps({"t": entry}).encode()
    if request.param == "header of a page":
        text = text.ljust(PAGE - 8)
    checkpoint(tmp_path, {SINGLE: len(text).to_bytes(8, "little") + text})
    path = tmp_path / SINGLE
    with open(path, "r+b") as handle:
        handle.truncate(8 + len(text) + 2 * ELEMENTS)
    assert not any(path.read_bytes()[8 + len(text) :])
    return path


@pytest.fixture
def tensor(file):
    return read(str(file.parent)).tensors["t"]


def tiles(size, *, backwards=False):
    """From and up to of each tile."""
    found = [(start, min(start + size, ELEMENTS)) for start in range(0, ELEMENTS, size)]
    return found[::-1] if backwards else found


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("size", [UNALIGNED, ALIGNED])
def test_a_tile_in_use_is_all_that_is_resident(file, tensor, size, backwards):
    source = tensor.open()
    for start, stop in tiles(size, backwards=backwards):
        tile = source.tile(start, stop)
        assert not tile.any()
        assert 2 * (stop - start) <= resident(file) <= whole_pages(size)
        source.release(start, stop)
        assert resident(file) == 0


@pytest.mark.parametrize("size", [UNALIGNED, ALIGNED])
def test_two_threads_between_each_other(file, tensor, size):
    turns, seen = threading.Barrier(2), []

    def work(mine):
        source = tensor.open()
        for start, stop in mine:
            tile = source.tile(start, stop)
            turns.wait()
            assert not tile.any()  # while the other is in use, too
            seen.append(resident(file))
            turns.wait()
            source.release(start, stop)

    whole = tiles(size)
    whole = whole[: len(whole) // 2 * 2]
    threads = [threading.Thread(target=work, args=(whole[which::2],)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(whole)
    assert max(seen) <= 2 * whole_pages(size)
    assert resident(file) == 0


def test_tiles_that_are_still_held_are_not_read_in_again_by_their_neighbours(file, tensor):
    """A loop's own variable keeps its last tile; and the kernel joins mappings that go on where another one ends."""
    source, held = tensor.open(), []
    for start, stop in tiles(ALIGNED // 2, backwards=True):
        held.append(source.tile(start, stop))
        assert resident(file) <= whole_pages(ALIGNED // 2)
        source.release(start, stop)
        assert resident(file) == 0


def test_a_tile_of_a_file_that_was_forgotten_is_let_go_of(file, tensor, tmp_path, monkeypatch):
    monkeypatch.setattr(mapping, "_mappings", mapping.Mappings(1))
    other = tmp_path / "other"
    other.write_bytes(b"x")
    source = tensor.open()
    tile = source.tile(0, UNALIGNED)
    mapping._mappings.of(str(other))
    source.release(0, UNALIGNED)
    assert resident(file) == 0
    del tile
    assert mappings_of(file) == []


def test_a_block_of_some_columns_leaves_no_more_than_windows(file, tensor):
    """Each row's part is a small tile."""
    stored = StoredMatrix(tensor)
    for first in range(0, COLUMNS, 1000):
        block = stored.block((0, 200), (first, min(first + 1000, COLUMNS)))
        assert not block.any()
        assert 0 < resident(file) <= mapping.WINDOWS + 16 * 4096  # and the page behind each
    mapping.unmap()
    assert resident(file) == 0
