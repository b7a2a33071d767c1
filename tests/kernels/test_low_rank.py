"""The product of small matrices, compiled and as plain Python, against NumPy."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.inputs import values
from reference import low_rank as reference
from sdmw.kernels import low_rank, panels

SIZES = st.one_of(st.integers(0, 9), st.sampled_from([15, 16, 17, 31, 33, 80]))
SCALINGS = st.sampled_from([1.0, 0.3, -2.5, 0.0, 1e-30, 1e30])
KINDS = st.sampled_from(["special", "ties", "patterns", "normal"])
KERNELS = {np.float32: low_rank.product_of_floats, np.float64: low_rank.product_of_doubles}
PLAIN = {
    np.float32: low_rank.by_panels(panels.multiply_floats),
    np.float64: low_rank.by_panels(panels.multiply_doubles),
}


def compiled(left, right, scaling, out, start, step):
    KERNELS[left.dtype.type](left, right, scaling, out, start, step)


def plain(left, right, scaling, out, start, step):
    """As plain Python, in panels of which few are multiplied together."""
    with pytest.MonkeyPatch.context() as patched, np.errstate(all="ignore"):
        for name in ("widened_rows", "pack", "copy_edge"):
            patched.setattr(low_rank, name, getattr(low_rank, name).py_func)
        patched.setattr(low_rank, "PACKED", 64)
        PLAIN[left.dtype.type].py_func(left, right, scaling, out, start, step)


def both(left, right, scaling):
    """What the kernel gives compiled, and as plain Python."""
    found = []
    for function in (compiled, plain):
        out = np.full((left.shape[0], right.shape[1]), 7, np.float32)
        function(left, right, scaling, out.reshape(-1), 0, right.shape[1])
        found.append(out)
    return found


def assert_same_bits(found, expected):
    """NaN in the same places: their patterns are not said where several meet."""
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    np.testing.assert_array_equal(found.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


@settings(max_examples=150, deadline=None)
@given(rows=SIZES, rank=SIZES, columns=SIZES, seed=st.integers(0, 999), scaling=SCALINGS, kind=KINDS)
def test_any_floats(rows, rank, columns, seed, scaling, kind):
    """Subnormals, the largest, both zeros, any patterns: as if every product and every sum were rounded."""
    rng = np.random.default_rng(seed)
    left = values(rng, rows * rank, kind).reshape(rows, rank)
    right = values(rng, rank * columns, kind).reshape(rank, columns)
    expected = reference.product(left, right, scaling)
    for found in both(left, right, scaling):
        assert_same_bits(found, expected)


@settings(max_examples=60, deadline=None)
@given(rows=SIZES, rank=SIZES, columns=SIZES, seed=st.integers(0, 999), scaling=SCALINGS)
def test_any_doubles(rows, rank, columns, seed, scaling):
    """Their products are not exact: fused, some would differ."""
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((rows, rank)), rng.standard_normal((rank, columns))
    right[rank // 2 :] = -right[: rank - rank // 2] * (1 + rng.integers(-2, 3, (rank - rank // 2, columns)) / 2**52)
    expected = reference.product(left, right, scaling)
    for found in both(left, right, scaling):
        assert_same_bits(found, expected)


@settings(max_examples=60, deadline=None)
@given(rank=st.integers(1, 20), seed=st.integers(0, 999), share=st.floats(0.001, 0.5))
def test_what_is_not_finite_passes_on(rank, seed, share):
    rng = np.random.default_rng(seed)
    left, right = (rng.standard_normal(shape).astype(np.float32) for shape in ((7, rank), (rank, 21)))
    for matrix in (left, right):
        odd = rng.random(matrix.shape) < share
        matrix[odd] = rng.choice(np.array([np.nan, -np.nan, np.inf, -np.inf], np.float32), int(odd.sum()))
    expected = reference.product(left, right, 0.5)
    for found in both(left, right, 0.5):
        assert_same_bits(found, expected)


@pytest.mark.parametrize("pattern", [0x7FC00000, 0xFFC00000, 0x7FC12345, 0xFF812345])
def test_one_nan_keeps_its_sign_and_its_upper_bits(pattern):
    left, right = np.ones((5, 3), np.float32), np.ones((3, 18), np.float32)
    left.view(np.uint32)[2, 1] = pattern
    for found in both(left, right, 1.0):
        assert (found.view(np.uint32)[2] == pattern | 0x00400000).all()
        assert (np.delete(found, 2, axis=0) == 3).all()


def test_beyond_float32_is_infinite():
    for found in both(np.full((1, 1), 1e30), np.full((1, 2), 1e30), 1.0):
        assert np.isposinf(found).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rank", [1, 16, 300])
def test_wider_than_all_panels_and_in_any_parts(dtype, rank):
    rng = np.random.default_rng(1)
    columns = 2 * low_rank.PACKED + 5
    left, right = rng.standard_normal((6, rank)).astype(dtype), rng.standard_normal((rank, columns)).astype(dtype)
    whole = reference.product(left, right, 0.7)
    out = np.full((8, columns + 3), 7, np.float32)
    KERNELS[dtype](left, right, 0.7, out.reshape(-1), columns + 3 + 2, columns + 3)
    np.testing.assert_array_equal(out[1:7, 2:-1].view(np.uint32), whole.view(np.uint32))
    out[1:7, 2:-1] = 7
    assert (out == 7).all()  # nothing beside it was written
    part = np.empty((1, 7), np.float32)
    KERNELS[dtype](left[1:2], np.ascontiguousarray(right[:, 1020:1027]), 0.7, part.reshape(-1), 0, 7)
    np.testing.assert_array_equal(part, whole[1:2, 1020:1027])


PROGRAM = """
import sys
import numpy as np
from sdmw.kernels import low_rank
rng = np.random.default_rng(3)
left, right = rng.integers(0, 2**32, (11, 17), np.uint32), rng.integers(0, 2**32, (17, 75), np.uint32)
left, right = (np.where(np.isfinite(each.view("f4")), each.view("f4"), np.float32(1)) for each in (left, right))
out = np.zeros((11, 75), np.float32)
low_rank.product_of_floats(left, right, 0.3, out.reshape(-1), 0, 75)
sys.stdout.buffer.write(out.tobytes())
left, right = rng.standard_normal((11, 17)), rng.standard_normal((17, 75))
low_rank.product_of_doubles(left, right, 0.3, out.reshape(-1), 0, 75)
sys.stdout.buffer.write(out.tobytes())
"""


def output(**environment):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def in_plain_python():
    return output(NUMBA_DISABLE_JIT="1")


@pytest.mark.parametrize("processor", ["generic", "x86-64-v3"])
def test_processors_with_and_without_fused_operations_agree(in_plain_python, processor):
    """And with fewer registers, where fewer rows are multiplied together."""
    if processor.startswith("x86") and platform.machine() != "x86_64":
        pytest.skip("another kind of processor")
    found = output(NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES="")
    assert len(found) == 2 * 4 * 11 * 75
    assert found == in_plain_python
