"""Powers of e and logarithms are as near as they say, at the ends of their range too."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmw.kernels.elementary import log_of_ratio, power_of_2, power_of_e

SHARES = st.floats(1e-8, 1 + 1e-8)


def units_apart(found, exact):
    """By how many units in the last place of the exact number."""
    return abs(Decimal(found) - exact) / Decimal(math.ulp(float(exact)))


@given(st.one_of(st.floats(-708, 0), st.floats(-1, 0), st.sampled_from([0.0, -0.0, -708.0, 700.0, -1e-300])))
def test_a_power_is_near(x):
    with localcontext(prec=50):
        assert units_apart(power_of_e(x), Decimal(x).exp()) < 1


def test_powers_at_the_ends():
    assert [power_of_e(x) for x in (0.0, -0.0, -708.1, -1e300, -math.inf)] == [1, 1, 0, 0, 0]
    assert math.isnan(power_of_e(math.nan))


@given(SHARES, st.one_of(SHARES, st.floats(-1e-3, 1e-3)))
def test_a_logarithm_is_near(p, other):
    q = other if other >= 1e-8 else min(max(p * (1 + other), 1e-8), 1 + 1e-8)
    with localcontext(prec=50):
        exact = (Decimal(p) / Decimal(q)).ln()
        assert log_of_ratio(p, q) == 0 if p == q else units_apart(log_of_ratio(p, q), exact) < 4


@pytest.mark.parametrize("pair", [(math.nan, 0.5), (0.5, math.nan), (math.nan, math.nan)])
def test_the_logarithm_of_nan(pair):
    assert math.isnan(log_of_ratio(*map(np.float64, pair)))


def test_powers_of_two():
    assert [power_of_2(each) for each in range(-1022, 1024)] == [2.0**each for each in range(-1022, 1024)]
