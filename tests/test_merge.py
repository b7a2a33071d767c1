"""Whole merges from disk to disk against the plain references, bit for bit."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from kernels.inputs import kinds, values
from reference.linear import linear
from reference.rounding import STORED, bits, rounded, widen
from reference.sdm_w import approximate_threshold, deltas, sdm_w
from reference.task_arithmetic import task_arithmetic
from sdmw.methods import sdm_w as engine
from sdmw.statistics import bracket, percentile
from sdmw.views.layers import component_of, layer_of

pytestmark = pytest.mark.usefixtures("tiny_tiles")

NAMES = ("model.embed.weight", "model.layers.0.mlp.w", "model.layers.0.mlp.b", "model.layers.1.mlp.w", "head.weight")
dtypes = st.sampled_from(["F32", "F16", "BF16"])
granularities = st.sampled_from(["tensor", "module", "block", "component", "model"])


@st.composite
def checkpoints(draw):
    """A base and models with mixed dtypes; finite; some equal to the base."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = [draw(st.sampled_from([(), (0,), (1,), (7,), (5, 9), (3, 4, 5), (70, 70)])) for _ in NAMES]
    kind, tune_kind = draw(kinds), draw(kinds)
    # Differences and sums stay finite: what overflows is tested apart.
    limit = np.float32(1e4)

    def drawn(of_kind, shape, dtype):
        array = np.clip(values(rng, int(np.prod(shape)), of_kind), -limit, limit).reshape(shape)
        with np.errstate(under="ignore"):
            return array.astype(STORED[dtype])

    base = {name: drawn(kind, shape, draw(dtypes)) for name, shape in zip(NAMES, shapes, strict=True)}
    tunes = []
    for _ in range(draw(st.integers(1, 3))):
        share = draw(st.sampled_from([0.0, 0.5, 1.0]))
        tune = {}
        for name, array in base.items():
            other = drawn(tune_kind, array.shape, draw(dtypes))
            if rng.random() < 0.3:
                tune[name] = array
            else:
                moved = rng.random(array.shape) < share
                with np.errstate(under="ignore"):
                    tune[name] = np.where(moved, widen(other), widen(array)).astype(other.dtype)
        tunes.append(tune)
    return base, tunes


def run(folder, base, tunes, parameters, *, method="sdm_w", models=None, **options):
    write_checkpoint(os.path.join(folder, "base"), base)
    entries = []
    for number, tune in enumerate(tunes):
        names = list(tune)
        shards = None if number % 2 == 0 else [names[::2], names[1::2]]
        write_checkpoint(os.path.join(folder, f"tune{number}"), tune, shards=shards)
        entries.append({"model": os.path.join(folder, f"tune{number}"), **((models or {}).get(number, {}))})
    recipe = {"merge_method": method, "models": entries, "parameters": parameters, **options.pop("recipe", {})}
    if method != "linear":
        recipe["base_model"] = os.path.join(folder, "base")
    out = os.path.join(folder, "out")
    report = sdmw.merge(recipe, out, progress=False, **options)
    return load_file(os.path.join(out, "model.safetensors")), report


def assert_equal(found, expected, dtype_of):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        want = rounded(array, dtype_of(name))
        assert found[name].shape == want.shape
        np.testing.assert_array_equal(bits(found[name]), bits(want), err_msg=name)


