"""A store: what is measured is what plain NumPy finds, equal runs give equal bytes, and nothing in it is believed."""

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from reference import survey as reference
from sdmw.archives import shards
from sdmw.errors import NonFiniteError, PlanError, StoreError, UsageError
from sdmw.stores.reading import StoreReader
from stores.stores_on_disk import RECIPE, measured, recipe_of, write_models


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_models(tmp_path)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def expected_of(models, tensor, name):
    base, model = (models[each][tensor].reshape(-1) for each in ("base", name))
    (delta,) = reference.deltas_of(base, [model])
    return delta, reference.magnitudes(base, delta)


def test_it_is_what_plain_numpy_finds(models):
    store = measured()
    reader, gram = StoreReader(store), StoreReader(store).numbers("gram")
    assert {tensor.name for tensor in store.tensors} == models["base"].keys()
    for number, tensor in enumerate(store.tensors):
        found, deltas = reader.magnitudes(number), []
        for own, name in zip(found, store.models, strict=True):
            delta, expected = expected_of(models, tensor.name, name)
            deltas.append(delta.astype(np.float64))
            squares = (own.squares[:, 0] + (own.squares[:, 1] << 32)).tolist()
            odds = (own.counts - own.at_edge).tolist()
            rows = zip(own.counts.tolist(), odds, own.low_sums.tolist(), squares, strict=True)
            assert dict(zip(own.bins.tolist(), map(list, rows), strict=True)) == expected["bins"]
            assert store.histogram(tensor.name, name)[own.bins].tolist() == own.counts.tolist()
        np.testing.assert_allclose(gram[number], np.array(deltas) @ np.array(deltas).T, rtol=1e-12)


def test_zarr_reads_it(models):
    store = measured()
    group = zarr.open_group("store", mode="r")
    assert dict(group.attrs)["models"] == ["corp", "func"]
    assert group["nonzero"][:].sum(axis=0).tolist() == [
        sum(len(expected_of(models, t.name, name)[0].nonzero()[0]) for t in store.tensors) for name in store.models
    ]
    assert group["overlap"][:].sum(axis=1).tolist() == group["elements"][:].tolist()
    assert group["low_squares"].metadata.dimension_names == ("entry", "word")
    reader = StoreReader(store)
    for name in ("gram", "conflict", "unchanged", "smallest", "block"):
        np.testing.assert_array_equal(reader.numbers(name), group[name][:])


@pytest.mark.parametrize("others", [{"threads": 1}, {"threads": 3}])
def test_equal_models_give_equal_bytes(models, others, monkeypatch):
    measured(store="one")
    measured(store="two", **others)
    assert contents("one") == contents("two")


def test_many_chunks_and_shards(models, monkeypatch):
    whole = measured()
    before = [[each.counts.tolist() for each in StoreReader(whole).magnitudes(0)], StoreReader(whole).numbers("gram")]
    monkeypatch.setattr(shards, "CHUNK", 64)
    monkeypatch.setattr(shards, "SHARD", 256)
    store = measured(store="small")
    reader = StoreReader(store)
    assert [each.counts.tolist() for each in reader.magnitudes(0)] == before[0]
    np.testing.assert_array_equal(reader.numbers("gram"), before[1])
    assert len(os.listdir("small/count/c")) > 1
    assert zarr.open_group("small", mode="r")["gram"][:].tolist() == before[1].tolist()


def test_models_that_take_part_in_some_layers(models):
    """Others change nothing there."""
    names = ("corp", "func")
    slices = [{"sources": [{"model": n, "layer_range": [i, i + 1]} for n in ("base", *names)]} for i in range(2)]
    slices[1]["sources"].pop()
    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "slices": slices, "parameters": {"weight": 1}}
    store = measured(recipe)
    nonzero = dict(zip((t.name for t in store.tensors), StoreReader(store).numbers("nonzero").tolist(), strict=True))
    assert any(corp and not func for name, (corp, func) in nonzero.items() if ".1." in name)
    assert all(corp and func for name, (corp, func) in nonzero.items() if ".0." in name)


def test_tensors_that_are_not_measured_stand_before_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    odd = {"a.empty": np.zeros((0, 4), np.float32), "a.position_ids": np.arange(4)}
    models = {"base": llama_like(rng, "F32")}
    models["corp"] = fine_tuned(rng, models["base"])
    for name, tensors in models.items():
        write_checkpoint(tmp_path / name, {**odd, **tensors})
    store = measured(recipe_of(["corp"]))
    assert {tensor.name for tensor in store.tensors} == models["base"].keys()
    sdmw.merge(recipe_of(["corp"]), "out", progress=False, statistics=store)


def test_what_is_not_finite(models):
    models["corp"]["model.norm.weight"] = models["corp"]["model.norm.weight"].copy()
    models["corp"]["model.norm.weight"].reshape(-1)[3] = np.nan
    shutil.rmtree("corp")
    write_checkpoint(Path("corp"), models["corp"])
    with pytest.raises(NonFiniteError):
        measured()
    assert not os.path.exists("store")
    store = measured({**RECIPE, "nonfinite": "pass"})
    assert StoreReader(store).numbers("nonfinite").sum(axis=0).tolist() == [1, 0]


def test_methods_without_deltas_are_refused(models):
    with pytest.raises(PlanError, match="a method that merges deltas into a base"):
        measured(recipe_of(["corp", "func"], merge_method="linear", parameters={"weight": 1}))


