"""Which tensor of a model a name in an adapter means."""

import time

import pytest

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.tensors.dtype import DType
from sdmw.tensors.stored import Stored
from sdmw.views.in_memory import Names, in_memory

SEES = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}
QWEN = {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}
NOBODY_S = {"model_type": "mine", "architectures": ["MineForConditionalGeneration"]}
# Published names of a model with two towers, whose blocks have one name.
LLAVA = (
    "language_model.model.layers.0.q.weight", "language_model.lm_head.weight",
    "vision_tower.vision_model.encoder.layers.0.q.weight", "multi_modal_projector.linear_1.weight",
)  # fmt: skip


def names(stored, config=None):
    return Names(Checkpoint("/x", (), {name: Stored(name, DType.F32, (2, 2), "f", 0) for name in stored}, config))


@pytest.mark.parametrize("config", [SEES, NOBODY_S])
@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("model.language_model.layers.0.q.weight", 0),
        ("language_model.model.layers.0.q.weight", 0),
        ("model.layers.0.q.weight", 0),
        ("lm_head.weight", 1),
        ("model.vision_tower.vision_model.encoder.layers.0.q.weight", 2),
        ("model.multi_modal_projector.linear_1.weight", 3),
    ],
)
def test_models_that_see(asked, found, config):
    """Whether the type is known here or not."""
    assert names(LLAVA, config).find(asked) == [LLAVA[found]]


def test_the_tower_has_lost_a_module_in_transformers_5():
    assert names(LLAVA, SEES).find("model.vision_tower.encoder.layers.0.q.weight") == [LLAVA[2]]


@pytest.mark.parametrize("stored", ["model.layers.0.q.weight", "model.language_model.layers.0.q.weight"])
@pytest.mark.parametrize("asked", ["model.layers.0.q.weight", "model.language_model.layers.0.q.weight"])
def test_old_and_new_names_of_qwen(stored, asked):
    assert names([stored, "visual.blocks.0.q.weight"], QWEN).find(asked) == [stored]


def test_a_tower_is_never_put_on_the_language_model():
    assert names(["layers.0.q.weight"]).find("model.vision_tower.layers.0.q.weight") == []
    assert names(["model.layers.0.q.weight"]).find("vision_tower.layers.0.q.weight") == []


def test_a_prefix_that_only_one_side_has():
    assert names(["h.0.c_attn.weight"]).find("transformer.h.0.c_attn.weight") == ["h.0.c_attn.weight"]
    assert names(["bert.encoder.q.weight"]).find("encoder.q.weight") == ["bert.encoder.q.weight"]
    assert names(["encoder.q.weight"]).find("bert.encoder.q.weight") == ["encoder.q.weight"]


def test_whole_modules_count_and_not_their_ends():
    assert names(["a.xx.weight"]).find("x.weight") == []


def test_what_two_tensors_may_mean_is_told():
    assert names(["b.x.weight", "a.x.weight"]).find("x.weight") == ["a.x.weight", "b.x.weight"]
    assert len(names([f"{n}.x.weight" for n in range(1000)]).find("x.weight")) < 10


@pytest.mark.parametrize("prefix", ["", "bert.", "language_model.model."])
def test_the_time_is_that_of_the_names(prefix):
    """20,000 experts took three minutes when each name was compared with each."""
    modules = [f"layers.{n // 128}.experts.{n % 128}.up.weight" for n in range(20_000)]
    began = time.process_time()
    known = names([prefix + module for module in modules])
    assert all(known.find(module) == [prefix + module] for module in modules)
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("config", "stored", "in_it"),
    [
        ({"model_type": "gpt2"}, "h.0.c_fc.weight", "transformer.h.0.c_fc.weight"),
        ({"model_type": "gpt2"}, "transformer.h.0.c_fc.weight", "transformer.h.0.c_fc.weight"),
        ({"model_type": "bloom", "architectures": ["BloomModel"]}, "h.0.q.weight", "h.0.q.weight"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "layers.0.q.weight", "model.layers.0.q.weight"),
        ({"architectures": ["Qwen3Model"]}, "layers.0.q.weight", "layers.0.q.weight"),
        ({"model_type": "gpt_neox"}, "embed_out.weight", "lm_head.weight"),
        (None, "x.weight", "x.weight"),
    ],
)  # fmt: skip
def test_names_in_memory(config, stored, in_it):
    assert in_memory(config, [stored])(stored) == in_it