@settings(max_examples=60)
@given(
    checkpoints(), st.sampled_from([0, 10, 50, 100, 33.3]), st.sampled_from([1, 2, 5.5, 0, -1.5]),
    st.sampled_from([1, 2]), st.booleans(), granularities,
    st.sampled_from([1, 0.5, -1]), st.sampled_from(["exact", "approximate"]),
    st.sampled_from([None, "float32", "bfloat16"]),
)  # fmt: skip
def test_sdm_w_is_the_reference(given_models, k, power, norm, by_layer, granularity, scale, percentile, out_dtype):
    base, tunes = given_models
    layers = {}
    for name in base:
        layers.setdefault(layer_of(name, granularity), []).append(name)
    expected, magnitudes, weights, facts, by_name = sdm_w(
        {n: widen(a) for n, a in base.items()}, [{n: widen(a) for n, a in tune.items()} for tune in tunes], layers,
        k=k, power=power, norm=norm, by_layer=by_layer, scale=scale, approximate=percentile == "approximate",
    )  # fmt: skip
    law = {"power": power, "norm": norm, "scope": "layer" if by_layer else "model"}
    parameters = {
        "k": k, "normalization": law, "granularity": granularity, "lambda": scale, "percentile": percentile
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        recipe = {"out_dtype": out_dtype} if out_dtype else {}
        found, report = run(folder, base, tunes, parameters, recipe=recipe)
    own = {np.dtype(stored): name for name, stored in STORED.items()}
    short = {"float32": "F32", "bfloat16": "BF16"}
    assert_equal(found, expected, lambda name: short[out_dtype] if out_dtype else own[base[name].dtype])
    assert [model.facts["magnitude"] for model in report.models] == magnitudes
    assert [model.facts["weight"] for model in report.models] == (weights or [None] * len(tunes))
    for layer in report.layers:
        assert [one.get("weight") for one in layer.facts] == (by_name[layer.name] if by_layer else [None] * len(tunes))
        assert sorted(layer.tensors) == sorted(layers[layer.name])
        told = [(one["threshold"], one["nonzero"], one["kept"]) for one in layer.facts]
        assert told == [own_facts[layer.name] for own_facts in facts]
    for model in report.models:
        assert model.facts["kept"] == sum(layer.facts[report.models.index(model)]["kept"] for layer in report.layers)
        assert set(model.facts["magnitude_by_component"]) == {component_of(name) for name in base}
    if not any(magnitudes):
        assert any("equals the base" in warning for warning in report.warnings)


@settings(max_examples=20)
@given(checkpoints(), st.booleans(), st.data())
def test_task_arithmetic_is_the_reference(given_models, normalize, data):
    base, tunes = given_models
    weights = [data.draw(st.sampled_from([0.25, 1, 0.5, -0.5])) for _ in tunes]
    expected = {
        name: task_arithmetic(widen(a), [widen(t[name]) for t in tunes], weights, normalize, 0.7)
        for name, a in base.items()
    }
    models = {number: {"parameters": {"weight": w}} for number, w in enumerate(weights)}
    with tempfile.TemporaryDirectory() as folder:
        found, report = run(
            folder, base, tunes, {"lambda": 0.7, "normalize": normalize}, method="task_arithmetic", models=models,
            recipe={"out_dtype": "float32"},
        )  # fmt: skip
    assert_equal(found, expected, lambda _: "F32")
    assert [model.facts["weight"] for model in report.models] == weights
    assert report.run.bytes_read == sum(a.nbytes for model in (base, *tunes) for a in model.values())


def test_a_negative_sum_of_weights_is_divided_by(tmp_path):
    base, tune = {"w": np.float32([1, 2])}, {"w": np.float32([2, 6])}
    models = {0: {"parameters": {"weight": -0.5}}}
    found, _ = run(str(tmp_path), base, [tune], {"normalize": True}, method="task_arithmetic", models=models)
    np.testing.assert_array_equal(found["w"], [2, 6])


@pytest.mark.parametrize(("weight", "expected"), [(1e-8, [2, 6]), (0.99e-8, [1, 2])])
def test_a_sum_of_weights_that_is_nearly_zero_is_not_divided_by(tmp_path, weight, expected):
    base, tune = {"w": np.float32([1, 2])}, {"w": np.float32([2, 6])}
    models = {0: {"parameters": {"weight": weight}}}
    found, _ = run(str(tmp_path), base, [tune], {"normalize": True}, method="task_arithmetic", models=models)
    np.testing.assert_array_equal(found["w"], expected)


def test_minus_zero_with_a_delta_of_zero_becomes_zero(tmp_path):
    """As in mergekit, which adds a zero to it; SDM-W leaves it."""
    base = {"w": np.float32([-0.0, 1])}
    tune = {"w": np.float32([-0.0, 2])}
    for method, sign in (("task_arithmetic", False), ("sdm_w", True)):
        found, _ = run(str(tmp_path / method), base, [tune], {}, method=method)
        assert np.signbit(found["w"]).tolist() == [sign, False]


@settings(max_examples=20)
@given(checkpoints(), st.booleans())
def test_linear_is_the_reference(given_models, normalize):
    _, tunes = given_models
    weights = [1.0, 0.3, 2.0][: len(tunes)]
    expected = {name: linear([widen(t[name]) for t in tunes], weights, normalize) for name in tunes[0]}
    models = {number: {"parameters": {"weight": w}} for number, w in enumerate(weights)}
    with tempfile.TemporaryDirectory() as folder:
        found, _ = run(
            folder, tunes[0], tunes, {"normalize": normalize}, method="linear", models=models,
            recipe={"out_dtype": "float32"},
        )  # fmt: skip
    assert_equal(found, expected, lambda _: "F32")


def test_given_weights_with_k_zero_read_each_input_once(tmp_path):
    rng = np.random.default_rng(1)
    base = llama_like(rng)
    tunes = [fine_tuned(rng, base), fine_tuned(rng, base)]
    models = {0: {"parameters": {"weight": 1.5}}, 1: {"parameters": {"weight": -0.5}}}
    found, report = run(str(tmp_path), base, tunes, {"k": 0}, models=models)
    expected, *_ = sdm_w(
        {n: widen(a) for n, a in base.items()}, [{n: widen(a) for n, a in t.items()} for t in tunes],
        {n: [n] for n in base}, k=0, given=[1.5, -0.5],
    )  # fmt: skip
    assert_equal(found, expected, lambda _: "BF16")
    assert report.run.bytes_read == sum(a.nbytes for model in (base, *tunes) for a in model.values())
    assert report.models[0].facts["magnitude"] is None


def test_k_differs_by_model_and_by_filter(tmp_path):
    rng = np.random.default_rng(2)
    base = llama_like(rng)
    tunes = [fine_tuned(rng, base), fine_tuned(rng, base, scale=1e-2)]
    parameters = {"k": [{"filter": "mlp", "value": 60}, {"value": 20}]}
    models = {1: {"parameters": {"k": [{"filter": "norm", "value": 0}]}}}
    _, report = run(str(tmp_path), base, tunes, parameters, models=models)
    for layer in report.layers:
        ks = [60 if "mlp" in layer.name else 20] * 2
        if "norm" in layer.name:
            ks[1] = 0
        for tune, k, told in zip(tunes, ks, layer.facts, strict=True):
            delta = deltas(widen(base[layer.name]), widen(tune[layer.name]))
            magnitudes = np.abs(delta[delta != 0]).astype(np.float64)
            assert told["threshold"] == np.percentile(magnitudes, k)


def test_the_same_bits_for_any_threads_and_tile(tmp_path, monkeypatch):
    """Tensors larger than several tiles, with rows that do not divide them."""
    from sdmw.planning import budget

    rng = np.random.default_rng(7)
    base = {"a": rng.normal(0, 1, (300, 1111)).astype(np.float32), "b": rng.normal(0, 1, 200_003).astype(np.float32)}
    tunes = [fine_tuned(rng, base), fine_tuned(rng, base, scale=0.1)]
    for name, tensors in (("base", base), ("t0", tunes[0]), ("t1", tunes[1])):
        write_checkpoint(str(tmp_path / name), tensors)
    recipe = {
        "merge_method": "sdm_w", "base_model": str(tmp_path / "base"), "out_dtype": "bfloat16",
        "models": [{"model": str(tmp_path / "t0")}, {"model": str(tmp_path / "t1")}],
    }  # fmt: skip
    seen = []
    for number, (threads, tile) in enumerate([(1, 1 << 21), (2, 1 << 16), (7, 1 << 10), (3, 1000)]):
        monkeypatch.setattr(budget, "LARGEST_TILE", tile)
        monkeypatch.setattr(budget, "SMALLEST_TILE", min(tile, 1 << 16))
        out = tmp_path / f"out{number}"
        sdmw.merge(recipe, out, threads=threads, progress=False)
        files = {f.name: f.read_bytes() for f in out.iterdir() if not f.name.startswith("sdmw_report.")}
        seen.append(files)
    assert all(files == seen[0] for files in seen)


def test_approximate_reports_its_largest_error(tmp_path):
    rng = np.random.default_rng(3)
    base = llama_like(rng, "F32")
    tunes = [fine_tuned(rng, base)]
    _, report = run(str(tmp_path), base, tunes, {"percentile": "approximate", "k": 30})
    errors = {}
    for name in base:
        delta = deltas(base[name], tunes[0][name])
        errors[name] = approximate_threshold([delta], 30)[1], np.count_nonzero(delta)
    assert report.facts["percentile"] == "approximate"
    assert report.facts["rank_error"] == max(error for error, _ in errors.values())
    assert report.facts["rank_error_share"] == max(error / count for error, count in errors.values())
    assert report.run.bytes_read_again == 0


def test_a_second_look_is_counted(tmp_path, monkeypatch):
    """Nothing is listed near the percentile here, so that each layer is read three times."""
    monkeypatch.setattr(bracket, "MOST_OF_PIECE", 0)
    rng = np.random.default_rng(3)
    base = {"w": rng.normal(0, 1, 5000).astype(np.float32)}
    tune = fine_tuned(rng, base)
    _, report = run(str(tmp_path), base, [tune], {})
    assert report.run.bytes_read_again == 2 * base["w"].nbytes
    assert report.run.bytes_read == 3 * 2 * base["w"].nbytes


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("k", [0, 10, 100])
def test_every_way_to_a_percentile_leads_to_the_same_bits(tmp_path, monkeypatch, dtype, k):
    """By sorting, by a bracket, by a bracket that misses and all bins, and by all bins whose low bits are looked at."""
    rng = np.random.default_rng(7)
    base = {**llama_like(rng, dtype), "large": llama_like(rng, dtype)["model.embed_tokens.weight"].repeat(9, 0)}
    tunes = [fine_tuned(rng, base) for _ in range(2)]
    ways = {"sorted": {}, "bracket": {"SMALL": 0}, "bins": {"SMALL": 0, "is_known": False}}
    found, reports = {}, {}
    for way, changed in ways.items():
        with monkeypatch.context() as patch:
            patch.setattr(engine, "SMALL", changed.get("SMALL", engine.SMALL))
            if "is_known" in changed:
                patch.setattr(percentile, "is_known", lambda histogram, k: histogram.nonzero == 0)
            found[way], reports[way] = run(str(tmp_path / way), base, tunes, {"k": k})
    assert reports["bins"].run.bytes_read_again > reports["bracket"].run.bytes_read_again
    for way in ways:
        assert reports[way].layers == reports["sorted"].layers
        for name in base:
            np.testing.assert_array_equal(bits(found[way][name]), bits(found["sorted"][name]))


def test_merges_at_the_same_time_do_not_disturb_each_other(tmp_path):
    rng = np.random.default_rng(4)
    base = llama_like(rng)
    tunes = [fine_tuned(rng, base)]
    found, _ = run(str(tmp_path), base, tunes, {})
    recipe = {
        "merge_method": "sdm_w", "base_model": str(tmp_path / "base"), "models": [{"model": str(tmp_path / "tune0")}]
    }  # fmt: skip

    def again(number):
        out = tmp_path / f"again{number}"
        sdmw.merge(recipe, out, progress=False)
        return load_file(out / "model.safetensors")

    with ThreadPoolExecutor(4) as executor:
        for other in executor.map(again, range(8)):
            for name in found:
                np.testing.assert_array_equal(bits(other[name]), bits(found[name]))


@pytest.mark.parametrize("granularity", ["tensor", "block", "model"])
def test_layers_without_a_change_stay_the_base(tmp_path, granularity):
    rng = np.random.default_rng(5)
    base = llama_like(rng)
    tune = dict(base)
    name = "model.layers.1.mlp.up_proj.weight"
    tune[name] = fine_tuned(rng, {name: base[name]})[name]
    found, report = run(str(tmp_path), base, [tune], {"granularity": granularity})
    for other in base:
        if other != name:
            np.testing.assert_array_equal(bits(found[other]), bits(base[other]))
    assert report.models[0].facts["weight"] == 1.0
    if granularity == "tensor":
        assert [layer.facts[0]["threshold"] is None for layer in report.layers].count(False) == 1


def test_two_embeddings_that_nothing_shares_are_both_merged(tmp_path):
    """As of an encoder and a decoder that have one each (T5Gemma), equal at first and apart after training."""
    rng = np.random.default_rng(6)
    one = llama_like(rng, "F32")["model.embed_tokens.weight"]
    base = {"model.encoder.embed_tokens.weight": one, "model.decoder.embed_tokens.weight": one.copy()}
    for tune in (fine_tuned(rng, base), dict(base)):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        found, report = run(str(folder), base, [tune], {})
        assert found.keys() == base.keys()
        assert not any("tied" in said for said in report.warnings)
