"""Words of a range put one behind the other, for every kind of processor."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from sdmw.kernels import compiler  # noqa: F401  what Numba makes of compress
from sdmw.kernels.compress import SPARE, compress


@njit
def compressed(words, size, shift, first, width, out, known):
    return compress(words, size, shift, first, width, out, known)


words = st.integers(0, 0xFFFFFFFF)


@pytest.mark.parametrize("shift", [0, 16])
@given(seed=st.integers(0, 999), size=st.integers(0, 70), first=words, width=words, known=st.integers(0, 3))
def test_compiled_it_gives_what_it_gives_as_plain_python(shift, seed, size, first, width, known):
    numbers = np.random.default_rng(seed).integers(0, 1 << 32, 80, np.uint32)
    numbers[::7] = first >> shift
    arguments = [np.uint32(each) for each in (shift, first, width)]
    kept = [w for w in numbers[:size].tolist() if ((w << shift & 0xFFFFFFFF) - first) % 2**32 < width]
    for function in (compress, compressed):
        out = np.full(80 + known + SPARE, 7, np.uint32)
        assert function(numbers, size, *arguments, out, known) == known + len(kept)
        assert out[: known + len(kept)].tolist() == [7] * known + kept
