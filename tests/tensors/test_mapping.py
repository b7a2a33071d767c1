import errno
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from checkpoints.formats.handmade import SINGLE, checkpoint, entry, shard, sharded
from sdmw.checkpoints.formats import read
from sdmw.errors import InputChangedError, RunError
from sdmw.tensors import mapping
from tensors.mappings import mappings_of

ELEMENTS = 300_000
VALUES = np.arange(ELEMENTS, dtype="<u4")


@pytest.fixture
def file(tmp_path):
    checkpoint(tmp_path, {SINGLE: shard({"t": entry(shape=(ELEMENTS,), stop=4 * ELEMENTS)}, VALUES.tobytes())})
    return tmp_path / SINGLE


@pytest.fixture
def source(file):
    return read(str(file.parent)).tensors["t"].open()


def test_releasing_a_tile_lets_its_pages_go_and_it_reads_the_same_again(file, source):
    tile = source.tile(0, ELEMENTS)
    assert sum(mappings_of(file)) >= tile.nbytes // 1024
    source.release(0, ELEMENTS)
    assert sum(mappings_of(file)) <= 4
    np.testing.assert_array_equal(tile, VALUES)


def test_releasing_what_was_never_mapped_does_nothing(file, source):
    source.release(0, ELEMENTS)
    assert mappings_of(file) == []


def test_a_neighbour_may_release_the_page_that_a_tile_shares(source):
    left, right = source.tile(0, 1000), source.tile(1000, 2000)
    source.release(0, 1000)
    np.testing.assert_array_equal(right, VALUES[1000:2000])
    np.testing.assert_array_equal(left, VALUES[:1000])


def test_no_descriptor_stays_open(source):
    before = os.listdir("/proc/self/fd")
    tile = source.tile(0, 10)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert tile[9] == 9


def test_a_dropped_mapping_lives_as_long_as_its_tiles(file, source, monkeypatch):
    kept = mapping.Mappings(1)
    monkeypatch.setattr(mapping, "_mappings", kept)
    tile = source.tile(5, 50_000)
    other = file.parent / "other"
    other.write_bytes(b"x")
    kept.of(str(other))
    gc.collect()
    np.testing.assert_array_equal(tile, VALUES[5:50_000])
    assert sum(mappings_of(file)) > 0
    source.release(5, 50_000)
    assert sum(mappings_of(file)) == 0
    np.testing.assert_array_equal(tile, VALUES[5:50_000])
    del tile
    gc.collect()
    assert mappings_of(file) == []


def test_small_tiles_share_windows_of_which_few_are_kept(file, source):
    """A mapping for each of 100,000 small tensors would cost more than what is done with it."""
    mapping.kept_windows().clear()
    tiles = [source.tile(start, start + 100) for start in range(0, ELEMENTS - 100, 100)]
    for number, tile in enumerate(tiles):
        np.testing.assert_array_equal(tile, VALUES[100 * number : 100 * number + 100])
    assert len(mappings_of(file)) <= 2 + VALUES.nbytes // (mapping.WINDOWS // 32)
    del tiles, tile
    gc.collect()
    assert len(mappings_of(file)) <= 1 + 16
    mapping.unmap()
    gc.collect()
    assert mappings_of(file) == []


def test_windows_of_other_threads_are_let_go_of_too(file, source):
    """A caller's threads outlive the run: a deleted file would keep its place on the disk."""
    with ThreadPoolExecutor(1) as others:
        others.submit(lambda: source.tile(0, 10)[0]).result()
        gc.collect()
        assert mappings_of(file) != []
        mapping.unmap()
        gc.collect()
        assert mappings_of(file) == []


def test_a_forked_child_waits_for_no_lock_of_its_parent(file, source):
    """Another thread may hold it, which the child has not."""
    source.tile(0, ELEMENTS)
    mapped, _ = mapping._mappings.of(str(file))
    tile = mapped.tile(*source._bytes(0, ELEMENTS))
    with tile._populating:
        child = os.fork()
        if child == 0:
            os._exit(int(source.tile(0, 10)[3] != VALUES[3] or source.tile(0, ELEMENTS)[5] != VALUES[5]))
        for _ in range(100):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.1)
        else:
            os.kill(child, 9)
            pytest.fail("it hangs")
    assert status == 0


def test_truncated_before_a_tile(file, source):
    source.tile(0, ELEMENTS)
    os.truncate(file, 4096)
    with pytest.raises(InputChangedError, match=r"'t': input changed while it was read: .*was 1\.20 MB.*is 4\.10 KB"):
        source.tile(200_000, ELEMENTS)


