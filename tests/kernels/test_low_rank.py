"""The product of small matrices, compiled and as plain Python, against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import low_rank as reference
from sdmw.kernels import low_rank

SIZES = st.integers(0, 9)


def both(left, right, scaling):
    """What the kernel gives compiled, and as plain Python."""
    found = []
    for function in (low_rank.product, plain_product):
        out = np.full((left.shape[0], right.shape[1]), 7, np.float32)
        with np.errstate(all="ignore"):
            function(left, right, scaling, out)
        found.append(out)
    return found


def plain_product(*arguments):
    with pytest.MonkeyPatch.context() as patched:
        for name in ("add_four", "add_one", "round_to"):
            patched.setattr(low_rank, name, getattr(low_rank, name).py_func)
        patched.setattr(low_rank, "WIDTH", 5)
        low_rank.product.py_func(*arguments)


@settings(max_examples=60, deadline=None)
@given(rows=SIZES, rank=SIZES, columns=SIZES, seed=st.integers(0, 999), scaling=st.sampled_from([1.0, 0.3, -2.5, 0.0]))
def test_any_shape(rows, rank, columns, seed, scaling):
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((rows, rank)), rng.standard_normal((rank, columns))
    expected = reference.product(left, right, scaling)
    for found in both(left, right, scaling):
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_wider_than_a_block_and_in_any_parts():
    rng = np.random.default_rng(1)
    left, right = rng.standard_normal((3, 17)), rng.standard_normal((17, 2 * low_rank.WIDTH + 5))
    whole = reference.product(left, right, 0.7)
    out = np.empty(whole.shape, np.float32)
    low_rank.product(left, right, 0.7, out)
    np.testing.assert_array_equal(out.view(np.uint32), whole.view(np.uint32))
    part = np.empty((1, 7), np.float32)
    low_rank.product(np.ascontiguousarray(left[1:2]), np.ascontiguousarray(right[:, 1020:1027]), 0.7, part)
    np.testing.assert_array_equal(part, whole[1:2, 1020:1027])


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_passes_on(odd):
    left, right = np.ones((2, 2)), np.ones((2, 3))
    left[0, 1] = odd
    for found in both(left, right, 1.0):
        assert not np.isfinite(found[0]).any()
        assert (found[1] == 2).all()


def test_beyond_float32_is_infinite():
    for found in both(np.full((1, 1), 1e30), np.full((1, 2), 1e30), 1.0):
        assert np.isposinf(found).all()
