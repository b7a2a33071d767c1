"""A merge that is not written reads as the one that is: whole, in slices, in tiles of any size, and merged again."""

import pickle
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from sdmw import codec
from sdmw.errors import InputChangedError, UsageError
from sdmw.methods import all_methods
from sdmw.planning.beside import Beside
from sdmw.planning.build import Options, build
from sdmw.planning.inputs import Inputs
from sdmw.planning.limits import Limits
from sdmw.recipes.load import load
from sdmw.running.context import publishing, working
from sdmw.running.driver import Run
from sdmw.running.job import Decisions, Job
from sdmw.running.merged import opened

RECIPES = {
    "sdm_w": {"merge_method": "sdm_w", "parameters": {"granularity": "block", "k": 30}},
    "sdm_w to float16": {"merge_method": "sdm_w", "out_dtype": "float16"},
    "an adapter": {"merge_method": "sdm_w", "models": [{"model": "corp"}, {"model": "lora"}]},
    "linear": {"merge_method": "linear", "models": [{"model": "base"}, {"model": "corp"}]},
    "task_arithmetic": {"merge_method": "task_arithmetic", "parameters": {"lambda": 0.7}, "out_dtype": "float32"},
}


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    base["model.odd.weight"] = rng.normal(0, 1, (7, 11, 3)).astype(np.float32)
    others = {"model.position_ids": np.arange(7), "model.scalar": np.array(2.5, np.float32), "flag": np.array(True)}
    write_checkpoint("base", base | others)
    for name in ("corp", "func"):
        write_checkpoint(name, fine_tuned(rng, base) | others)
    write_adapter("lora", adapter_of(rng, base), base_model_name_or_path="base")


def recipe(name):
    both = [{"model": "corp"}, {"model": "func"}]
    return {"base_model": "base", "models": both, **RECIPES[name]}


def job_of(asked):
    """A decided job, as `sdmw.open` makes it."""
    planned = sdmw.plan(asked)
    assert planned.problems == ()
    with working(lambda event: None, planned.threads) as context:
        return Job(planned, Run(planned, context).decide())


@pytest.mark.parametrize("name", RECIPES)
def test_every_tensor_is_the_file_s(world, name):
    sdmw.merge(recipe(name), "out", progress=False)
    reader = pickle.loads(pickle.dumps(sdmw.open(recipe(name), progress=False)))
    written = load_file("out/model.safetensors")
    assert sorted(reader.keys()) == sorted(written)
    with safe_open("out/model.safetensors", "np") as file:
        for key in reader.keys():  # noqa: SIM118  it is no dict
            ours, theirs = reader.get_slice(key), file.get_slice(key)
            assert (ours.get_shape(), ours.get_dtype()) == (theirs.get_shape(), theirs.get_dtype())
            found = reader.get_tensor(key)
            assert (found.dtype, found.shape) == (written[key].dtype, written[key].shape)
            assert found.tobytes() == written[key].tobytes()


