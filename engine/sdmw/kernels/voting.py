"""Weighted sums of deltas, with a vote on signs or without. Source: METHODS.md, section 3, steps 3 to 7."""

from typing import Any

import numpy as np

from sdmw.kernels.codes import DELTA
from sdmw.kernels.jit import bits_of, float_of, kernel
from sdmw.kernels.tiles import decode


@kernel
def deltas_of(address: int, code: int, start: int, size: int, base: Any, delta: Any) -> None:
    """The deltas of `size` elements from `start` of one input, float32; zero where bits are equal."""
    decode(address, code, start, size, delta)
    for i in range(size if code != DELTA else 0):
        delta[i] = np.float32(0.0) if bits_of(delta[i]) == bits_of(base[i]) else delta[i] - base[i]


@kernel
def kept_if(keep: bool, value: Any) -> Any:
    """A float32, or +0. By its bits: to put a value back or not would be a store at times, which fills no vectors."""
    return float_of(bits_of(value) & (np.uint32(0xFFFFFFFF) if keep else np.uint32(0)))


@kernel
def combine(
    deltas: Any, weights: Any, size: int, vote: bool, normalize: bool, scale: Any, base: Any, total: Any, share: Any
) -> None:
    """(n,s),(n),(),(),(),(),(s),(s),(s): the base plus scale * the weighted sum of deltas, in `total`.

    With `vote` only deltas of the sign of the sum count, zero being positive. With `normalize` the sum is divided by
    that of the weights which count, at each element. All numbers are float32; `deltas` and `share` are overwritten. NaN
    passes on.
    """
    models = weights.size
    zero, one = np.float32(0.0), np.float32(1.0)
    # A loop for each case: a condition that does not change within one keeps it from being vectorised.
    for model in range(models):
        delta, weight = deltas[model], weights[model]
        for i in range(size):
            delta[i] = weight * delta[i]
        for i in range(size if model == 0 else 0):
            total[i] = delta[i]
        for i in range(0 if model == 0 else size):
            total[i] = total[i] + delta[i]
    if vote:
        for i in range(size):
            share[i] = one if total[i] >= zero else -one  # the sign
            total[i] = zero if total[i] == total[i] else total[i]
        for model in range(models):
            delta = deltas[model]
            for i in range(size):
                delta[i] = kept_if(delta[i] * share[i] > zero, delta[i])
                total[i] = total[i] + delta[i]
    if vote and normalize:
        share[:size] = zero
        for model in range(models):
            delta, weight = deltas[model], weights[model]
            for i in range(size):
                share[i] = share[i] + (zero if delta[i] == zero else weight)  # zero: it does not count
        for i in range(size):
            total[i] = total[i] / (one if share[i] == zero else share[i])
    elif normalize:
        whole = zero
        for model in range(models):
            whole = np.float32(whole + weights[model])
        whole = one if abs(whole) < np.float32(1e-8) else whole
        for i in range(size):
            total[i] = total[i] / whole
    for i in range(0 if scale == one else size):
        total[i] = total[i] * scale
    for i in range(size):
        total[i] = base[i] + total[i]
