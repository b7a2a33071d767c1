"""Exactly as many deltas are kept as asked, of equal ones the first, in tensors of many blocks, pieces and tiles."""

import math

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import write_checkpoint
from reference.breadcrumbs import breadcrumbs
from reference.sce import sce, variance
from reference.ties import ties
from sdmw.planning import budget
from sdmw.statistics import ties as places
from sdmw.statistics.ties import LastTakenLook, TiesLook

RNG = np.random.default_rng(3)
BASE = np.zeros((70, 100), np.float32)
TIED = [RNG.choice(np.array([0, 0.5, -0.5, 0.25, 2], np.float32), BASE.shape) for _ in range(2)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, array in zip(("base", "a", "b"), (BASE, *TIED), strict=True):
        write_checkpoint(name, {"w": array})


@pytest.fixture(params=[(64, 8192), (64, 3), (128, 10)], ids=["small blocks", "three blocks", "larger blocks"])
def blocks(request, monkeypatch):
    """Blocks of few elements, and tiles that end within them; yields the looks at them that were taken."""
    grain, most = request.param
    monkeypatch.setattr(places, "GRAIN", grain)
    monkeypatch.setattr(places, "MOST_BLOCKS", most)
    monkeypatch.setattr(budget, "LARGEST_TILE", 97)
    monkeypatch.setattr(budget, "SMALLEST_TILE", 97)
    seen = []
    for look in (TiesLook, LastTakenLook):
        counter = look.counter
        monkeypatch.setattr(
            look, "counter", lambda self, models, counter=counter: seen.append(self) or counter(self, models)
        )
    return seen


def merged(method, **parameters):
    recipe = {
        "merge_method": method, "base_model": "base", "models": [{"model": "a"}, {"model": "b"}],
        "parameters": parameters,
    }  # fmt: skip
    report = sdmw.merge(recipe, "out", progress=False, overwrite=True, threads=2)
    return load_file("out/model.safetensors")["w"], report


@pytest.mark.parametrize("trim", ["all", "nonzero"])
@pytest.mark.parametrize("density", [0.001, 0.2, 0.4999, 0.7])
def test_ties(blocks, density, trim):
    found, report = merged("ties", weight=1, density=density, trim=trim)
    np.testing.assert_array_equal(found, ties(BASE, TIED, [1, 1], [density] * 2, trim=trim))
    for model, delta in zip(report.models, TIED, strict=True):
        nonzero = np.count_nonzero(delta)
        count = max(1, int(density * (nonzero if trim == "nonzero" else delta.size)))
        assert (model.facts["nonzero"], model.facts["kept"]) == (nonzero, min(count, nonzero))
    taken = [look for look in blocks if isinstance(look, LastTakenLook)]
    assert taken
    # What is read again is one block of each model.
    elements = places.block_of(BASE.size)
    assert all(each.stop - each.start <= elements for look in taken for each in look.taken)


@pytest.mark.parametrize("trim", ["all", "nonzero"])
def test_breadcrumbs(blocks, trim):
    found, _ = merged("breadcrumbs", weight=1, density=0.4, gamma=0.03, trim=trim)
    np.testing.assert_array_equal(found, breadcrumbs(BASE, TIED, [1, 1], [0.4] * 2, [0.03] * 2, trim=trim))


@pytest.mark.parametrize("select_topk", [0.001, 0.3, 0.8])
def test_sce(blocks, select_topk):
    found, report = merged("sce", select_topk=select_topk)
    np.testing.assert_array_equal(found, sce(BASE, TIED, select_topk))
    assert report.facts["kept"] == int(select_topk * np.count_nonzero(variance(TIED)))
    assert blocks


@pytest.mark.parametrize("elements", [1, 65_536, 65_537, 8192 * 65_536, 8192 * 65_536 + 1, 2 * 10**9, 3 * 10**12])
def test_blocks_are_few_enough_and_whole_grains(elements):
    block = places.block_of(elements)
    assert block % places.GRAIN == 0
    assert math.ceil(elements / block) <= places.MOST_BLOCKS
    assert TiesLook((), elements).blocks == math.ceil(elements / block)


def test_the_largest_are_dropped_of_the_nonzero_alone():
    """METHODS_FACTS.md: of 100 with density 0.9 and gamma 0.3 all 10 that are dropped are the largest."""
    delta = np.zeros((2, 100), np.float32)
    delta[0] = np.arange(1, 101)
    write_checkpoint("zeros", {"w": np.zeros_like(delta)})
    write_checkpoint("more", {"w": delta})
    recipe = {
        "merge_method": "breadcrumbs", "base_model": "zeros", "models": [{"model": "more"}],
        "parameters": {"weight": 1, "density": 0.9, "gamma": 0.3, "trim": "nonzero"},
    }  # fmt: skip
    sdmw.merge(recipe, "out", progress=False)
    assert np.flatnonzero(load_file("out/model.safetensors")["w"]).tolist() == list(range(90))
