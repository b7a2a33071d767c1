"""How two tensors differ, in plain NumPy: what `sdmw.compare` says of floats."""

import math

import numpy as np

from reference.rounding import bits, widen


def change(a, b):
    """By the names of the fields of a `Change`; norms to the precision of math.fsum."""
    one, other = widen(a).ravel(), widen(b).ravel()
    same = bits(a).ravel() == bits(b).ravel()
    with np.errstate(invalid="ignore", over="ignore"):
        delta = np.abs(np.where(same, np.float32(0), other - one))
    finite = delta[np.isfinite(delta)].astype(np.float64)
    counts = powers(finite[finite > 0])
    norm_a, norm_b, norm = (math.sqrt(math.fsum(np.square(each))) for each in (clean(one), clean(other), finite))
    return {
        "elements": one.size,
        "changed": int(np.count_nonzero(~same)),
        "nonfinite": int(delta.size - finite.size),
        "sum": math.fsum(finite),
        "largest": float(finite.max(initial=0)),
        "norm_a": norm_a,
        "norm_b": norm_b,
        "norm": norm,
        "ratio": norm / norm_a if norm_a else None,
        "cosine": math.fsum(clean(one) * clean(other)) / norm_a / norm_b if norm_a and norm_b else None,
        "power": min(counts, default=None),
        "counts": tuple(counts.get(each, 0) for each in range(min(counts), max(counts) + 1)) if counts else (),
    }


def clean(values):
    """In float64; NaN and infinity are zero."""
    return np.where(np.isfinite(values), values, 0).astype(np.float64)


def powers(magnitudes):
    """How many there are by power of two; all below float32's normal numbers are one more."""
    exponents, counts = np.unique(np.maximum(np.frexp(magnitudes)[1] - 1, -127), return_counts=True)
    return dict(zip(exponents.tolist(), counts.tolist(), strict=True))
