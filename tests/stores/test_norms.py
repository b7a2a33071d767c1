"""Bounds of norms hold whatever weights, deltas and dropped parts lie within them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmw.stores.norms import Part, Together, scaled

MODELS = 3
NUMBERS = st.floats(-4, 4, width=32)


@st.composite
def parts(draw):
    """A part, and weights, deltas and kept deltas that it may be of."""
    deltas = np.array(draw(st.lists(st.lists(NUMBERS, min_size=4, max_size=4), min_size=MODELS, max_size=MODELS)))
    kept = deltas * np.array(draw(st.lists(st.booleans(), min_size=4, max_size=4)))
    weights = np.array(draw(st.lists(st.floats(0, 2), min_size=MODELS, max_size=MODELS)))
    off = np.array(draw(st.lists(st.sampled_from([0.0, 0.01, 0.5]), min_size=MODELS, max_size=MODELS)))
    at = np.array(draw(st.lists(st.floats(0, 1), min_size=MODELS, max_size=MODELS)))
    bounds = [(max(0.0, w - o * a), w + o * (1 - a)) for w, o, a in zip(weights, off, at, strict=True)]
    dropped = [(np.linalg.norm(d - k),) * 2 for d, k in zip(deltas, kept, strict=True)]
    return Part(deltas @ deltas.T, bounds, dropped), weights, deltas, kept


def within(value, bounds):
    return bounds[0] * (1 - 1e-9) - 1e-6 <= value <= bounds[1] * (1 + 1e-9) + 1e-6


@given(parts())
def test_a_part(given):
    part, weights, deltas, kept = given
    assert within(np.linalg.norm(weights @ deltas), part.unfiltered)
    assert within(np.linalg.norm(weights @ kept), part.kept)


@given(parts())
def test_a_part_of_which_a_pair_is_unknown(given):
    part, weights, deltas, _ = given
    gram = part.gram.copy()
    gram[0, 1] = gram[1, 0] = np.nan
    unknown = Part(gram, part.weights, part.dropped)
    low, high = unknown.unfiltered
    assert within(np.linalg.norm(weights @ deltas), (low, high))
    assert high <= sum(most * norm for (_, most), norm in zip(part.weights, part.norms, strict=True)) + 1e-9


@given(st.lists(parts(), min_size=1, max_size=3))
def test_parts_together(given):
    together = Together()
    for part, *_ in given:
        together.add(part)
    whole = np.concatenate([weights @ deltas for _, weights, deltas, _ in given])
    alone = [np.concatenate([weights[m] * deltas[m] for _, weights, deltas, _ in given]) for m in range(MODELS)]
    num, den = sum(map(np.linalg.norm, alone)), np.linalg.norm(whole)
    assert within(np.linalg.norm(np.concatenate([weights @ kept for _, weights, _, kept in given])), together.norm)
    assert within(num, together.unturned)
    low, high = together.preserving
    if den > 1e-4 * num > 1e-6:
        assert low * (1 - 1e-5) <= num / den <= high * (1 + 1e-5)


def test_a_sum_that_cancels_keeps_its_lambda():
    gram = np.array([[1.0, -1.0], [-1.0, 1.0]])
    exact, bounded = Together(), Together()
    exact.add(Part(gram, [(0.5, 0.5)] * 2, [(0.0, 0.0)] * 2))
    bounded.add(Part(gram, [(0.4, 0.5)] * 2, [(0.0, 0.0)] * 2))
    assert exact.preserving == (1.0, 1.0)
    assert bounded.preserving[0] == 1.0
    assert bounded.preserving[1] == pytest.approx(1e6, rel=1e-5)


@given(st.tuples(NUMBERS, NUMBERS), st.tuples(NUMBERS, NUMBERS), st.floats(0, 1), st.floats(0, 1))
def test_products_of_bounds(one, other, first, second):
    (a, b), (c, d) = sorted(one), sorted(other)
    low, high = scaled((a, b), (c, d))
    assert low - 1e-9 <= (a + (b - a) * first) * (c + (d - c) * second) <= high + 1e-9