def test_a_store_is_not_replaced_unasked(models):
    measured()
    with pytest.raises(PlanError, match="it exists"):
        measured()
    assert measured(overwrite=True) == sdmw.open_store("store")


def test_a_histogram_reads_its_own_tensor_alone(models, monkeypatch):
    monkeypatch.setattr(shards, "CHUNK", 64)
    monkeypatch.setattr(shards, "SHARD", 128)
    store = measured()
    *_, last = store.tensors
    expected = store.histogram(last.name, "func")
    for name in ("bin", "count", "at_edge", "low_sum", "low_squares"):
        next(path for path in Path("store", name).rglob("0") if path.is_file()).unlink()  # the first shard
    np.testing.assert_array_equal(store.histogram(last.name, "func"), expected)
    with pytest.raises(StoreError):
        store.histogram(store.tensors[0].name, "func")


def test_a_reader_that_failed_reads_on(models):
    store = measured()
    reader, expected = StoreReader(store), StoreReader(store).magnitudes(1)
    reader.magnitudes(0)
    path = Path("store/count/c/0")
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    fresh = StoreReader(store)
    with pytest.raises(StoreError):
        fresh.magnitudes(1)
    path.write_bytes(data)
    for one, other in zip(fresh.magnitudes(1), expected, strict=True):
        np.testing.assert_array_equal(one.counts, other.counts)
        np.testing.assert_array_equal(one.low_sums, other.low_sums)


def test_names_that_there_are_not(models):
    store = measured()
    for arguments in (("lm_head.weight", "nobody"), ("nothing", "corp")):
        with pytest.raises(UsageError, match="of the store, found '"):
            store.histogram(*arguments)


# Damage


def damage_attributes(change):
    path = Path("store/zarr.json")
    node = json.loads(path.read_text())
    change(node["attributes"])
    path.write_text(json.dumps(node))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("schema", 2, "schema 2; sdmw .* reads schema 1"),
        ("kind", "else", "something else"),
        ("models", [], "models are"),
        ("models", ["a"] * 2000, "models are"),
        ("models", [1], "models are"),
        ("recipe", 1, "neither version nor recipe"),
        ("recipe", "{", "JSONDecodeError"),
        ("recipe", "[" * 100_000, "RecursionError"),
        ("recipe", "[]", "no recipe"),
        ("fingerprints", [1], "fingerprints are"),
        ("states", [1], "states are"),
        ("tensors", None, "no tensors"),
        ("tensors", [{"name": "a", "shape": [2]}] * 2, "appears twice"),
        ("tensors", [{"name": "a", "shape": [-1]}], "has the shape"),
        ("tensors", [{"name": "a", "shape": [2**40, 2**40]}], "elements"),
        ("tensors", [{"name": 1, "shape": [2]}], "a tensor is"),
    ],
)
def test_hostile_attributes(models, key, value, said):
    measured()
    damage_attributes(lambda attributes: attributes.update({key: value}))
    with pytest.raises(StoreError, match=said):
        sdmw.open_store("store")


def test_what_is_no_store(models, tmp_path):
    for path, said in (("nothing", "no such directory"), ("base/config.json", "a file"), ("base", "zarr.json")):
        with pytest.raises(StoreError, match=said):
            sdmw.open_store(path)


@pytest.mark.parametrize("name", ["offset", "bin", "count", "at_edge", "low_sum", "low_squares", "smallest"])
@pytest.mark.parametrize("cut", [0, 40, -1])
def test_a_store_that_was_cut_short(models, name, cut):
    store = measured()
    (path,) = [each for each in Path("store", name).rglob("*") if each.is_file() and each.name != "zarr.json"]
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StoreError, match="as sdmw measure writes it"):
        store.histogram(store.tensors[0].name, "corp")


def test_other_metadata_are_not_followed(models):
    store = measured()
    path = Path("store/count/zarr.json")
    node = json.loads(path.read_text())
    for key, value in (("shape", [10**12]), ("data_type", "int32")):
        path.write_text(json.dumps({**node, key: value}))
        with pytest.raises(StoreError, match="an array of other length, dtype, chunks or codecs"):
            store.histogram(store.tensors[0].name, "corp")


@pytest.mark.parametrize(
    ("name", "value"), [("offset", 2**40), ("bin", 0x7F80), ("count", -5), ("at_edge", 10**9), ("low_sum", 2**60)]
)
def test_numbers_that_do_not_fit_together(models, name, value):
    store = measured()
    zarr.open_array(f"store/{name}", mode="r+")[1] = value
    with pytest.raises(StoreError):
        store.histogram(store.tensors[0].name, "corp")


def test_models_without_elements(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "corp"):
        write_checkpoint(tmp_path / name, {"empty.weight": np.zeros((0, 4), np.float32)})
    store = measured(recipe_of(["corp"]))
    (row,) = sdmw.sweep(store).rows
    assert (row["kept"], row["weights"], row["nonzero"]) == (((0, 0),), ((0.0, 0.0),), (0,))
    assert not sdmw.doctor(recipe_of(["corp"]), statistics=store).problems
    sdmw.report(store, "page.html")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_xarray_names_the_arrays_without_a_warning(models):
    xarray = pytest.importorskip("xarray", reason="scripts/setup parity")
    store = measured()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = xarray.open_zarr("store", chunks=None)
    assert found["nonzero"].dims == ("tensor", "model")
    np.testing.assert_array_equal(found["nonzero"].values, StoreReader(store).numbers("nonzero"))
