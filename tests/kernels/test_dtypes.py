"""decode and encode against ml_dtypes and NumPy, over every pattern of 16 bits and many of 32."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdmw.kernels import tiles
from sdmw.kernels.codes import BF16, F16, F32

HALVES = {F16: np.float16, BF16: ml_dtypes.bfloat16}
EVERY_HALF = np.arange(1 << 16, dtype=np.uint16)


def encode(values, code):
    """Encode a float32 array: its patterns, and whether one is not finite."""
    out = np.zeros(values.size, np.uint32 if code == F32 else np.uint16)
    bad = tiles.encode(values, values.size, code, out.ctypes.data, 0)
    return out, bad


def decode(patterns, code):
    out = np.zeros(patterns.size, np.float32)
    tiles.decode(patterns.ctypes.data, code, 0, patterns.size, out)
    return out


@pytest.mark.parametrize("code", HALVES)
def test_every_half_widens_to_the_float32_of_the_same_value(code):
    with np.errstate(invalid="ignore"):
        expected = EVERY_HALF.view(HALVES[code]).astype(np.float32)
    found = decode(EVERY_HALF, code)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(found.view(np.uint32)[numbers], expected.view(np.uint32)[numbers])
    assert np.isnan(found[~numbers]).all()


@pytest.mark.parametrize("code", HALVES)
def test_every_half_survives_the_round_trip(code):
    numbers = EVERY_HALF[~np.isnan(decode(EVERY_HALF, code))]
    found, _ = encode(decode(numbers, code), code)
    np.testing.assert_array_equal(found, numbers)


@pytest.mark.parametrize("code", HALVES)
@pytest.mark.parametrize("step", [0x1, 0x1001, 0xFFFF, 0x7FFF, 0x8000, 0x8001])
def test_rounding_is_to_nearest_even_around_every_half(code, step):
    """Every 16-bit pattern as the high half of a float32, with low halves around the tie; and float16's own ties."""
    patterns = (EVERY_HALF.astype(np.uint32) << 16) + np.uint32(step)
    values = patterns.view(np.float32)
    assert_rounds(values, code)
    halfway = (EVERY_HALF.astype(np.uint32) << 16 | np.uint32(step << 12 & 0xFFFF)).view(np.float32)
    assert_rounds(halfway, code)


@given(hnp.arrays(np.uint32, st.integers(1, 50), elements=st.integers(0, 2**32 - 1)))
def test_any_float32_rounds_as_numpy_rounds(patterns):
    for code in HALVES:
        assert_rounds(patterns.view(np.float32), code)


def assert_rounds(values, code):
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        expected = values.astype(HALVES[code])
    found, bad = encode(values, code)
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(found[numbers], expected.view(np.uint16)[numbers])
    assert np.isnan(decode(found, code)[~numbers]).all()
    with np.errstate(invalid="ignore"):
        assert bad == (not np.isfinite(expected.astype(np.float32)).all())


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e38, -0.0, 1e-45])
def test_float32_passes_unchanged_and_tells_what_is_not_finite(value):
    values = np.array([1, value], np.float32)
    found, bad = encode(values, F32)
    np.testing.assert_array_equal(found, values.view(np.uint32))
    assert bad == (not np.isfinite(value))


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("code", [F32, F16, BF16])
def test_unaligned_data_are_read_alike(code, shift):
    size = 4 if code == F32 else 2
    raw = np.random.default_rng(1).integers(0, 255, 5000 * size + 8, dtype=np.uint8)
    shifted = np.concatenate([np.zeros(shift, np.uint8), raw])
    out, expected = np.zeros(4096, np.float32), np.zeros(4096, np.float32)
    tiles.decode(raw.ctypes.data, code, 3, 4096, expected)
    tiles.decode(shifted.ctypes.data + shift, code, 3, 4096, out)
    np.testing.assert_array_equal(out.view(np.uint32), expected.view(np.uint32))
