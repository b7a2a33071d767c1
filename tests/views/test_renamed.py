import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.tensors.dtype import DType
from sdmw.tensors.stored import Stored
from sdmw.views.renamed import prefix_between, renaming, told, under

NAMES = [f"model.layers.{n}.{part}.weight" for n in range(4) for part in ("q", "k", "norm")] + ["lm_head.weight"]


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "a.b.c."])
def test_one_prefix_more_or_less(prefix):
    longer = [prefix + name for name in NAMES]
    assert prefix_between(NAMES, longer) == (prefix, "")
    assert prefix_between(longer, NAMES) == ("", prefix)


def test_a_prefix_that_the_head_lacks():
    """`model.` before all but the head, as base models are stored without it."""
    stripped = [name.removeprefix("model.") for name in NAMES]
    assert prefix_between(NAMES, stripped) == ("", "model.")
    assert prefix_between(stripped, NAMES) == ("model.", "")


def test_other_names_have_none():
    assert prefix_between(NAMES, ["x.weight", "y.bias"]) is None
    assert prefix_between(NAMES, []) is None
    assert prefix_between([], NAMES) is None


def test_names_that_agree_as_they_are_suggest_no_prefix():
    """A model of fewer layers lacks tensors, and none of its own is another's."""
    assert prefix_between(NAMES, NAMES[:7]) is None
    assert prefix_between(NAMES, NAMES[:3]) is None


def test_many_names_take_a_moment():
    names = [f"model.layers.{n}.experts.{m}.w" for n in range(100) for m in range(1000)]
    began = time.process_time()
    assert prefix_between(set(names), [f"module.{name}" for name in names]) == ("module.", "")
    assert time.process_time() - began < 5


def test_one_prefix_in_the_place_of_another():
    wanted = {f"model.language_model.layers.{n}.mlp.up.weight" for n in range(4)} | {"model.visual.patch.weight"}
    found = [f"model.layers.{n}.mlp.up.weight" for n in range(4)]
    assert prefix_between(wanted, found) == ("model.", "model.language_model.")
    assert prefix_between(["lm_head.weight"], ["score.weight"]) is None  # the end of a single word says nothing


def checkpoint(*names, config=None, shape=(2,), **shapes):
    tensors = {name: Stored(name, DType.F32, shapes.get(name, shape), "file", 0) for name in names}
    return Checkpoint("folder", (), tensors, config or {})


def names_of(base, model):
    return dict(renaming(checkpoint(*base), checkpoint(*model)).names)


@pytest.mark.parametrize("prefix", ["model.", "bert.", "module.", "_orig_mod.", "a.b.c."])
def test_one_prefix_more_or_less_is_found(prefix):
    longer = [prefix + name for name in NAMES]
    assert names_of(NAMES, longer) == dict(zip(longer, NAMES, strict=True))
    assert names_of(longer, NAMES) == dict(zip(NAMES, longer, strict=True))
    assert names_of(NAMES, NAMES) == {}


def test_a_prefix_that_hardly_any_tensor_needs_is_none():
    base = [*NAMES, "other.part.scale.weight"]
    assert names_of(base, [*NAMES, "scale.weight"]) == {}


def test_two_prefixes_that_fit_alike_are_told_and_not_taken():
    parts = [f"layer.{n}.{part}.weight" for n in range(3) for part in "qkv"]
    base = checkpoint(*(f"{side}.{name}" for side in ("encoder", "decoder") for name in parts))
    found = renaming(base, checkpoint(*parts))
    assert found.names == {}
    assert sorted(found.candidates) == [("", "decoder."), ("", "encoder.")]


def test_shapes_tell_which_of_two_prefixes_is_meant():
    parts = [f"layer.{n}.weight" for n in range(3)]
    shapes = {f"decoder.{name}": (3,) for name in parts}
    base = checkpoint(*(f"{side}.{name}" for side in ("encoder", "decoder") for name in parts), **shapes)
    assert renaming(base, checkpoint(*parts)).names == {name: f"encoder.{name}" for name in parts}


LAYER = "layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("model_type", "old", "new"),
    [
        ("llava", f"language_model.model.{LAYER}", f"model.language_model.{LAYER}"),
        ("llava", "language_model.lm_head.weight", "lm_head.weight"),
        ("llava", "multi_modal_projector.linear_1.weight", "model.multi_modal_projector.linear_1.weight"),
        ("llava", f"vision_tower.vision_model.encoder.{LAYER}", f"model.vision_tower.encoder.{LAYER}"),
        ("qwen2_vl", f"model.{LAYER}", f"model.language_model.{LAYER}"),
        ("qwen2_vl", "visual.blocks.0.norm1.weight", "model.visual.blocks.0.norm1.weight"),
    ],
)
def test_transformers_4_and_5_call_vision_language_models_otherwise(model_type, old, new):
    config = {"model_type": model_type}
    for base, model in ((old, new), (new, old)):
        found = renaming(checkpoint(base, config=config), checkpoint(model, config=config))
        assert found.names == {model: base}


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("new", [True, False])
def test_rules_by_type_see_through_wrappers(wrapper, new):
    config = {"model_type": "llava"}
    there = [f"language_model.model.{LAYER}", "language_model.lm_head.weight",
             f"vision_tower.vision_model.encoder.{LAYER}", "multi_modal_projector.linear_1.weight"]  # fmt: skip
    here = [f"model.language_model.{LAYER}", "lm_head.weight", f"model.vision_tower.encoder.{LAYER}",
            "model.multi_modal_projector.linear_1.weight"] if new else there  # fmt: skip
    within = [wrapper + name for name in there]
    expected = dict(zip(within, here, strict=True))
    assert renaming(checkpoint(*here, config=config), checkpoint(*within, config=config)).names == expected