INDICES = [
    ..., 0, -1, slice(None), slice(1, 3), slice(None, None, 2), slice(5, 1, -2), slice(3, 3), slice(-2, None),
    (0, 1), (slice(1, 4), 2), (..., 1), (slice(None), slice(2, 9, 3), -1), (2, ..., slice(0, 2)), (),
    slice(None, None, -1), np.int64(3), (np.int8(-1), np.uint8(2)), slice(np.int64(1), np.int64(4)), np.array(2),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_a_slice_is_numpys(world, index):
    reader = sdmw.open(recipe("sdm_w"), progress=False)
    whole = reader.get_tensor("model.odd.weight")
    found = reader.get_slice("model.odd.weight")[index]
    assert (found.dtype, found.shape) == (whole.dtype, whole[index].shape)
    np.testing.assert_array_equal(found, whole[index])


def test_what_is_not_there(world):
    reader = sdmw.open(recipe("sdm_w"), progress=False)
    with pytest.raises(UsageError, match="expected the name of a tensor of the merge, found 'x'"):
        reader.get_tensor("x")
    for index in (7, -8, (0, 11), np.int64(7), (0, 0, 0, 0), (..., ...)):
        with pytest.raises(IndexError):
            reader.get_slice("model.odd.weight")[index]
    assert reader.get_slice("model.scalar")[...] == 2.5


@pytest.mark.parametrize("replaced", [True, False])
def test_inputs_that_changed_since_are_not_read(world, replaced):
    """Thresholds and weights were decided for other data."""
    reader = sdmw.open(recipe("sdm_w"), progress=False)
    path = Path("corp", "model.safetensors")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    if replaced:
        path.unlink()
    path.write_bytes(raw)
    with pytest.raises(InputChangedError, match=r"corp/model\.safetensors: .*input changed"):
        reader.get_slice("model.norm.weight")[:2]


@pytest.mark.parametrize("index", [None, True, np.True_, [0], [], np.array([0, 1]), 1.0, "a", {}], ids=repr)
def test_what_is_no_index_is_refused_on_any_axis(world, index):
    part = sdmw.open(recipe("sdm_w"), progress=False).get_slice("model.odd.weight")
    for each in (index, (index,), (0, index), (..., index), (slice(3), index)):
        with pytest.raises(TypeError, match=f"^{type(index).__name__} cannot index a tensor: use integers, slices and"):
            part[each]
    for ends in (slice("a"), slice(1.5), (0, slice(None, "a"))):
        with pytest.raises(TypeError):
            part[ends]


@pytest.mark.parametrize("name", RECIPES)
def test_tiles_of_odd_sizes_are_the_file_s(world, name):
    sdmw.merge(recipe(name), "out", progress=False)
    written = load_file("out/model.safetensors")
    rng = random.Random(name)
    for key, tensor in opened(job_of(recipe(name))).tensors.items():
        cuts = sorted(rng.randrange(tensor.elements + 1) for _ in range(5))
        source = pickle.loads(pickle.dumps(tensor)).open()
        tiles = [source.tile(*edges) for edges in pairwise([0, *cuts, tensor.elements])]
        assert b"".join(tile.tobytes() for tile in tiles) == written[key].tobytes()
        assert all(leaf.file for leaf in tensor.leaves())


@pytest.mark.parametrize("first", RECIPES)
@pytest.mark.parametrize("second", ["sdm_w", "linear"])
def test_a_merge_feeds_another(world, first, second):
    """The same as writing the first and merging what was written."""
    sdmw.merge(recipe(first), "middle", progress=False)
    asked = {**recipe(second), "models": [{"model": "middle"}, {"model": "func"}]}
    sdmw.merge(asked, "expected", progress=False)

    loaded, method = load(asked, all_methods()), all_methods()[asked["merge_method"]]
    middle, sources = opened(job_of(recipe(first))), dict(sdmw.plan(recipe("sdm_w")).sources)
    models = {"middle": middle, "func": sources["func"]}
    inputs = Inputs(sources["base"], models, (("base", sources["base"]), ("middle", middle), ("func", sources["func"])))
    plan = build(loaded, method, inputs, Beside(), Options("found", False, 10**9, Limits(threads=2)))
    assert plan.problems == ()
    with (
        working(lambda event: None, 2) as context,
        publishing(context, "found", plan.shards, plan.checkpoints, overwrite=False) as out,
    ):
        Run(plan, context).carry_out(out)
        out.finish()
    found, expected = load_file("found/model.safetensors"), load_file("expected/model.safetensors")
    assert {key: value.tobytes() for key, value in found.items()} == {k: v.tobytes() for k, v in expected.items()}


def test_decisions_can_be_saved_and_opened(world):
    job = job_of(recipe("sdm_w"))
    again = codec.decode(Decisions, codec.encode(job.decisions))
    assert again == job.decisions
    for key, tensor in opened(job).tensors.items():
        same = codec.decode(type(tensor), codec.encode(tensor))
        assert same.open().tile(0, tensor.elements).tobytes() == tensor.open().tile(0, tensor.elements).tobytes(), key
