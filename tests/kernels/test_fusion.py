"""Scores of changes: their order, the divergence of long rows, and quartiles that are exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import write_checkpoint
from kernels.inputs import inputs, tile_of
from reference.arcee_fusion import arcee_fusion
from reference.arcee_fusion import divergence as plain_divergence
from sdmw.kernels.blocks import GRAIN, LANES
from sdmw.kernels.codes import DELTA, F32
from sdmw.kernels.divergence import divergence
from sdmw.kernels.dots import PARTIALS
from sdmw.kernels.fusion import BINS, key_of
from sdmw.kernels.tiles import BLOCK
from sdmw.statistics.look import Tile
from sdmw.statistics.scores import LowScoresLook, ScoresLook


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=50))
def test_keys_are_ordered_as_scores_are(scores):
    scores = np.array(scores, np.float32) + np.float32(0)
    keys = [int(key_of(score)) for score in scores]
    assert np.argsort(keys, kind="stable").tolist() == np.argsort(scores, kind="stable").tolist()


def test_nan_comes_last():
    inf, nan, negative = (np.uint32(bits).view(np.float32) for bits in (0x7F800000, 0x7F800001, 0xFFC00000))
    assert key_of(inf) < key_of(nan) == key_of(negative)


def divergence_of(arrays, codes):
    size = arrays[0].size
    tile = tile_of(arrays, codes)
    scratch = np.empty((2, BLOCK), np.float32)
    shares, sums, partials = np.empty((2, size)), np.empty(size // GRAIN + 1), np.empty(PARTIALS)
    return divergence(tile.addresses, tile.codes, 0, size, *scratch, shares, np.zeros(LANES), sums, partials)


@given(inputs(models=st.just(1)))
def test_the_divergence_of_a_row_is_the_reference(drawn):
    arrays, codes = drawn
    expected = plain_divergence(*(array.astype(np.float32) for array in arrays))
    np.testing.assert_allclose(divergence_of(arrays, codes), expected, rtol=1e-9, atol=1e-13)


def test_of_a_long_row_and_of_a_delta():
    rng = np.random.default_rng(3)
    base = rng.normal(0, 1, 3 * GRAIN + 77).astype(np.float32)
    delta = rng.normal(0, 0.1, base.size).astype(np.float32)
    found = divergence_of([base, base + delta], [F32, F32])
    np.testing.assert_allclose(found, plain_divergence(base, base + delta), rtol=1e-12)
    assert divergence_of([base, delta], [F32, DELTA]) == found


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.booleans())
def test_every_rank_is_found(seed, size, ties):
    rng = np.random.default_rng(seed)
    model = (rng.integers(-2, 3, size) / 4 if ties else rng.normal(0, 1, size)).astype(np.float32)
    base = np.zeros(size, np.float32)
    tile = tile_of([base, model], [F32, F32])
    tile = Tile(tile.addresses, tile.codes, size, row=size)
    counter = ScoresLook().counter(1)
    counter.add(tile)
    scores = counter.result()
    ranks = tuple(sorted(rng.integers(0, size, 3).tolist()))
    low = LowScoresLook(scores.bins_to_open(ranks)).counter(1)
    low.add(tile)
    low_bits = low.result()
    expected = np.sort((np.abs(model).astype(np.float64) * divergence_of([base, model], [F32, F32])).astype(np.float32))
    assert [scores.at(rank, low_bits) for rank in ranks] == expected[list(ranks)].tolist()
    assert scores.counts.sum() == size


@pytest.mark.parametrize("shape", [(200_001,), (3, 70_000), (5, 1), (), (2, 3, 4)])
def test_a_tensor_of_any_shape(tmp_path, monkeypatch, shape):
    """Rows longer than a block of sums, rows of one, and a scalar."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    base, model = (np.asarray(rng.normal(0, 1, shape), np.float32) for _ in range(2))
    write_checkpoint("base", {"w": base})
    write_checkpoint("model", {"w": model})
    recipe = {"merge_method": "arcee_fusion", "base_model": "base", "models": [{"model": "model"}]}
    sdmw.merge(recipe, "out", progress=False)
    np.testing.assert_array_equal(load_file("out/model.safetensors")["w"], arcee_fusion(base, model))


def test_bins_are_halves_of_keys():
    assert int(key_of(np.float32(np.inf))) >> 16 < BINS
