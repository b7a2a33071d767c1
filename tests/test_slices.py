"""Merges in slices from disk to disk: what each tensor is made of, heads, configs, and what cannot be."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sdmw
from checkpoints_on_disk import CONFIG, fine_tuned, llama_like, write_checkpoint
from reference.linear import linear
from reference.sdm_w import sdm_w
from sdmw.errors import PlanError
from sdmw.views.stacked import comes_after

pytestmark = pytest.mark.usefixtures("tiny_tiles")
UP = "model.layers.{}.mlp.up_proj.weight"
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A base and fine-tunes a, b and c of four layers, in the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    base = llama_like(rng, "F32", blocks=4)
    tensors = {"base": base, **{name: fine_tuned(rng, base) for name in "abc"}}
    for name, each in tensors.items():
        write_checkpoint(name, each, config={**CONFIG, "num_hidden_layers": 4})
    return tensors


def part(*sources, **fields):
    """A slice: each source a name and the first layer and the one behind the last."""
    return {"sources": [{"model": name, "layer_range": [first, end]} for name, first, end in sources], **fields}


def merged(*slices, method="passthrough", **fields):
    recipe = {"merge_method": method, "slices": list(slices), **fields}
    report = sdmw.merge(recipe, "out", progress=False, overwrite=True)
    assert sdmw.verify("out", progress=False).problems == ()
    return report, load_file("out/model.safetensors")


def config():
    return json.loads(Path("out/config.json").read_text())


def test_a_stack_has_the_head_of_the_last_slice_and_the_rest_of_the_first(world):
    report, out = merged(part(("a", 0, 3)), part(("b", 1, 4)))
    assert [model.name for model in report.models] == ["a", "b"]
    for layer, (name, source) in enumerate([("a", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3)]):
        np.testing.assert_array_equal(out[UP.format(layer)], world[name][UP.format(source)])
    np.testing.assert_array_equal(out[EMBEDDING], world["a"][EMBEDDING])
    np.testing.assert_array_equal(out[NORM], world["b"][NORM])
    np.testing.assert_array_equal(out[HEAD], world["b"][HEAD])
    assert len(out) == 3 + 6 * 3
    assert config()["num_hidden_layers"] == 6


def test_slices_with_unlike_numbers_of_models(world):
    """mergekit merges the head of the last slice from as many sources as the first has."""
    report, out = merged(part(("a", 0, 2)), part(("b", 2, 4), ("c", 0, 2)), method="linear")
    np.testing.assert_array_equal(out[UP.format(1)], world["a"][UP.format(1)])
    for name, other in ((UP.format(2), UP.format(0)), (HEAD, HEAD)):
        np.testing.assert_array_equal(out[name], linear([world["b"][name], world["c"][other]], [1, 1], True))
    assert [model.name for model in report.models] == ["a", "b", "c"]


def test_models_in_another_order(world):
    """Weights go with the models; a report has each model once."""
    slices = [part(("a", 0, 2), ("b", 0, 2)), part(("b", 2, 4), ("a", 2, 4))]
    slices[0]["sources"][0]["parameters"] = slices[1]["sources"][1]["parameters"] = {"weight": 3}
    slices[0]["sources"][1]["parameters"] = slices[1]["sources"][0]["parameters"] = {"weight": 1}
    report, out = merged(*slices, method="linear")
    assert [(model.name, model.facts) for model in report.models] == [("a", {"weight": 3.0}), ("b", {"weight": 1.0})]
    for layer, order in ((0, "ab"), (3, "ba")):
        name = UP.format(layer)
        weights = {"a": 3.0, "b": 1.0}
        expected = linear([world[each][name] for each in order], [weights[each] for each in order], True)
        np.testing.assert_array_equal(out[name], expected)


def test_sdm_w_in_slices_is_sdm_w(world):
    whole = part(("base", 0, 4), ("a", 0, 4), ("b", 0, 4))
    _, out = merged(whole, method="sdm_w", base_model="base", parameters={"k": 20})
    expected, *_ = sdm_w(world["base"], [world["a"], world["b"]], {name: [name] for name in world["base"]}, k=20)
    for name, tensor in out.items():
        np.testing.assert_array_equal(tensor, expected[name])
    with pytest.raises(PlanError, match=r"the same models in every slice, as sdm_w weighs whole models"):
        merged(whole, part(("base", 0, 1), ("a", 0, 1)), method="sdm_w", base_model="base")


def test_layers_of_the_base_may_lie_elsewhere_than_a_model_s(world):
    part_of = part(("base", 1, 3), ("a", 0, 2))
    _, out = merged(part_of, method="task_arithmetic", base_model="base", parameters={"weight": 1.0})
    below, above = world["base"][UP.format(2)], world["a"][UP.format(1)]
    np.testing.assert_array_equal(out[UP.format(1)], below + (above - below))
    assert config()["num_hidden_layers"] == 2


def test_where_no_model_stores_a_head_there_is_none_and_the_first_slice_s_embedding_is_it(world):
    """As in mergekit; that the last slice's model would have another is a warning."""
    tied = {**CONFIG, "num_hidden_layers": 4, "tie_word_embeddings": True}
    for name in ("x", "y"):
        own = {key: value for key, value in world["a" if name == "x" else "b"].items() if key != HEAD}
        write_checkpoint(name, own, config=tied)
    report, out = merged(part(("x", 0, 2)), part(("x", 2, 4)))
    assert HEAD not in out
    assert report.warnings == ()
    report, out = merged(part(("x", 0, 2)), part(("y", 2, 4)))
    np.testing.assert_array_equal(out[EMBEDDING], world["a"][EMBEDDING])
    assert HEAD not in out
    assert config()["tie_word_embeddings"]
    assert report.warnings == (
        "no model stores a head, so the output's head is its embedding, which comes from the first slice; "
        "the last slice ('y') would need its own",
    )


