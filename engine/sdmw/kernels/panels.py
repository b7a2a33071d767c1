"""A few rows times a panel of columns, each element summed in order. Compiled in `compiled_panels.py`.

A panel is a run of 16 columns of a matrix, row after row, in float64.
"""

from typing import Any

import numpy as np

from sdmw.kernels.blocks import LANES

ROWS = 4  # of the left matrix at a time: each number of a panel is then loaded once for four sums


def multiply_floats(left: Any, row: int, panels: Any, panel: int, scaling: float, out: Any, at: int, step: int) -> None:
    """Put scaling * left[row : row + 4] @ panels[panel], each rounded once to float32, in `out` from place `at` on.

    Rows of the result are `step` places apart. All numbers are float32 that have been widened, so that products are
    exact, and a fused multiplication and addition gives the same bits as two operations.
    """
    multiply_doubles(left, row, panels, panel, scaling, out, at, step)


def multiply_doubles(
    left: Any, row: int, panels: Any, panel: int, scaling: float, out: Any, at: int, step: int
) -> None:  # fmt: skip
    """As `multiply_floats`, of any float64: each product and each sum rounds once."""
    sums = np.zeros((ROWS, LANES))
    for number, factors in zip(panels[panel], left[row : row + ROWS].T, strict=True):
        sums += factors[:, None] * number
    for place, each in enumerate(scaling * sums):
        out[at + place * step : at + place * step + LANES] = each.astype(np.float32)