@pytest.mark.parametrize(
    ("config", "base", "model", "names"),
    [
        ({"model_type": "t5"}, ["shared.weight"], ["module.shared.weight", "module.encoder.embed_tokens.weight"],
         ["shared.weight", "encoder.embed_tokens.weight"]),
        ({"model_type": "whisper"}, ["model.decoder.embed_tokens.weight"],
         ["_orig_mod.model.decoder.embed_tokens.weight", "_orig_mod.proj_out.weight"],
         ["model.decoder.embed_tokens.weight", "proj_out.weight"]),
        ({"model_type": "gemma3"}, ["model.language_model.embed_tokens.weight"],
         ["language_model.model.embed_tokens.weight", "language_model.lm_head.weight"],
         ["model.language_model.embed_tokens.weight", "lm_head.weight"]),
        ({"model_type": "gemma3"}, ["language_model.model.embed_tokens.weight"],
         ["_orig_mod.model.language_model.embed_tokens.weight", "_orig_mod.lm_head.weight"],
         ["language_model.model.embed_tokens.weight", "language_model.lm_head.weight"]),
        # A class that stores its head under another name than it has in memory.
        ({"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"]},
         ["gpt_neox.embed_in.weight", "embed_out.weight"], ["gpt_neox.embed_in.weight", "lm_head.weight"],
         ["gpt_neox.embed_in.weight", "embed_out.weight"]),
        # A base within a wrapper.
        ({"model_type": "llama"}, ["module.model.embed_tokens.weight"],
         ["model.embed_tokens.weight", "lm_head.weight", "score.weight"],
         ["module.model.embed_tokens.weight", "module.lm_head.weight", "module.score.weight"]),
    ],
)  # fmt: skip
def test_heads_that_the_base_does_not_store_are_called_as_it_would(config, base, model, names):
    found = renaming(checkpoint(*base, config=config), checkpoint(*model, config=config)).names
    assert [found.get(name, name) for name in model] == names


def test_nothing_follows_into_a_name_that_is_there():
    base = ["a.weight", "model.b.weight"]
    assert names_of(base, ["module.a.weight", "module.c.weight", "c.weight"]) == {"module.a.weight": "a.weight"}
    inside = ["module.a.weight", "b.weight"]  # some of the base lie in a wrapper, some do not
    assert names_of(inside, ["a.weight", "b.weight", "c.weight"]) == {"a.weight": "module.a.weight"}


def test_a_prefix_that_others_have_too_many_is_too_many_for_the_rest():
    found = names_of(NAMES, [f"student.{name}" for name in (*NAMES, "mtp.fc.weight")])
    assert found["student.mtp.fc.weight"] == "mtp.fc.weight"


def test_wrappers_and_old_spellings_anywhere():
    base = ["bert.layer.0.LayerNorm.weight", "bert.layer.1.LayerNorm.bias", "bert.pooler.weight"]
    model = ["bert.layer.0._fsdp_wrapped_module.LayerNorm.gamma", "bert.layer.1._orig_mod.LayerNorm.beta", base[2]]
    assert names_of(base, model) == dict(zip(model[:2], base[:2], strict=True))


def test_a_name_that_two_tensors_of_one_model_could_have_is_given_to_none():
    assert names_of(["model.norm.weight", "x"], ["norm.weight", "module.norm.weight", "x"]) == {}
    assert names_of(["model.norm.weight"], ["model.norm.weight", "norm.weight"]) == {}


def test_layers_beyond_the_base_s_follow():
    base = [f"model.layers.{n}.q.weight" for n in range(2)]
    assert names_of(base, [f"module.model.layers.{n}.q.weight" for n in range(3)])[
        "module.model.layers.2.q.weight"
    ] == "model.layers.2.q.weight"  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("a.b", "model.a.b", "all 1 names agree once 'model.' is put before them"),
        ("model.a.b", "a.b", "all 1 names agree once 'model.' is left out"),
        ("model.a.b", "model.inner.a.b", "all 1 names agree once 'inner.' is inserted"),
        ("language_model.model.a", "model.language_model.a",
         "all 1 names agree once 'model.language_model.' replaces 'language_model.model.'"),
    ],
)  # fmt: skip
def test_what_is_told(old, new, said):
    assert told(checkpoint(old), {old: new}) == said


def test_of_many_changes_the_first_are_told():
    names = {f"{letter}.w": "w" for letter in "abcde"} | {"a.v": "v"}
    assert told(checkpoint(*names, "more"), names) == (
        "6 of 7 names agree: 2 once 'a.' is left out, 1 once 'b.' is left out, 1 once 'c.' is left out, 2 otherwise"
    )


def test_a_hundred_thousand_names_take_a_moment():
    names = [f"model.layers.{n}.mlp.experts.{m}.up.weight" for n in range(100) for m in range(1000)]
    base, model = checkpoint(*names), checkpoint(*(f"module.{name}" for name in names))
    began = time.process_time()
    assert len(renaming(base, model).names) == len(names)
    assert time.process_time() - began < 5


@given(st.data())
def test_every_name_has_one_place(data):
    """Whatever the names: two never become one, and none takes the place of a tensor that is there."""
    words = st.lists(st.sampled_from(["model", "module", "a", "b", "0", "weight", "gamma"]), min_size=1, max_size=4)
    sets = [data.draw(st.sets(words.map(".".join), max_size=8)) for _ in range(2)]
    base, model = (checkpoint(*sorted(names)) for names in sets)
    renamed = under(model, renaming(base, model).names)
    assert len(renamed.tensors) == len(model.tensors)
    assert (base.tensors.keys() & model.tensors.keys()) <= renamed.tensors.keys()
    assert all(name == tensor.name for name, tensor in renamed.tensors.items())
