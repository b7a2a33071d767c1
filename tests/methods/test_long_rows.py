"""A tensor of one long row is merged part by part, to the very bits of a row that is held whole."""

import functools
import itertools
import json
import pickle
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdmw
from checkpoints_on_disk import write_checkpoint
from kernels.inputs import STORED, codes, inputs, tile_of
from sdmw.errors import CheckpointError, RunError
from sdmw.kernels.blocks import GRAIN
from sdmw.kernels.chance import words
from sdmw.kernels.codes import BF16, DELTA, F32
from sdmw.methods import all_methods
from sdmw.methods.long_rows import Chance
from sdmw.methods.method import Destination, Settings
from sdmw.statistics.between import BetweenLook, Bounds
from sdmw.statistics.kept import keys_of
from sdmw.statistics.look import Measured
from sdmw.statistics.ranges import OPEN_RANGE, RANGE_BYTES, ApartLook, RangesLook
from sdmw.statistics.ranked import SteppedLook


def params_of(name, models, elements, rows, likelihoods, seed):
    """Of a tensor of some rows: of two, each is held whole."""
    densities, epsilons = zip(*likelihoods[:models], strict=True)
    top = {"normalize": True, "rescale": True, "lambda": 1.0}
    by_model = {"weight": (0.75, -0.5, 1.0)[:models], "density": densities, "epsilon": epsilons}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sdmw.methods.method.LONG_ROW", 1)
        return all_methods()[name].params(Settings(models, True, elements, rows, seed, top, by_model))


