"""Evidence from a store: agreement, overlap, histograms and observations are what plain NumPy finds."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import write_checkpoint
from reference import survey as reference
from sdmw.errors import StoreError
from sdmw.reporting.findings import diagnose, findings_of
from sdmw.stores.evidence.agreement import agreement, overlap
from sdmw.stores.evidence.merged import merged_of
from sdmw.stores.evidence.numbers import numbers_of
from sdmw.stores.evidence.observed import APART, CONFLICT, MOST_TENSORS, SPARSE, observations
from sdmw.stores.evidence.powers import histograms
from stores.evidence_by_hand import numbers_by_hand
from stores.stores_on_disk import RECIPE, measured, write_models


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_models(tmp_path)


@pytest.fixture(scope="module")
def read_only(tmp_path_factory):
    """Models and a store of them in a folder that tests only read."""
    folder = tmp_path_factory.mktemp("evidence")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        models = write_models(folder)
        measured()
    return folder, models


@pytest.fixture
def known(read_only, monkeypatch):
    folder, models = read_only
    monkeypatch.chdir(folder)
    return models


def deltas_of(models):
    """By model, by tensor."""
    return {
        name: {key: models[name][key].astype("f4") - models["base"][key].astype("f4") for key in models["base"]}
        for name in ("corp", "func")
    }


# Tables


def test_a_store_has_the_numbers_of_its_deltas(known):
    store = sdmw.open_store("store")
    deltas = {name: {t.name: own[t.name] for t in store.tensors} for name, own in deltas_of(known).items()}
    found, expected = numbers_of(store), numbers_by_hand(deltas)
    for name in ("elements", "nonzero", "nonfinite", "conflict", "overlap"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.gram, expected.gram, rtol=1e-12, atol=1e-18)


SMALL = st.sampled_from([0.0, 1.0, -1.0, 0.5, 3.0])


@given(arrays.arrays(np.float32, (3, 2, 5), elements=SMALL))
def test_agreement_is_what_plain_numpy_finds(values):
    deltas = {f"m{number}": {"a": own[0], "b": own[1]} for number, own in enumerate(values)}
    found = agreement(numbers_by_hand(deltas))
    assert [(pair.one, pair.other) for pair in found.pairs] == [(0, 1), (0, 2), (1, 2)]
    for pair in found.pairs:
        one, other = (values[number].astype(np.float64) for number in (pair.one, pair.other))
        for a, b, cosine, conflict in (
            (one.reshape(-1), other.reshape(-1), pair.cosine, pair.conflict),
            *zip(one, other, pair.cosines, pair.conflicts, strict=True),
        ):
            length, both = np.linalg.norm(a) * np.linalg.norm(b), (a != 0) & (b != 0)
            assert cosine == (pytest.approx(a @ b / length) if length else None)
            assert conflict == (pytest.approx((a * b < 0).sum() / both.sum()) if both.any() else None)


@given(arrays.arrays(np.float32, (3, 2, 5), elements=SMALL))
def test_overlap_is_what_plain_numpy_finds(values):
    deltas = {f"m{number}": {"a": own[0], "b": own[1]} for number, own in enumerate(values)}
    found, by = overlap(numbers_by_hand(deltas)), (values != 0).sum(axis=0)
    assert found.changed == (by > 0).sum()
    assert found.by_models == tuple((by == count).sum() for count in (1, 2, 3))
    for part, share in ((by, found.shared), *zip(by, found.by_tensor, strict=True)):
        assert share == (pytest.approx((part > 1).sum() / (part > 0).sum()) if part.any() else None)


def test_above_eight_models_shared_elements_are_unknown():
    numbers = numbers_by_hand({f"m{number}": {"a": np.full(4, 1 + number, "f4")} for number in range(9)})
    assert overlap(numbers) is None
    assert {(pair.conflict, pair.conflicts) for pair in agreement(numbers).pairs} == {(None, (None,))}
    assert {round(pair.cosine, 9) for pair in agreement(numbers).pairs} == {1}


def test_histograms_are_what_plain_numpy_finds(known):
    deltas = deltas_of(known)
    for found in histograms(sdmw.open_store("store")):
        values = np.concatenate([each.reshape(-1) for each in deltas[found.model].values()])
        powers = np.floor(np.log2(np.abs(values[values != 0]))).astype(int)
        counts = [int((powers == power).sum()) for power in range(powers.min(), powers.max() + 1)]
        assert (found.power, list(found.counts)) == (powers.min(), counts)


def test_a_histogram_of_nothing(models):
    write_checkpoint(Path("same"), models["base"])
    store = measured({**RECIPE, "models": [{"model": "corp"}, {"model": "same"}]})
    assert [(each.power, each.counts) for each in histograms(store)][1] == (None, ())


# The merge


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"k": 0, "lambda": 2.5},
        {"normalization": {"power": 2, "norm": 2, "scope": "layer"}},
        {"granularity": "module", "k": 40, "lambda": "preserve_norm"},
        {"lambda": {"preserve_norm": "layer"}},
        {"weight": -0.5, "k": 0},
        {"k": [{"filter": "mlp", "value": 60}, {"value": 5}]},
    ],
    ids=str,
)
def test_the_merge_lies_within_its_bounds(known, parameters, tmp_path):
    recipe = {**RECIPE, "out_dtype": "float32", "parameters": parameters}
    found = merged_of(numbers_of(sdmw.open_store("store")), sdmw.plan(recipe))
    report = sdmw.merge(recipe, tmp_path / "out", progress=False)
    merged = load_file(tmp_path / "out/model.safetensors")
    squares = [np.square(each - known["base"][name].astype("f8")).sum() for name, each in merged.items()]
    assert found.own
    for bounds, model in zip(found.weights, report.models, strict=True):
        weight = model.facts["weight"]
        expected = model.facts["mean_weight"] if weight is None else weight
        assert bounds[0] * (1 - 1e-12) <= expected <= bounds[1] * (1 + 1e-12) or bounds == (expected, expected)
    low, high = found.norm
    assert low * (1 - 1e-5) <= np.sqrt(sum(squares)) <= high * (1 + 1e-5)
    assert high < 2 * low
    if "preserve_norm" in str(parameters) and "layer" not in str(parameters):
        assert low < found.unturned[0] * (1 + 1e-5)


def test_settings_that_a_store_does_not_know_are_equal_weights(known):
    store = sdmw.open_store("store")
    plans = [None, sdmw.plan({**RECIPE, "merge_method": "ties", "parameters": {"density": 0.5, "weight": 1}})]
    scales = [{"filter": "q_proj", "value": 0}, {"value": 1}]  # within one layer, which cannot be taken apart
    plans.append(sdmw.plan({**RECIPE, "parameters": {"granularity": "block", "lambda": scales}}))
    for plan in plans:
        assert plan is None or not plan.problems
        found = merged_of(numbers_of(store), plan)
        assert (found.own, found.weights) == (False, ((0.5, 0.5), (0.5, 0.5)))
        deltas = [np.concatenate([e.reshape(-1) for e in own.values()]) for own in deltas_of(known).values()]
        assert found.norm[0] == pytest.approx(np.linalg.norm(sum(deltas).astype("f8") / 2), rel=1e-6)


# Observations


def kinds_of(deltas, **others):
    numbers = numbers_by_hand(deltas, **others)
    return {found.kind: found for found in observations(numbers, merged_of(numbers, None), None)}


def noise(seed, scale=1.0, shape=(64, 64)):
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def test_unrelated_models_are_only_short():
    found = kinds_of({"a": {"x": noise(1)}, "b": {"x": noise(2)}})
    assert found.keys() == {"short"}
    (row,) = found["short"].rows
    assert row.numbers["low"] == pytest.approx(row.numbers["unturned"] / np.sqrt(2), rel=0.05)


def test_a_model_that_changes_nothing():
    found = kinds_of({"a": {"x": noise(1)}, "b": {"x": np.zeros((64, 64), "f4")}})
    assert [row.models for row in found["unmoved"].rows] == [("b",)]
    assert "drowned" not in found


def test_a_model_that_drowns_another():
    deltas = {"a": {"x": noise(1), "y": noise(3)}, "b": {"x": noise(2, 0.05), "y": noise(4, 0.09)}}
    found = kinds_of(deltas)["drowned"]
    norms = [np.linalg.norm(np.stack([own["x"], own["y"]])) for own in deltas.values()]
    assert [row.numbers["norm"] for row in found.rows] == pytest.approx(norms)
    assert [row.numbers["share"] for row in found.rows] == pytest.approx([each / sum(norms) for each in norms])
    assert [(place.tensor, place.models) for place in found.tensors] == [("x", ("b",)), ("y", ("b",))]
    assert found.tensors[0].value < found.tensors[1].value < 0.1
    assert "drowned" not in kinds_of({"a": {"x": noise(1)}, "b": {"x": noise(2, 0.2)}})


def test_angles_and_signs():
    shared = noise(1)
    found = kinds_of({"a": {"x": shared}, "b": {"x": shared + noise(2, 0.5)}, "c": {"x": -shared + noise(3, 3)}})
    assert [row.models for row in found["alike"].rows] == [("a", "b")]
    assert {row.models for row in found["opposed"].rows} == {("a", "c"), ("b", "c")}
    assert {row.models for row in found["conflict"].rows} == {("a", "c"), ("b", "c")}
    assert all(row.numbers["conflict"] >= CONFLICT for row in found["conflict"].rows)
    assert found["alike"].tensors[0].value == found["alike"].rows[0].numbers["cosine"]


def test_sparse_models_that_share_nothing():
    rows = np.arange(64)[:, None]
    deltas = {"a": {"x": noise(1) * (rows < 8)}, "b": {"x": noise(2) * (rows >= 60)}}
    found = kinds_of(deltas)
    assert [row.numbers["share"] for row in found["sparse"].rows] == [8 / 64, 4 / 64]
    assert found["apart"].rows[0].numbers == {"share": 0.0}
    assert "sparse" not in kinds_of({"a": {"x": noise(1) * (rows < SPARSE * 64 + 1)}, "b": {"x": noise(2)}})
    assert "apart" not in kinds_of({"a": {"x": noise(1)}, "b": {"x": noise(2) * (rows < APART * 64 + 1)}})


def test_what_rounding_swallows():
    deltas = {"a": {"x": noise(1), "y": noise(2)}, "b": {"x": noise(3), "y": noise(4)}}
    found = kinds_of(deltas, unchanged={"y": np.array([[90, 500], [80, 500]])})["swallowed"]
    assert [(row.models, row.numbers["share"]) for row in found.rows] == [(("a",), 90 / 8192)]  # 80 are too few
    assert [(place.tensor, place.value) for place in found.tensors] == [("y", 90 / 4096)]


@pytest.mark.parametrize(
    ("scale", "expected"), [(1, {"short"}), ("preserve_norm", set()), (5, {"far"}), (0.1, {"short"})]
)
def test_how_far_the_merge_goes(known, scale, expected):
    found = diagnose(sdmw.open_store("store"), sdmw.plan({**RECIPE, "parameters": {"k": 0, "lambda": scale}}))
    assert {each.kind for each in found} == expected


def test_what_is_swallowed_depends_on_what_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = {"x": noise(1, 1.0), "y": noise(2, 1.0)}
    write_checkpoint(tmp_path / "base", base)
    for seed, name in ((3, "corp"), (5, "func")):
        write_checkpoint(tmp_path / name, {key: each + noise(seed, 1e-3) for key, each in base.items()})
    store, shares = measured(), {}
    for dtype in ("bfloat16", "float16", "float32"):
        found = {each.kind: each for each in diagnose(store, sdmw.plan({**RECIPE, "out_dtype": dtype}))}
        shares[dtype] = found["swallowed"].rows[0].numbers["share"] if "swallowed" in found else None
    model = {key: load_file("corp/model.safetensors")[key].reshape(-1) for key in base}
    lost, count = np.zeros(2), 0
    for key, each in base.items():
        (delta,) = reference.deltas_of(each.reshape(-1), [model[key]])
        lost += reference.magnitudes(each.reshape(-1), delta)["unchanged"]
        count += np.count_nonzero(delta)
    assert shares == {"bfloat16": lost[0] / count, "float16": lost[1] / count, "float32": None}
    assert shares["bfloat16"] == next(e for e in diagnose(store) if e.kind == "swallowed").rows[0].numbers["share"]


def test_norms_that_moved_otherwise():
    names = {"model.norm.weight": (5.0, (64,)), "model.layers.0.mlp.up_proj.weight": (1.0, (64, 64))}
    deltas = {m: {n: noise(s, *of) for n, of in names.items()} for m, s in (("a", 1), ("b", 2))}
    found = kinds_of(deltas)
    assert [row.models for row in found["norms"].rows] == [("a",), ("b",)]
    assert {place.tensor for place in found["norms"].tensors} == {"model.norm.weight"}
    assert not found.keys() & {"embeddings", "routers"}


def test_parts_that_moved_otherwise():
    names = {
        "model.embed_tokens.weight": (5.0, (64, 64)),
        "model.norm.weight": (3.0, (4096,)),
        "model.layers.0.mlp.gate.weight": (0.01, (8, 64)),
        "model.layers.0.mlp.experts.0.gate_proj.weight": (1.0, (64, 64)),
    }
    deltas = {m: {n: noise(s, *of) for n, of in names.items()} for m, s in (("a", 1), ("b", 2))}
    deltas["b"]["model.layers.0.mlp.gate.weight"][:] = 0
    found = kinds_of(deltas)
    assert {"routers", "embeddings"} <= found.keys()
    assert "norms" not in found
    assert [row.models for row in found["routers"].rows] == [("a",)]
    assert [place.tensor for place in found["embeddings"].tensors] == ["model.embed_tokens.weight"] * 2
    rms = np.sqrt(np.square(deltas["a"]["model.embed_tokens.weight"].astype("f8")).mean())
    assert found["embeddings"].rows[0].numbers["rms"] == pytest.approx(rms)
    without_experts = {m: {"gate.weight" if "mlp.gate." in n else "x.gate.weight": d for n, d in own.items()}
                       for m, own in deltas.items()}  # fmt: skip
    assert "routers" not in kinds_of(without_experts)


def test_tensors_are_few_and_the_rest_is_counted():
    deltas = {m: {f"t{n}": noise(1, 1 + n, (8, 8)) for n in range(9)} for m in ("a", "b")}
    found = kinds_of(deltas)["alike"]
    assert (len(found.tensors), found.more) == (MOST_TENSORS, 9 - MOST_TENSORS)


def test_nan_in_a_model(models):
    models["corp"]["model.norm.weight"].reshape(-1)[3] = np.nan
    shutil.rmtree("corp")
    write_checkpoint(Path("corp"), models["corp"])
    (found,) = [each for each in diagnose(measured({**RECIPE, "nonfinite": "pass"})) if each.kind == "nonfinite"]
    assert found.said == ("corp: 1 delta",)
    assert found.places == ("model.norm.weight, corp: 1",)


def test_every_finding_has_words():
    shared = noise(1)
    names = ("model.embed_tokens.weight", "model.layers.0.mlp.gate.weight", "model.layers.0.mlp.experts.0.weight")
    deltas = {m: {n: s * shared * (1 + number) for number, n in enumerate(names)} for m, s in (("a", 1), ("b", -0.1))}
    numbers = numbers_by_hand(deltas)
    found = findings_of(numbers, merged_of(numbers, None), None)
    assert {"opposed", "conflict", "drowned", "routers"} <= {each.kind for each in found}
    for each in found:
        assert each.title
        assert each.advice.endswith(".")
        assert (len(each.said), len(each.places)) == (len(each.rows), len(each.tensors))


# Damage


def test_numbers_that_no_deltas_give(known, tmp_path):
    store, damaged = sdmw.open_store("store"), str(tmp_path / "damaged")
    for name, value in (
        ("elements", 7), ("nonzero", -1), ("conflict", 2**50), ("unchanged", 2**50), ("overlap", -1),
        ("gram", np.nan), ("gram", -1.0),
    ):  # fmt: skip
        shutil.copytree("store", damaged)
        zarr.open_array(f"{damaged}/{name}", mode="r+")[1] = value
        with pytest.raises(StoreError, match="as sdmw measure writes it"):
            diagnose(replace(store, path=damaged))
        shutil.rmtree(damaged)