def test_truncated_between_looking_and_reading(file, source, monkeypatch):
    populate = mapping.MappedBytes.populate

    def late(self):
        os.truncate(file, 4096)
        return populate(self)

    monkeypatch.setattr(mapping.MappedBytes, "populate", late)
    with pytest.raises(InputChangedError, match=r"was 1\.20 MB at the start, is 4\.10 KB now"):
        source.tile(0, ELEMENTS)


def test_truncated_before_it_was_ever_mapped(file, source):
    os.truncate(file, 100_000)
    with pytest.raises(InputChangedError, match=r"was 1\.20 MB at the start, is 100 KB now"):
        source.tile(0, 10)


def test_emptied_gone_or_made_a_folder(file, source):
    os.truncate(file, 0)
    with pytest.raises(InputChangedError, match=r"was 1\.20 MB at the start, is 0 bytes now"):
        source.tile(0, 10)
    file.unlink()
    with pytest.raises(InputChangedError, match="is gone"):
        source.tile(0, 10)
    file.mkdir()
    with pytest.raises(InputChangedError, match="no longer a regular file"):
        source.tile(0, 10)


def test_a_pipe_in_its_place_does_not_hang(file, source):
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputChangedError, match="no longer a regular file"):
        source.tile(0, 10)


def test_a_file_replaced_since_an_earlier_merge_is_read_anew(file, source):
    old = source.tile(0, 10)
    other = file.parent / "other"
    other.write_bytes(file.read_bytes()[: -VALUES.nbytes] + VALUES[::-1].tobytes())
    other.rename(file)
    np.testing.assert_array_equal(source.tile(0, 10), VALUES[::-1][:10])
    np.testing.assert_array_equal(old, VALUES[:10])


REFUSALS = [errno.ENOSYS, errno.EPERM, errno.EACCES, errno.ENOMEM, errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL]


@pytest.mark.parametrize("number", [*REFUSALS, errno.EFAULT, errno.EIO, 133])
def test_what_populating_says_a_plain_read_decides(file, source, monkeypatch, number):
    """Refused, or short of memory: the bytes are there all the same."""
    monkeypatch.setattr(mapping, "_advise", lambda *_: number)
    np.testing.assert_array_equal(source.tile(7, ELEMENTS), VALUES[7:])
    source.release(7, ELEMENTS)


@pytest.mark.parametrize("number", [errno.EFAULT, errno.EIO, 133])
def test_a_read_error_names_file_tensor_and_offset(file, source, monkeypatch, number):
    preadv = os.preadv

    def broken(fd, buffers, offset):
        if offset >= 500_000:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(fd, [buffers[0][: 500_000 - offset]], offset)

    monkeypatch.setattr(mapping.MappedBytes, "populate", lambda *_: number)
    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(RunError, match=r"tensor 't': read error at byte 500,000 of the file: Input/output error"):
        source.tile(0, ELEMENTS)


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EPERM, errno.ENOMEM])
def test_a_file_that_cannot_be_mapped_is_read(source, monkeypatch, number):
    def refused(path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(mapping, "MappedFile", refused)
    np.testing.assert_array_equal(source.tile(7, ELEMENTS), VALUES[7:])


def test_an_old_kernel_is_read_without_populating(source, monkeypatch):
    monkeypatch.setattr(mapping, "_MADV_POPULATE_READ", 9999)
    np.testing.assert_array_equal(source.tile(0, ELEMENTS), VALUES)


def test_threads_read_and_release_at_once(tmp_path, monkeypatch):
    names = [f"t{i}" for i in range(8)]
    tensors = read(sharded(tmp_path, *([name] for name in names))).tensors
    monkeypatch.setattr(mapping, "_mappings", mapping.Mappings(2))
    wrong = []

    def work(name):
        source = tensors[name].open()
        for _ in range(300):
            if source.tile(0, 1)[0] != 0:
                wrong.append(name)
            source.release(0, 1)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(len(mappings_of(tensor.file)) for tensor in tensors.values()) <= 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of forking with threads: it is the point
def test_a_forked_child_does_not_wait_for_a_lock_of_its_parent(source):
    source.tile(0, 10)
    with mapping._mappings._lock:
        child = multiprocessing.get_context("fork").Process(target=source.tile, args=(0, 10))
        child.start()
    child.join(20)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert child.exitcode == 0


MANY = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from sdmw.checkpoints.formats import read
before = len(os.listdir("/proc/self/fd"))
tensors = read(sys.argv[1]).tensors
tiles = [tensor.open().tile(0, tensor.elements) for tensor in tensors.values()]
print(len(tensors), sum(tile.sum() for tile in tiles), len(os.listdir("/proc/self/fd")) - before)
"""


def test_many_shards_need_few_descriptors(tmp_path):
    path = sharded(tmp_path, *([f"s{s}.t{t}" for t in range(50)] for s in range(300)))
    done = subprocess.run([sys.executable, "-c", MANY, path], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["15000", "0", "0"], done.stderr
