"""Runs of a file read into memory, compiled and as plain Python."""

import ctypes
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmw.kernels import rows

SIZE = 1000


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "file"
    content = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    path.write_bytes(content.tobytes())
    fd = os.open(path, os.O_RDONLY)
    yield fd, content
    os.close(fd)


def plain(*arguments):
    libc = ctypes.CDLL(None)
    libc.pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
    libc.pread.restype = ctypes.c_ssize_t
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rows, "_pread", lambda fd, *rest: libc.pread(int(fd), *map(int, rest)))
        return rows.read_runs.py_func(*arguments)


RUNS = st.lists(st.tuples(st.integers(0, SIZE - 50), st.integers(0, 50)), max_size=20)


@pytest.mark.parametrize("function", [rows.read_runs, plain])
@given(runs=RUNS)
def test_runs_come_to_their_places(file, function, runs):
    fd, content = file
    offsets, sizes = np.array(runs, np.int64).reshape(-1, 2).T.copy()
    places = np.cumsum(sizes) - sizes
    out = np.zeros(int(sizes.sum()) + 1, np.uint8)
    assert function(fd, offsets, sizes, places, out.ctypes.data) == len(runs)
    expected = [content[offset : offset + size] for offset, size in runs]
    np.testing.assert_array_equal(out[:-1], np.concatenate([*expected, np.zeros(0, np.uint8)]))
    assert out[-1] == 0


@pytest.mark.parametrize("function", [rows.read_runs, plain])
def test_the_first_that_is_not_there(file, function):
    out = np.zeros(40, np.uint8)
    arguments = (np.array([0, SIZE - 5, 0]), np.array([10, 10, 10]), np.array([0, 10, 20]), out.ctypes.data)
    assert function(file[0], *arguments) == 1
    assert function(-1, *arguments) == 0
