"""The lambda that preserves norms: laws, and where it cannot be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import write_checkpoint
from kernels.inputs import tile_of
from reference.preserve_norm import preserve_norm
from sdmw.errors import PlanError, RecipeError
from sdmw.kernels.codes import F32
from sdmw.methods.preserve_norm import Preserved, Weighed, cancelled, facts_of, preserved, products_of
from sdmw.statistics.gram import GramLook


def weighed(weights, deltas):
    return Weighed(
        tuple(weights), tuple(map(tuple, (deltas.astype(np.float64) @ deltas.T.astype(np.float64)).tolist()))
    )


def normal(seed, models=3, elements=50):
    return np.random.default_rng(seed).normal(0, 0.02, (models, elements)).astype(np.float32)


WEIGHTS = st.lists(st.floats(0, 4, width=32), min_size=1, max_size=4)


@given(WEIGHTS, st.integers(0, 2**32 - 1), st.floats(-1, 1))
def test_no_norm_is_gained_by_adding(weights, seed, alike):
    """By the triangle inequality: lambda is at least 1, and 1 for deltas of one direction."""
    apart = normal(seed, len(weights))
    deltas = (np.float32(alike) * apart[:1] + np.float32(1 - abs(alike)) * apart).astype(np.float32)
    tile = tile_of([np.zeros_like(deltas[0]), *deltas], [F32] * (len(weights) + 1))
    counter = GramLook(base=True, deltas=True).counter(len(weights))
    counter.add(tile)
    found = preserved([Weighed(tuple(weights), products_of({"w": counter.result()}))])
    assert found.scale >= 1
    if not found.cancel and any(weights):
        assert found.scale == pytest.approx(preserve_norm(weights, [[delta] for delta in deltas]), rel=1e-5)
    multiples = np.outer(np.arange(1, len(weights) + 1), apart[0]).astype(np.float32)
    assert preserved([weighed(weights, multiples)]).scale == pytest.approx(1, abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.permutations(range(4)))
def test_layers_of_the_same_weights_are_one_scope_in_any_order(seed, order):
    parts = [normal(seed + number) for number in range(4)]
    layers = [weighed((0.5, 0.2, 0.3), part) for part in parts]
    found = preserved(layers)
    assert preserved([layers[number] for number in order]) == found
    assert found.scale == preserve_norm((0.5, 0.2, 0.3), [[part[model] for part in parts] for model in range(3)])


def test_where_weights_differ_the_weighted_deltas_count():
    parts, weights = [normal(1), normal(2)], [(0.5, 0.2, 0.3), (1.0, -1.0, 0.1)]
    found = preserved(weighed(own, part) for own, part in zip(weights, parts, strict=True))
    scaled = [[w[model] * part[model] for w, part in zip(weights, parts, strict=True)] for model in range(3)]
    assert found.scale == pytest.approx(preserve_norm((1, 1, 1), scaled), rel=1e-6)


def test_deltas_that_cancel():
    delta = normal(3, 1)
    opposite = weighed((1.0, 1.0), np.concatenate([delta, -delta]))
    nothing = weighed((1.0, 1.0), np.zeros((2, 5), np.float32))
    found = [preserved([each]) for each in (opposite, nothing)]
    assert found == [Preserved(1.0, cancel=True), Preserved(1.0, cancel=False)]
    assert cancelled(found) == ("the weighted deltas cancel in 1 of 2 layers: preserve_norm leaves lambda at 1 there",)
    assert cancelled(found[:1]) == ("the weighted deltas cancel: preserve_norm leaves lambda at 1 there",)
    assert cancelled(found[1:]) == ()
    assert facts_of(found) == {"smallest_lambda": 1.0, "largest_lambda": 1.0}
    assert facts_of([]) == {}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A base of zeros, two models of unit deltas at right angles in `m.0.w`, and one opposite to the first."""
    monkeypatch.chdir(tmp_path)
    zero, one, other = np.zeros(4, np.float32), np.float32([1, 0, 0, 0]), np.float32([0, 1, 0, 0])
    for name, values in {"base": zero, "one": one, "other": other, "back": -one}.items():
        write_checkpoint(name, {"m.0.w": values, "m.0.b": 2 * values})


