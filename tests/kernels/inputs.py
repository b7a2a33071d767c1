"""Tiles for kernel tests: heavy ties, zeros, subnormals, extremes, both zeros, in every dtype."""

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from sdmw.kernels.codes import BF16, F16, F32
from sdmw.statistics.look import Tile

STORED = {F32: np.float32, F16: np.float16, BF16: ml_dtypes.bfloat16}

SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 6e-8, 1.1754944e-38, 3e-39, 65504, 3.3e38, -3.3e38, 0.1, 0.10000001],
    np.float32,
)


def values(rng, count, kind):
    """A float32 array of a kind, finite."""
    if kind == "special":
        return rng.choice(SPECIAL, count)
    if kind == "ties":
        return rng.integers(-3, 4, count).astype(np.float32) / 8
    if kind == "patterns":
        drawn = rng.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
        return np.where(np.isfinite(drawn), drawn, np.float32(0))
    return rng.normal(0, 0.02, count).astype(np.float32)


def stored(array, code):
    """Rounded to a dtype, finite."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        out = array.astype(STORED[code])
    return np.where(np.isfinite(out.astype(np.float32)), out, STORED[code](0)).astype(STORED[code])


def tile_of(arrays, codes):
    return Tile(np.array([array.ctypes.data for array in arrays], np.int64), np.array(codes, np.int64), arrays[0].size)


kinds = st.sampled_from(["special", "ties", "patterns", "normal"])
codes = st.sampled_from([F32, F16, BF16])


COUNTS = st.integers(1, 3)


@st.composite
def inputs(draw, models=COUNTS):
    """Base and models as stored arrays, and their codes; some elements equal the base's."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.one_of(st.integers(1, 40), st.sampled_from([4095, 4096, 4097, 9000])))
    chosen = [draw(codes) for _ in range(draw(models) + 1)]
    base = values(rng, count, draw(kinds))
    arrays = [stored(base, chosen[0])]
    for code in chosen[1:]:
        moved = values(rng, count, draw(kinds))
        same = rng.random(count) < draw(st.sampled_from([0.0, 0.5, 1.0]))
        arrays.append(stored(np.where(same, arrays[0].astype(np.float32), moved), code))
    return arrays, chosen
