import pytest

from sdmw.views.layers import LARGEST_INDEX, component_of, depths, layer_index, layer_of

LLAMA, GPT2 = "model.layers.3.mlp.up_proj.weight", "h.3.attn.c_attn.weight"
MIXTRAL = "model.layers.3.block_sparse_moe.experts.5.w1.weight"


@pytest.mark.parametrize(
    ("granularity", "name", "layer"),
    [
        ("tensor", LLAMA, LLAMA),
        ("tensor", GPT2, GPT2),
        ("tensor", MIXTRAL, MIXTRAL),
        ("module", "model.layers.3.self_attn.q_proj.weight", "model.layers.3.self_attn"),
        ("module", LLAMA, "model.layers.3.mlp"),
        ("module", "model.layers.3.input_layernorm.weight", "model.layers.3.input_layernorm"),
        ("module", "lm_head.weight", "lm_head"),
        ("module", GPT2, "h.3.attn"),
        ("module", "h.3.ln_1.bias", "h.3.ln_1"),
        ("module", "wte.weight", "wte"),
        ("module", MIXTRAL, "model.layers.3.block_sparse_moe"),
        ("module", "h.3.bias", "h.3"),
        ("module", "h.3", "h"),
        ("module", "3.weight", "3"),
        ("module", "scale", "scale"),
        ("module", "3", "3"),
        ("block", LLAMA, "model.layers.3"),
        ("block", GPT2, "h.3"),
        ("block", MIXTRAL, "model.layers.3"),
        ("block", "lm_head.weight", "lm_head.weight"),
        ("component", LLAMA, "model.layers.mlp.up_proj.weight"),
        ("component", GPT2, "h.attn.c_attn.weight"),
        ("component", MIXTRAL, "model.layers.block_sparse_moe.experts.5.w1.weight"),
        ("component", "lm_head.weight", "lm_head.weight"),
        ("component", "3", "3"),
        ("model", LLAMA, "model"),
        ("model", "lm_head.weight", "model"),
    ],
)
def test_the_table_of_the_method(granularity, name, layer):
    assert layer_of(name, granularity) == layer
    if granularity == "component":
        assert component_of(name) == layer


@pytest.mark.parametrize(
    ("name", "index"),
    [
        (LLAMA, 3), (MIXTRAL, 3), ("h.007.w", 7), ("h3.w", None), ("h.-3.w", None), ("h.٣.w", None), ("h.²", None),
        ("h.+3.w", None), ("", None), ("...", None), (f"h.{'9' * 5000}.w", LARGEST_INDEX),
    ],
)  # fmt: skip
def test_the_index_is_the_first_part_of_ascii_digits_alone(name, index):
    assert layer_index(name) == index


def test_depths_run_from_the_first_layer_to_the_last():
    names = ["wte", *(f"h.{index}.w" for index in range(4)), "h.4.experts.9.w", "head"]
    assert depths(names) == {
        "wte": 0, "h.0.w": 0, "h.1.w": 0.25, "h.2.w": 0.5, "h.3.w": 0.75, "h.4.experts.9.w": 1, "head": 0,
    }  # fmt: skip
    assert depths(["wte", "h.0.w"]) == {"wte": 0, "h.0.w": 1}
    assert depths(["wte"]) == {"wte": 0}
    assert depths([]) == {}


def test_depths_count_the_layers_of_each_stack_whatever_their_indices():
    names = ["layers.8.a", "layers.3.a", "layers.7.a", "layers.7.b", "mlp.0.w", "mlp.2.w", "head.5.w"]
    assert depths(names) == {
        "layers.3.a": 0, "layers.7.a": 0.5, "layers.7.b": 0.5, "layers.8.a": 1, "mlp.0.w": 0, "mlp.2.w": 1,
        "head.5.w": 1,
    }  # fmt: skip
