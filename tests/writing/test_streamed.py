"""Files written past the page cache and through it: every byte where it belongs, whatever the system refuses."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdmw import linux
from sdmw.tensors.staging import PAGE, Staging
from sdmw.writing import streamed
from sdmw.writing.streamed import StreamedFile

SIZE = 3 * 2**20 + 1234
CONTENT = np.random.default_rng(5).integers(0, 256, SIZE, np.uint8)


@pytest.fixture
def path(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        file.truncate(SIZE)
    return str(tmp_path / "file")


def write(path, cuts, aligned=True, threads=1):
    """The whole content, in spans between cuts; aligned as a worker's staging is, or just beside."""
    spans = list(pairwise([0, *sorted(cuts), SIZE]))
    file = StreamedFile(path)

    def write_span(span):
        start, stop = span
        place = Staging().array(start + (0 if aligned else 1), stop - start)
        place[:] = CONTENT[start:stop]
        file.write(start, memoryview(place))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write_span, spans))
    file.close(sync=True)
    np.testing.assert_array_equal(np.fromfile(path, np.uint8), CONTENT)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, SIZE), max_size=8), aligned=st.booleans(), threads=st.integers(1, 3))
def test_any_spans_in_any_order_of_threads(path, cuts, aligned, threads):
    os.truncate(path, 0)
    os.truncate(path, SIZE)
    write(path, cuts, aligned, threads)


@pytest.fixture
def direct(path, monkeypatch):
    """Offsets and sizes of what goes past the page cache."""
    calls = []
    real = StreamedFile._write_direct
    monkeypatch.setattr(
        StreamedFile,
        "_write_direct",
        lambda self, at, data: calls.append((at, len(data))) or real(self, at, data),
    )
    probe = StreamedFile(path)
    refused = not probe._direct
    probe.close(sync=False)
    if refused:
        pytest.skip("this file system refuses O_DIRECT")
    return calls


def test_whole_pages_of_aligned_data_go_past_the_page_cache(path, direct):
    write(path, [2**20 + 100])
    first = 2**20 + PAGE
    assert direct == [(0, 2**20), (first, SIZE // PAGE * PAGE - first)]


@pytest.mark.parametrize(("cuts", "aligned"), [([100], False), (range(0, SIZE, 2**16), True)])
def test_small_or_unaligned_data_go_through_it(path, direct, cuts, aligned):
    write(path, cuts, aligned)
    assert direct == []


REFUSALS = [errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOMEM, errno.EAGAIN]


@pytest.mark.parametrize("number", REFUSALS)
def test_where_direct_writing_cannot_be_had(path, monkeypatch, number):
    real = os.open

    def refuses(name, flags, *rest, **names):
        if flags & os.O_DIRECT:
            raise OSError(number, os.strerror(number))
        return real(name, flags, *rest, **names)

    monkeypatch.setattr(os, "open", refuses)
    write(path, [5000, 2**20])


@pytest.mark.parametrize("gives", [0, 1, PAGE, PAGE + 512])
def test_where_it_writes_less_than_asked(path, monkeypatch, gives):
    """Nothing, odd bytes, a page, a page and a bit: what is left goes on, in one way or the other."""
    real = os.pwrite

    def short(fd, data, at):
        return real(fd, data[:gives] if gives and len(data) > 2**19 else data, at)

    monkeypatch.setattr(os, "pwrite", short)
    write(path, [5000, 2**20])


@pytest.mark.parametrize("number", REFUSALS)
def test_what_cannot_go_past_the_cache_goes_through_it(path, monkeypatch, number):
    """EINVAL: blocks are larger than a page."""
    real = os.pwrite
    direct = []
    opened = StreamedFile.__init__
    monkeypatch.setattr(StreamedFile, "__init__", lambda self, name: opened(self, name) or direct.append(self._other))

    def refuses(fd, data, at):
        if fd in direct:
            raise OSError(number, os.strerror(number))
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", refuses)
    write(path, [5000, 2**20])


def test_hints_are_not_given_through_the_descriptor_that_is_synced(path, monkeypatch):
    """The kernel reports lost data once to each descriptor: a hint's error must not take that of the sync."""
    through = set()
    monkeypatch.setattr(streamed, "_STEP", 1)
    monkeypatch.setattr(streamed, "_BEHIND", 1)
    monkeypatch.setattr(linux, "sync_file_range", lambda fd, *_: through.add(fd) or False)
    file = StreamedFile(path)
    for offset in range(0, 10**6, 10**5):
        file.write(offset, memoryview(b"x" * 10**5))
    assert through == {file._other}
    assert file._fd not in through
    file.close(sync=True)


def test_other_errors_are_told(path, monkeypatch):
    def full(fd, data, at):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for nbytes in (100, 2**20):
        file = StreamedFile(path)
        with pytest.raises(OSError, match="No space"):
            file.write(0, memoryview(Staging().array(0, nbytes)))
        file.close(sync=False)


def test_staging_is_aligned_as_the_file_is():
    staging = Staging()
    for offset in (0, 1, 4095, 4096, 123_456_789):
        place = staging.array(offset, 10_000)
        assert place.size == 10_000
        assert (place.ctypes.data - offset) % PAGE == 0
        place[:] = 7


def test_memory_is_used_again_when_nobody_holds_it_and_not_before():
    staging = Staging()
    first, second = staging.array(0, 10_000), staging.array(0, 3 * 2**20)
    third = staging.array(0, 100)
    places = [array.ctypes.data for array in (first, second, third)]
    assert len(set(places)) == 3
    kept = second[5:10].view()
    del second
    assert staging.array(0, 100).ctypes.data not in places
    del kept
    assert staging.array(0, 100).ctypes.data == places[1]
    del third
    assert {staging.array(0, 100).ctypes.data for _ in range(9)} <= set(places[1:])
    staging.clear()


def test_memory_that_is_too_small_for_what_is_asked_for_now_is_not_used_again():
    staging = Staging()
    small, large = staging.array(0, 100), staging.array(0, 5 * 2**20)
    del small
    for array in [large, staging.array(0, 5 * 2**20)]:
        array[:] = 7
