"""Random words: known answers, any part drawn alone, and shares as they should be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.dare_linear import words as plain_words
from sdmw.kernels.chance import EXPONENTS, add_magnitudes, words
from sdmw.statistics.kept import keys_of

TEXT_KEY = 0x2D05F37CC4B60DAE  # of METHODS.md, section 5


def drawn(key, first, size):
    out = np.zeros(size, np.uint32)
    words(np.uint64(key), first, size, out)
    return out


def test_known_answers():
    assert [f"{word:08x}" for word in drawn(0, 0, 4)] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    assert keys_of(42, 2, "model.layers.0.mlp.up_proj.weight")[1] == TEXT_KEY
    assert [f"{word:08x}" for word in drawn(TEXT_KEY, 136, 4)] == ["22054b85", "5f92bf5a", "a33b437e", "a56289b9"]


@given(key=st.integers(0, 2**64 - 1), first=st.integers(0, 2**40), size=st.integers(1, 50))
def test_a_part_drawn_alone_is_that_of_the_whole(key, first, size):
    start = first - first % 8
    np.testing.assert_array_equal(drawn(key, first, size), drawn(key, start, size + 8)[first - start :][:size])


@given(key=st.integers(0, 2**64 - 1), size=st.integers(1, 30))
def test_it_is_the_reference(key, size):
    assert drawn(key, 0, size).tolist() == plain_words(key, size)


@pytest.mark.parametrize("density", [0.1, 0.3, 0.9])
def test_shares_are_binomial(density):
    found = [np.mean(drawn(key, 0, 750) < density * 2.0**32) for key in keys_of(0, 400, "w")]
    deviation = np.sqrt(density * (1 - density) / 750)
    assert abs(np.mean(found) - density) < 4 * deviation / np.sqrt(400)
    assert 0.8 < np.std(found) / deviation < 1.2


@given(st.integers(0, 2**32 - 1), st.integers(1, 1024), st.integers(1, 254), st.integers(0, 40), st.booleans())
def test_sums_of_magnitudes_are_exact(seed, size, lowest, spread, whole):
    """Whether the exponents of a block are near each other or not, at either end of their range."""
    rng = np.random.default_rng(seed)
    exponents = np.minimum(rng.integers(lowest, lowest + spread + 1, size), 254)
    mantissas = rng.integers(0, 1 << 23, size) * (1 if whole else 0)
    bits = exponents << 23 | mantissas | rng.integers(0, 2, size) << 31
    bits = (bits * (rng.random(size) < 0.9)).astype(np.uint32)
    sums = np.zeros((1, EXPONENTS), np.int64)
    add_magnitudes(bits.view(np.float32), size, np.full(1024, np.nan), sums[0])
    found = sum(int(each) << max(exponent, 1) - 1 for exponent, each in enumerate(sums[0]))
    scaled = (int(abs(value) * 2.0**149) for value in bits.view(np.float32).astype(np.float64))
    assert found == sum(scaled)
    assert sums[0, EXPONENTS - 1] == 0