def merged(method, models=("one", "other"), **parameters):
    recipe = {"merge_method": method, "base_model": "base", "models": [{"model": name} for name in models]}
    report = sdmw.merge(recipe | {"parameters": parameters}, "out", overwrite=True, progress=False)
    return load_file("out/model.safetensors"), report


@pytest.mark.parametrize("method", ["sdm_w", "task_arithmetic"])
@pytest.mark.parametrize("scope", ["model", "layer"])
def test_two_deltas_at_right_angles_keep_their_norm(folder, method, scope):
    found, report = merged(method, **{"weight": 0.5, "lambda": {"preserve_norm": scope}})
    assert np.linalg.norm(found["m.0.b"]) == pytest.approx(2)
    root = float(np.float32(2**0.5))
    if scope == "model":
        assert report.facts["lambda"] == root
    else:
        assert report.facts["smallest_lambda"] == report.facts["largest_lambda"] == root
        assert {facts["lambda"] for layer in report.layers for facts in layer.facts} == {root}
    assert sdmw.verify("out", sample=1, progress=False).problems == ()


@pytest.mark.parametrize("method", ["sdm_w", "task_arithmetic"])
def test_a_merge_whose_deltas_cancel_warns(folder, method):
    found, report = merged(method, ("one", "back"), **{"weight": 0.5, "lambda": "preserve_norm"})
    assert not found["m.0.w"].any()
    assert report.facts["lambda"] == 1
    assert [warning for warning in report.warnings if "cancel" in warning] == [
        "the weighted deltas cancel: preserve_norm leaves lambda at 1 there"
    ]


def test_weights_that_differ_within_a_layer_are_refused(folder):
    weight = [{"filter": ".b", "value": 1}, {"value": 0.5}]
    merged("sdm_w", weight=weight, granularity="module")
    with pytest.raises(PlanError, match=r"weight of model 'one' in layer 'm\.0'"):
        merged("sdm_w", **{"weight": weight, "granularity": "module", "lambda": "preserve_norm"})
    merged("task_arithmetic", **{"weight": weight, "lambda": "preserve_norm"})


def test_other_methods_take_numbers_alone(folder):
    with pytest.raises(RecipeError, match=r"parameters\.lambda: expected a number, found 'preserve_norm'"):
        merged("ties", **{"weight": 1, "lambda": "preserve_norm"})


def test_the_plan_says_what_is_read_once_more(folder):
    recipe = {"merge_method": "sdm_w", "base_model": "base", "models": [{"model": "one"}]}
    law = {"power": 2, "norm": 2}
    notes = sdmw.plan(recipe | {"parameters": {"lambda": "preserve_norm", "normalization": law}}).notes
    assert [note.partition(":")[0] for note in notes] == ["normalization", "lambda"]
    assert all("one more read" in note for note in notes)
    assert sdmw.plan(recipe).notes == ()
    told = sdmw.explain(recipe | {"parameters": {"lambda": "preserve_norm"}}, "m.0.w").values
    assert [(each.value, each.place) for each in told if each.parameter == "lambda"] == [
        ("preserve_norm", "parameters.lambda")
    ]


@pytest.mark.parametrize(("chosen", "refused"), [(0.5, False), ({"preserve_norm": "layer"}, False),
                                                 ("preserve_norm", True)])  # fmt: skip
def test_slices_may_have_unlike_models_unless_these_are_weighed_as_wholes(tmp_path, chosen, refused):
    rng = np.random.default_rng(3)
    shapes = {f"model.layers.{n}.w": (8, 8) for n in range(2)}
    for name in ("base", "one", "two"):
        tensors = {key: rng.normal(0, 1, shape).astype(np.float32) for key, shape in shapes.items()}
        write_checkpoint(tmp_path / name, tensors, config={"model_type": "llama", "num_hidden_layers": 2})
    sources = [[{"model": str(tmp_path / name), "layer_range": [n, n + 1]} for name in names]
               for n, names in enumerate((("base", "one", "two"), ("base", "one")))]  # fmt: skip
    recipe = {"merge_method": "task_arithmetic", "base_model": str(tmp_path / "base"),
              "slices": [{"sources": each} for each in sources],
              "parameters": {"lambda": chosen, "weight": 0.5}}  # fmt: skip
    problems = sdmw.plan(recipe).problems
    assert any("weighs whole models" in str(each) for each in problems) == refused
    assert refused or problems == ()