def parts_of(method, params, tile, grain, chance):
    """Parts of a tile that begin at multiples of a grain; one where rows are held whole."""
    cuts = [] if method.row_bytes(params) else [grain * chance.randint(0, tile.count // grain) for _ in range(3)]
    for start, stop in itertools.pairwise([0, *sorted(cuts), tile.count]):
        if start < stop:
            yield start, replace(tile.cut(start, stop), tensor="w")


def measured(method, params, tile, chance):
    """What all looks find, each in parts that are added in any order; and the looks."""
    have, looks, models = Measured(), [], tile.addresses.size - 1
    while look := method.needs(params, have):
        found = []
        for _, part in parts_of(method, params, tile, look.grain, chance):
            counter = look.counter(models)
            for _, each in parts_of(method, params, part, 1, chance):
                counter.add(each)
            found.append(counter.result())
        chance.shuffle(found)
        have = have.with_look(type(look), {"w": functools.reduce(look.add, found, look.nothing(models))})
        looks.append(look)
    return have, looks


def merged(name, tile, code, rows, likelihoods=((0.5, 0.4),) * 3, seed=3):
    """The bytes of the merged tensor, whether any is not finite, and the looks that it took."""
    method, chance = all_methods()[name], random.Random(seed)
    params = params_of(name, tile.addresses.size - 1, tile.count, rows, likelihoods, seed)
    assert (method.row_bytes(params) is None) == (rows == 1)
    have, looks = measured(method, params, tile, chance)
    layer = method.decide_layer(params, have)
    method.decide_model([(params, layer)])
    out, bad = np.zeros(tile.count, STORED[code]), False
    for start, part in parts_of(method, params, tile, 1, chance):
        with np.errstate(over="ignore"):  # of a factor
            bad |= method.apply(part, params, layer, None, Destination(out[start:].ctypes.data, code))
    return out.tobytes(), bad, looks


def check_same(name, tile, code, **asked):
    """The looks at a long row that gives the bits of one that is held whole."""
    *whole, _ = merged(name, tile, code, 2, **asked)
    *long, looks = merged(name, tile, code, 1, **asked)
    assert long == whole
    return looks


LIKELIHOODS = st.tuples(
    *(st.sampled_from([(0.5, 0.4), (0.3, 0.15), (0.84, 0.15), (0.7, 0.0), (1.0, 0.15), (0.0, 0.15)]),) * 3
)
ODD = st.sampled_from([(), (np.nan,), (np.inf, -np.inf, np.nan), (-np.inf,)])


def tile_with(drawn, odd, *, delta):
    """A tile of one row; some of its last model's elements are not finite, and that is a delta if asked."""
    arrays, dtypes = drawn
    arrays[-1][: len(odd)] = odd[: arrays[-1].size]
    dtypes = [*dtypes[:-1], DELTA] if delta and dtypes[-1] == F32 else dtypes
    return replace(tile_of(arrays, dtypes), row=arrays[0].size)


@pytest.mark.parametrize("name", ["della", "della_linear"])
@given(drawn=inputs(), odd=ODD, delta=st.booleans(), code=codes, likelihoods=LIKELIHOODS, seed=st.integers(0, 99))
def test_della_keeps_what_the_sorted_row_does(name, drawn, odd, delta, code, likelihoods, seed):
    """Ties, zeros, NaN and infinity included, of any dtypes, in any parts."""
    tile = tile_with(drawn, odd, delta=delta)
    if tile.count > 1:
        check_same(name, tile, code, likelihoods=likelihoods, seed=seed)


@given(drawn=inputs(models=st.just(1)), odd=ODD, delta=st.booleans(), code=codes, seed=st.integers(0, 99))
def test_arcee_fusion_scores_by_the_divergence_of_the_whole_row(drawn, odd, delta, code, seed):
    tile = tile_with(drawn, odd, delta=delta)
    if tile.count > 1:
        check_same("arcee_fusion", tile, code, seed=seed)


ZEROS = np.zeros(1 << 20, np.float32)


def of_deltas(*deltas):
    """A tile of one row of models that differ so from a base of zeros; these must be held while it is used."""
    codes_of_all = [F32] + [DELTA] * len(deltas)
    return replace(tile_of([ZEROS, *deltas], codes_of_all), count=deltas[0].size, row=deltas[0].size)


KINDS = {
    "normal": lambda rng, count: rng.normal(0, 0.02, count),
    "of one exponent": lambda rng, count: rng.uniform(1, 2, count),
    "rounded": lambda rng, count: rng.normal(0, 0.02, count).astype(STORED[BF16]),
    "mostly one value": lambda rng, count: np.where(rng.random(count) < 0.9, 0.25, rng.normal(0, 0.02, count)),
    "all equal": lambda rng, count: np.full(count, 0.5),
    "narrow clusters": lambda rng, count: (
        1 + rng.integers(0, 16, count) / 16 + rng.integers(0, 1 << 12, count) * 2.0**-23
    ),
}


@pytest.mark.parametrize("name", ["della", "arcee_fusion"])
@pytest.mark.parametrize("kind", KINDS)
def test_of_several_blocks(name, kind):
    rng = np.random.default_rng(5)
    delta = KINDS[kind](rng, 3 * GRAIN + 77).astype(np.float32)
    for seed in range(3):
        looks = check_same(name, of_deltas(delta), F32, likelihoods=((0.5, 0.15),), seed=seed)
    if name == "della":
        taken = [type(look) for look in looks]
        assert taken.count(RangesLook) <= 3
        assert all(taken.count(look) <= 1 for look in (BetweenLook, ApartLook))


def test_ranges_are_split_until_few_elements_are_open():
    """However narrow the clusters are into which the magnitudes fall."""
    rng = np.random.default_rng(5)
    count = 1 << 20
    bits = 0x3F000000 + rng.integers(0, 64, count) * (1 << 17) + rng.geometric(1e-3, count) % (1 << 15)
    delta = bits.astype(np.uint32).view(np.float32)
    looks = check_same("della", of_deltas(delta), F32, likelihoods=((0.5, 0.49),))
    assert [type(look) for look in looks[:3]] == [RangesLook] * 3
    chance = Chance(0.5, 0.49, count)
    (between,) = (look for look in looks if type(look) is BetweenLook)
    (apart,) = (look for look in looks if type(look) is ApartLook)
    assert between.bounds[0].arrays().shape[1] <= 3 * chance.parts + 1
    assert len(apart.starts[0]) // 4 <= chance.ranges


def test_ranges_take_the_memory_that_the_plan_counts():
    """Of each in a worker, with two results on their way; beside what looks declare."""
    elements, models = 1 << 40, 2
    chances = (Chance(0.5, 0.15, elements),) * models
    most = sum(chance.ranges for chance in chances)
    starts = (np.arange(most // models, dtype="<u4") * np.uint32(128)).tobytes()
    bounds = np.zeros(most // models, np.uint32)
    arrays = [np.ones(9, np.float32)] * 3
    tile, between = tile_of(arrays, [F32] * 3), Bounds.of(np.frombuffer(starts, "<u4"), bounds, bounds)
    for look in (
        ApartLook((starts,) * models),
        BetweenLook(3, (between,) * models, chances[0].room),
        SteppedLook(3, (between.data[: len(starts) * 2],) * models),
    ):
        counter = look.counter(models)
        counter.add(tile)  # compiles
        tracemalloc.start()
        counter = look.counter(models)
        results = []
        for _ in range(2):
            counter.add(tile)
            results.append(counter.result())
        counter.add(tile)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= RANGE_BYTES * most + models * look.memory.counter
        tracemalloc.start()
        look.add(*results)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak + sum(len(pickle.dumps(each)) for each in (look, results[0])) <= OPEN_RANGE * most


def test_deltas_made_for_the_words_of_a_seed_are_refused():
    """So that each word lies at the bound of its element's rank. With another seed it is chance again."""
    count, density, epsilon = 70_000, 0.5, 0.15
    drawn = np.zeros(count, np.uint32)
    words(keys_of(3, 1, "w")[0], 0, count, drawn)
    ranks = (drawn / 2.0**32 - (density - epsilon)) / (2 * epsilon)
    delta = np.where((ranks > 0) & (ranks < 1), ranks, np.random.default_rng(5).random(count)).astype(np.float32)
    room = Chance(density, epsilon, count).room
    said = rf"tensor 'w': expected at most {room} deltas .* matter, found [\d,]+\. Choose another random_seed"
    with pytest.raises(RunError, match=said):
        merged("della", of_deltas(delta), F32, 1, ((density, epsilon),), seed=3)
    check_same("della", of_deltas(delta), F32, likelihoods=((density, epsilon),), seed=4)


@pytest.fixture
def reported(tmp_path, monkeypatch):
    """Merges a long row of one model, of which some values may be odd, and changes its decision in the report."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sdmw.methods.method.LONG_ROW", 50)

    def merge(name, odd=(), **changed):
        rng = np.random.default_rng(5)
        arrays = [rng.normal(0, 1, 100).astype(np.float32) for _ in range(2)]
        arrays[1][: len(odd)] = odd
        for each, array in zip(("base", "model"), arrays, strict=True):
            write_checkpoint(each, {"w": array})
        parameters = {"weight": 1, "density": 0.5} if name == "della" else {}
        recipe = {"merge_method": name, "base_model": "base", "models": [{"model": "model"}], "parameters": parameters}
        sdmw.merge({**recipe, "nonfinite": "pass"}, "out", progress=False)
        path = Path("out/sdmw_report.json")
        report = json.loads(path.read_text())
        report["layers"][0]["decision"].update(changed)
        path.write_text(json.dumps(report))

    return merge


@pytest.mark.parametrize("name", ["della", "arcee_fusion"])
@pytest.mark.parametrize("odd", [(), (np.nan,), (np.inf,), (-np.inf, np.nan)])
def test_a_report_holds_what_was_decided(reported, name, odd):
    reported(name, odd)
    assert sdmw.verify("out", sample=1, progress=False).problems == ()


@pytest.mark.parametrize("steps", [[], [""], ["AAAA"], ["AAAAAAAAAAA="] * 2, ["A"], ["AAAA="]])
def test_a_report_with_steps_that_are_none(reported, steps):
    reported("della", steps=steps)
    with pytest.raises(CheckpointError, match=r"sdmw_report\.json"):
        sdmw.verify("out", sample=1, progress=False)


def test_a_report_without_the_divergence_of_a_row_that_is_not_held_whole(reported):
    """Its kernel would read on behind the tile."""
    reported("arcee_fusion", divergence=None)
    with pytest.raises(CheckpointError, match=r"sdmw_report\.json"):
        sdmw.verify("out", sample=1, progress=False)
