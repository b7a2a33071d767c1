"""Powers of e and logarithms in additions, products and quotients alone, so that loops over them fill vectors.

A C library's take one number at a time, and differ between libraries and processors; these give the same bits anywhere.
Source: FreeBSD's msun, e_exp.c (Sun Microsystems, 1993: polynomial, halves of ln 2); the series of artanh.
"""

from typing import Any

import numpy as np

from sdmw.kernels.jit import bits64_of, float64_of, kernel

_E_TO_2 = 1.4426950408889634  # 1 / ln 2
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # the first times an exponent is exact
_P1, _P2, _P3 = 1.66666666666666019037e-01, -2.77777777770155933842e-03, 6.61375632143793436117e-05
_P4, _P5 = -1.65339022054652515390e-06, 4.13813679705723846039e-08
_TO_INTEGER = 1.5 * 2.0**52  # added to a number it leaves an integer, in the lowest bits of the pattern
_BIAS, _MANTISSA = np.uint64(1023), np.uint64(52)
_LEAST = -708.0  # a smaller power is no normal number

_ROUND_UP = np.uint64((1024 << 52) + (1 << 51))  # to the nearest exponent, and none below zero
_INTEGER, _ZERO = np.uint64(0x4330000000000000), 2.0**52 + 1024.0  # the pattern of 2**52, for an integer below it
_T1, _T2, _T3, _T4, _T5 = 2 / 3, 2 / 5, 2 / 7, 2 / 9, 2 / 11
_T6, _T7, _T8, _T9, _T10 = 2 / 13, 2 / 15, 2 / 17, 2 / 19, 2 / 21


@kernel
def power_of_2(exponent: int) -> Any:
    """2 to the power of an integer from -1022 to 1023, a float64."""
    return float64_of(np.uint64(np.int64(exponent) + np.int64(1023)) << _MANTISSA)


@kernel
def power_of_e(x: Any) -> Any:
    """E to the power of a float64 up to 709, to less than 1 unit in the last place; 0 below -708. NaN passes on."""
    shifted = x * _E_TO_2 + _TO_INTEGER
    exponent = shifted - _TO_INTEGER
    high, low = x - exponent * _LN2_HIGH, exponent * _LN2_LOW
    rest = high - low
    square = rest * rest
    c = rest - square * (_P1 + square * (_P2 + square * (_P3 + square * (_P4 + square * _P5))))
    power = 1.0 - ((low - rest * c / (2.0 - c)) - high)
    power = power * float64_of((bits64_of(shifted) + _BIAS) << _MANTISSA)
    return 0.0 if x < _LEAST else power


@kernel
def log_of_ratio(p: Any, q: Any) -> Any:
    """The natural logarithm of p / q, to 4 units in the last place; float64, from 1e-9 to 2. NaN passes on.

    ln(p / q) = n ln 2 + 2 artanh((p - q') / (p + q')), q' = q * 2**n next to p. Their difference is exact: where both
    are alike it is nearer than the logarithm of a rounded quotient.
    """
    biased = (bits64_of(p) - bits64_of(q) + _ROUND_UP) >> _MANTISSA
    n = float64_of(biased | _INTEGER) - _ZERO
    near = q * float64_of((biased - np.uint64(1)) << _MANTISSA)
    s = (p - near) / (p + near)
    z = s * s
    w = z * z
    odd = _T1 + w * (_T3 + w * (_T5 + w * (_T7 + w * _T9)))
    even = _T2 + w * (_T4 + w * (_T6 + w * (_T8 + w * _T10)))
    return n * _LN2_HIGH + (2.0 * s + (s * (z * (odd + z * even)) + n * _LN2_LOW))