def test_a_stored_head_is_written_where_the_embedding_is_another_model_s(world):
    """It equals its own model's embedding, and the base ties the two."""
    tied = {**CONFIG, "num_hidden_layers": 4, "tie_word_embeddings": True}
    for name, like in (("x", "a"), ("y", "b")):
        write_checkpoint(name, {**world[like], HEAD: world[like][EMBEDDING]}, config=tied)
    _, out = merged(part(("x", 0, 2)), part(("x", 2, 4)))
    assert HEAD not in out
    _, out = merged(part(("x", 0, 2)), part(("y", 2, 4)))
    np.testing.assert_array_equal(out[EMBEDDING], world["a"][EMBEDDING])
    np.testing.assert_array_equal(out[HEAD], world["b"][EMBEDDING])
    assert not config()["tie_word_embeddings"]


def test_what_a_source_lacks_or_has_more(world):
    less = {name: tensor for name, tensor in world["b"].items() if name != UP.format(3)}
    write_checkpoint("less", less | {"model.layers.2.more.weight": np.ones(4, "f4")}, config=CONFIG)
    slices = [part(("a", 0, 2), ("less", 2, 4))]
    with pytest.raises(PlanError) as caught:
        merged(*slices, method="linear")
    said = str(caught.value)
    assert f"model 'less': expected tensor '{UP.format(1)}', found no such tensor" in said
    assert "tensor 'model.layers.0.more.weight' is not in the base" in said
    report, out = merged(*slices, method="linear", missing="base", extra="take")
    np.testing.assert_array_equal(out[UP.format(1)], linear([world["a"][UP.format(1)]] * 2, [1, 1], True))
    assert out["model.layers.0.more.weight"].tolist() == [1, 1, 1, 1]
    assert (report.missing, report.extra) == ({"less": 1}, {"less": 1})


def test_layers_of_two_shapes_make_no_stack(world):
    wide = llama_like(np.random.default_rng(4), "F32", blocks=4, width=32)
    write_checkpoint("wide", wide, config=CONFIG)
    with pytest.raises(PlanError, match="Stack layers of one shape: the output has one config"):
        merged(part(("a", 0, 2)), part(("wide", 2, 4)))
    _, out = merged(part(("a", 0, 2)), part(("b", 2, 4)))  # as the mend says
    np.testing.assert_array_equal(out[UP.format(3)], world["b"][UP.format(3)])


def test_filters_gradients_and_where_they_are_read(world):
    """METHODS_FACTS.md: a filter of a model sees the model's names, gradients are of each slice."""
    slices = [part(("a", 0, 1), ("b", 0, 1)), part(("a", 1, 4), ("b", 1, 4))]
    for each in slices:
        each["sources"][0]["parameters"] = {"weight": [1, 0]}
        each["sources"][1]["parameters"] = {"weight": [0, 1]}
    _, out = merged(*slices, method="linear")
    for layer, share in enumerate([1, 0, 0.5, 1]):
        name = UP.format(layer)
        expected = linear([world["a"][name], world["b"][name]], [1 - share, share], True)
        np.testing.assert_array_equal(out[name], expected)
    np.testing.assert_array_equal(out[HEAD], linear([world["a"][HEAD], world["b"][HEAD]], [1, 0], True))


@pytest.mark.parametrize(
    ("slices", "fields", "problem"),
    [
        ([part(("a", 0, 9))], {}, r"layer_range of model 'a' in slices\.0: expected at most 4 layers 'model\.layers', "
                                  r"as it has, found \[0, 9\]"),
        ([part(("a", 0, 2), ("none", 0, 2))], {"method": "linear"}, r"slices\.0\.sources\.1\.model: 'none': "),
    ],
)  # fmt: skip
def test_what_cannot_be(world, slices, fields, problem):
    with pytest.raises(PlanError, match=problem):
        merged(*slices, **fields)


