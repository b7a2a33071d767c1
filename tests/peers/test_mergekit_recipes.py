"""The recipe language against mergekit 0.1.5: slices, modules, levels, filters, gradients, what is not listed."""

import json
import platform
from pathlib import Path

import numpy as np
import pytest

EXTRA = "pip install 'sdmw[parity]'"
pytest.importorskip("torch", reason=EXTRA)
pytest.importorskip("transformers", reason=EXTRA)
pytest.importorskip("mergekit", reason=EXTRA)

from safetensors.numpy import load_file  # noqa: E402

import sdmw  # noqa: E402
from peers.mergekit_world import llama, run_mergekit, write_family  # noqa: E402

if platform.machine() != "x86_64":
    pytest.skip("elsewhere than on x86 torch fuses multiplication and addition", allow_module_level=True)

# Equal to the last bit.
EXACT = {
    "a stack of two models": """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: b, layer_range: [1, 4]}]
""",
    "one model's layers twice": """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: a, layer_range: [1, 4]}]
""",
    "layers from the middle": """
merge_method: passthrough
slices: [{sources: [{model: a, layer_range: [1, 3]}]}]
""",
    "a scale in a stack": """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources:
    - model: b
      layer_range: [1, 3]
      parameters: {scale: [{filter: o_proj, value: 0.0}, {filter: down_proj, value: 0.5}, {value: 1.0}]}
""",
    "gradients over slices of their own length": """
merge_method: linear
slices:
  - sources:
    - {model: a, layer_range: [0, 1], parameters: {weight: [1, 0.25]}}
    - {model: b, layer_range: [0, 1], parameters: {weight: [0.125, 1]}}
  - sources:
    - {model: a, layer_range: [1, 4], parameters: {weight: [1, 0.25]}}
    - {model: b, layer_range: [1, 4], parameters: {weight: [0.125, 1]}}
""",
    "layers of unlike places": """
merge_method: linear
slices:
  - sources:
    - {model: a, layer_range: [0, 2], parameters: {weight: 0.25}}
    - {model: b, layer_range: [2, 4], parameters: {weight: 0.75}}
""",
    "a filter of a model sees its own names, one that all share the output's": """
merge_method: task_arithmetic
base_model: base
slices:
  - sources:
    - {model: base, layer_range: [2, 4]}
    - model: a
      layer_range: [2, 4]
      parameters: {weight: [{filter: layers.3., value: 2.0}, {value: 0.5}]}
parameters: {lambda: [{filter: layers.0., value: 0.5}, {value: 1.5}]}
""",
    "what each model has its own of sees that model's names on every level": """
merge_method: linear
slices:
  - sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [3, 4]}]
  - sources: [{model: a, layer_range: [1, 3]}, {model: b, layer_range: [0, 2]}]
    parameters: {weight: {filter: layers.1., value: 0.25}}
parameters:
  weight: [{filter: layers.2., value: 0.125}, {filter: layers.3., value: 4.0}, {value: 1.0}]
  normalize: {filter: layers.1., value: false}
""",
    "parameters at every level": """
merge_method: task_arithmetic
base_model: base
modules:
  default:
    slices:
      - sources:
        - {model: base, layer_range: [0, 2]}
        - {model: a, layer_range: [0, 2], parameters: {weight: {filter: mlp, value: 0.25}}}
        parameters: {weight: {filter: self_attn, value: 2.0}, lambda: 0.5}
      - sources:
        - {model: base, layer_range: [2, 4]}
        - {model: a, layer_range: [2, 4]}
    parameters: {weight: {filter: layernorm, value: 3.0}, lambda: 0.75}
parameters: {weight: 1.0, lambda: 2.0}
""",
    "a slice's own base": """
merge_method: task_arithmetic
base_model: base
slices:
  - sources: [{model: base, layer_range: [0, 2]}, {model: a, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [2, 4]}, {model: a, layer_range: [2, 4]}]
    base_model: b
parameters: {weight: 0.5}
""",
    "ties in slices": """
merge_method: ties
base_model: base
slices:
  - sources:
    - {model: base, layer_range: [0, 4]}
    - {model: a, layer_range: [0, 4], parameters: {density: 1, weight: [0.5, 1.0]}}
    - {model: b, layer_range: [0, 4], parameters: {density: 1.0, weight: 0.25}}
parameters: {normalize: false, int8_mask: true}
""",
    "text, flags and words for numbers and flags": """
merge_method: linear
models:
  - {model: a, parameters: {weight: "0.25"}}
  - {model: b, parameters: {weight: true}}
parameters: {normalize: "no"}
""",
    "a gradient of flags": """
merge_method: linear
models:
  - {model: a, parameters: {weight: 0.25}}
  - {model: b, parameters: {weight: 0.25}}
parameters: {normalize: [true, false]}
""",
    "a base that is not listed takes part": """
merge_method: linear
base_model: base
parameters: {weight: 0.25}
models: [{model: a}, {model: b}]
""",
    "a base that is listed": """
merge_method: linear
base_model: base
models: [{model: a, parameters: {weight: 0.5}}, {model: base, parameters: {weight: 0.25}}]
""",
    "parameters of other methods": """
merge_method: linear
models:
  - {model: a, parameters: {weight: 0.5, density: 0.3}}
  - {model: b, parameters: {weight: 0.25, gamma: 0.1}}
parameters: {lambda: 3, t: 0.5, int8_mask: true}
""",
    "a module of models": """
merge_method: linear
modules:
  default:
    models: [{model: a, parameters: {weight: 0.5}}, {model: b}]
    parameters: {weight: 0.125}
""",
}
# Equal but for the last digits: numbers are decided from float64 there.
CLOSE = {
    "slerp by filters and gradients in a slice": """
merge_method: slerp
base_model: a
slices:
  - sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 4]}]
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - {value: 0.5}
""",
    "slerp with a t for each slice": """
merge_method: slerp
base_model: a
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]
    parameters: {t: 0.25}
  - sources: [{model: a, layer_range: [1, 3]}, {model: b, layer_range: [1, 3]}]
    parameters: {t: [{filter: mlp, value: 0.75}, {value: 0.125}]}
""",
    "karcher with a base that is not listed": """
merge_method: karcher
base_model: base
models: [{model: a}, {model: b}]
parameters: {max_iter: 5, tol: 1e-6}
""",
    "sce where models have changes in common": """
merge_method: sce
base_model: base
slices:
  - sources:
    - {model: base, layer_range: [1, 3]}
    - {model: a, layer_range: [0, 2]}
    - {model: b, layer_range: [0, 2]}
    - {model: c, layer_range: [0, 2]}
parameters: {select_topk: 0.615}
""",
    "model_stock in slices": """
merge_method: model_stock
base_model: base
slices:
  - sources: [{model: base, layer_range: [0, 2]}, {model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]
  - sources: [{model: base, layer_range: [1, 4]}, {model: a, layer_range: [1, 4]}, {model: b, layer_range: [1, 4]}]
""",
}
RECIPES = {
    f"recipe{n}": text.strip() + "\ndtype: float32\n" for n, text in enumerate([*EXACT.values(), *CLOSE.values()])
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mergekit")
    write_family(folder, ["base", "a", "b", "c"], llama(4))
    run_mergekit(folder, RECIPES)
    return folder


@pytest.mark.parametrize("number", range(len(RECIPES)), ids=[*EXACT, *CLOSE])
def test_it_is_mergekits(folder, monkeypatch, number):
    monkeypatch.chdir(folder)
    name = f"recipe{number}"
    sdmw.merge(f"{name}.yaml", name, progress=False, overwrite=True)
    ours, theirs = (load_file(f"{each}/model.safetensors") for each in (name, f"{name}-mergekit"))
    assert ours.keys() == theirs.keys()
    for tensor, found in ours.items():
        if number < len(EXACT):
            np.testing.assert_array_equal(found.view(np.uint32), theirs[tensor].view(np.uint32), err_msg=tensor)
        else:
            np.testing.assert_allclose(found, theirs[tensor], rtol=2e-6, atol=2e-8, err_msg=tensor)
    config, other = (json.loads(Path(each, "config.json").read_text()) for each in (name, f"{name}-mergekit"))
    assert config["num_hidden_layers"] == other["num_hidden_layers"]
    assert sdmw.verify(name, progress=False).problems == ()
