"""What a tensor is made from, and which line of the recipe gave each value."""

from pathlib import Path

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import told
from sdmw.errors import PlanError

UP = "model.layers.{}.mlp.up_proj.weight"
TIES = """merge_method: ties
base_model: base
models:
  - model: a
    parameters:
      weight:
        - {filter: self_attn, value: 0.1}
        - {filter: mlp, value: [0, 1]}
        - 0.3
  - model: b
    parameters: {density: 0.5}
parameters:
  weight: 0.4
  normalize: false
""".replace("        - 0.3\n", "        - value: 0.3\n")
SLICES = """merge_method: linear
slices:
  - sources:
      - {model: a, layer_range: [0, 1]}
  - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: [{filter: layers.0., value: 2}]}}
      - {model: b, layer_range: [2, 4]}
    parameters: {weight: 5}
parameters: {weight: 7}
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    base = llama_like(rng, blocks=4)
    write_checkpoint("base", base | {"ids": np.arange(3)})
    for name in "ab":
        write_checkpoint(name, fine_tuned(rng, base) | {"ids": np.arange(3)})
    return tmp_path


def explained(text, tensor):
    Path("r.yaml").write_text(text)
    return sdmw.explain("r.yaml", tensor)


def values(told):
    return {(each.parameter, each.model): (each.value, each.place) for each in told.values}


def test_levels_and_their_lines(world):
    told = explained(TIES, UP.format(3))
    assert (told.tensor, told.shape, told.dtype, told.action, told.depth) == (
        UP.format(3), (48, 16), "BF16", "merge", 1.0,
    )  # fmt: skip
    assert [(model, name) for model, name, _ in told.read_from] == [(m, UP.format(3)) for m in ("base", "a", "b")]
    assert told.read_from[1][2].endswith("/a/model.safetensors")
    found = values(told)
    assert found["weight", "a"] == (1.0, "r.yaml:8:11: models.0.parameters.weight.1")
    assert found["weight", "b"] == (0.4, "r.yaml:13:11: parameters.weight")
    assert found["density", "a"] == (1.0, "default")
    assert found["density", "b"] == (0.5, "r.yaml:11:27: models.1.parameters.density")
    assert found["normalize", None] == (False, "r.yaml:14:14: parameters.normalize")


def test_of_a_slice_the_names_in_each_model(world):
    told = explained(SLICES, UP.format(1))
    assert [(model, name) for model, name, _ in told.read_from] == [("a", UP.format(0)), ("b", UP.format(2))]
    assert told.depth == 0
    found = values(told)
    assert found["weight", "a"][0] == 2
    assert found["weight", "b"] == (5.0, "r.yaml:8:26: slices.1.parameters.weight")
    assert values(explained(SLICES, UP.format(0)))["weight", "a"] == (7.0, "r.yaml:9:22: parameters.weight")


def test_what_each_model_has_its_own_of_is_filtered_by_its_names_on_every_level(world):
    text = SLICES.replace(
        "{weight: 5}", "{weight: {filter: layers.2., value: 5}, normalize: {filter: layers.2., value: 0}}"
    )
    found = values(explained(text.replace("layers.0.", "layers.9."), UP.format(1)))
    assert (found["weight", "a"][0], found["weight", "b"][0]) == (7, 5)
    assert found["normalize", None] == (True, "default")
    found = values(explained(text, UP.format(2)))
    assert (found["weight", "a"][0], found["weight", "b"][0]) == (7, 7)
    assert found["normalize", None][0] is False


def test_what_is_copied_has_no_parameters(world):
    told = explained(TIES, "ids")
    assert (told.action, told.values) == ("copy", ())


def test_no_such_tensor(world):
    with pytest.raises(PlanError, match=r"expected a tensor of the output, found no such tensor\. Did you mean"):
        explained(TIES, "model.layers.0.mlp.up_proj.weigh")


def test_the_command(world, capsys, monkeypatch):
    Path("r.yaml").write_text(TIES)
    said = told(capsys, monkeypatch, "plan", "r.yaml", "--explain", UP.format(3))
    assert said.code == 0, said
    assert "merged by ties" in said.out
    assert "r.yaml:13:11: parameters.weight" in said.out
    asked = told(capsys, monkeypatch, "plan", "r.yaml", "--explain", UP.format(3), "--json")
    assert '"action": "merge"' in asked.out


def test_a_tied_head_is_told_as_that(world):
    tensors = llama_like(np.random.default_rng(5))
    head = tensors.pop("lm_head.weight")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True}
    for name in ("x", "y"):
        write_checkpoint(name, tensors, config=config)
    assert head.shape == tensors["model.embed_tokens.weight"].shape
    with pytest.raises(
        PlanError, match="found a head that is tied to its embedding, and is written only if an input has"
    ):
        sdmw.explain({"merge_method": "linear", "models": ["x", "y"]}, "lm_head.weight")