def test_layers_of_one_model_may_have_unlike_shapes(world):
    """As a pruned model's have; a shape that none of them has cannot be stacked onto them."""
    for name in "ab":
        odd = world[name] | {UP.format(3): np.ones((20, 16), "f4")}
        write_checkpoint(f"{name}-odd", odd, config={**CONFIG, "num_hidden_layers": 4})
    _, out = merged(part(("a-odd", 0, 2)), part(("b-odd", 1, 4)))
    assert out[UP.format(4)].shape == (20, 16)
    with pytest.raises(
        PlanError, match=r"slices\.1, .*up_proj.*: expected shape \[48, 16\] as in .*a, found shape \[20, 16\]"
    ):
        merged(part(("a", 0, 2)), part(("b-odd", 1, 4)))


def test_a_model_without_layers(world):
    save_file({"x.weight": np.ones((4, 4), "f4")}, "a/model.safetensors")
    with pytest.raises(
        PlanError, match=r"expected layers to slice, named by numbers as in model\.layers\.0, found none"
    ):
        merged(part(("a", 0, 1)))


def test_a_run_in_slices_is_resumed_and_has_the_same_bits(world):
    class StopError(Exception):
        pass

    def stop(event):
        if type(event).__name__ == "Progress" and event.stage == "apply":
            raise StopError

    recipe = {"merge_method": "slerp", "base_model": "a", "parameters": {"t": 0.3},
              "slices": [part(("a", 0, 2), ("b", 0, 2)), part(("a", 1, 4), ("b", 1, 4))]}  # fmt: skip
    sdmw.merge(recipe, "whole", progress=False)
    with pytest.raises(StopError):
        sdmw.merge(recipe, "out", progress=stop)
    sdmw.merge(recipe, "out", progress=False)
    assert Path("out/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def with_bias(tensors, *layers):
    """A model whose layers have a bias too."""
    more = {f"model.layers.{n}.self_attn.q_proj.bias": np.ones(16, np.float32) for n in layers}
    return {**tensors, **more}


def test_layers_of_two_kinds_make_no_stack(world):
    """Whatever is lacking would be made up by whoever loads it."""
    write_checkpoint("biased", with_bias(world["a"], *range(4)), config={**CONFIG, "num_hidden_layers": 4})
    with pytest.raises(PlanError) as caught:
        sdmw.merge({"merge_method": "passthrough", "slices": [part(("a", 0, 2)), part(("biased", 2, 4))]}, "out")
    (problem,) = caught.value.problems
    assert problem.where.startswith("recipe: slices.1, ")
    assert problem.found == "with 'model.layers.self_attn.q_proj.bias'"
    assert problem.mend == "Stack layers of one kind: the output has one config"
    (problem,) = sdmw.plan(
        {"merge_method": "passthrough", "slices": [part(("biased", 0, 2)), part(("a", 2, 4))]}
    ).problems
    assert problem.found == "lacking 'model.layers.self_attn.q_proj.bias'"


def test_layers_of_one_model_may_be_of_two_kinds(world):
    write_checkpoint("hybrid", with_bias(world["a"], 1, 3), config={**CONFIG, "num_hidden_layers": 4})
    _, out = merged(part(("hybrid", 0, 2)), part(("hybrid", 1, 3)))
    assert [n for n in range(4) if f"model.layers.{n}.self_attn.q_proj.bias" in out] == [1, 2]


def test_layers_beside_those_of_the_slices_are_told(world):
    tower = {f"visual.blocks.{n}.w": np.ones(3, np.float32) for n in range(2)}
    write_checkpoint("seeing", {**world["a"], **tower}, config={**CONFIG, "num_hidden_layers": 4})
    plan = sdmw.plan({"merge_method": "passthrough", "slices": [part(("seeing", 0, 3)), part(("seeing", 2, 4))]})
    assert plan.problems == ()
    assert "slices cut layers 'model.layers' alone; layers 'visual.blocks' come from the first slice" in plan.warnings


def test_how_many_layers_a_model_has_is_no_difference_in_a_stack(world):
    deep = llama_like(np.random.default_rng(1), "F32", blocks=6)
    write_checkpoint("deep", deep, config={**CONFIG, "num_hidden_layers": 6, "max_window_layers": 6,
                                           "use_sliding_window": False})  # fmt: skip
    plan = sdmw.plan({"merge_method": "passthrough", "slices": [part(("deep", 0, 3)), part(("a", 2, 4))]})
    assert not any("num_hidden_layers" in warning for warning in plan.warnings)
    assert not any("describes single layers" in warning for warning in plan.warnings)


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("bert.pooler.dense.weight", True), ("cls.predictions.bias", True), ("pre_classifier.weight", True),
        ("vocab_layer_norm.bias", True), ("model.norm.weight", True), ("model.decoder.layer_norm.weight", True),
        ("qa_outputs.weight", True), ("embeddings.norm.weight", False), ("model.visual.merger.norm.weight", False),
        ("model.multi_modal_projector.norm.weight", False), ("model.embed_tokens.weight", False),
        ("model.vision_tower.pooler.dense.weight", False),
    ],
)  # fmt: skip
def test_what_comes_after_the_layers(name, after):
    assert comes_after(name) == after
