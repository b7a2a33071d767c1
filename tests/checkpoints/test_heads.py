import pytest

from sdmw.checkpoints.heads import called_like_a_head, inputs_of, stands_in, tied_by_config

TIES, NOT = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, None),
        ({}, None),
        (TIES, True),
        ({"text_config": NOT}, False),
        ({"vision_config": TIES}, None),
        ({"vision_config": TIES, "text_config": NOT}, False),
        ({"vision_config": NOT, "llm_config": TIES}, True),
        ({"decoder": TIES, "encoder": NOT}, True),
        (NOT | {"text_config": TIES, "model_type": "idefics3"}, False),
        (TIES | {"text_config": NOT, "model_type": "llava"}, True),
    ],
)
def test_the_model_s_own_word_counts_and_else_that_of_its_language_model(config, said):
    assert tied_by_config(config) is said


@pytest.mark.parametrize("model_type", ["llava", "qwen2_vl", "qwen2_5_vl", "glm4v", "llava_onevision"])
def test_some_are_tied_where_either_says_so(model_type):
    """As transformers 5 reads what older versions wrote: false above, true in the language model's."""
    assert tied_by_config(NOT | {"model_type": model_type, "text_config": TIES}) is True
    assert tied_by_config(NOT | {"model_type": model_type, "vision_config": TIES}) is False


def test_names_that_mean_anything_count_only_where_they_are_known():
    assert called_like_a_head("pred_layer.proj.weight")
    assert called_like_a_head("lm_loss.weight")
    assert not called_like_a_head("attention.proj.weight")
    assert not called_like_a_head("lm_loss.bias")
    assert "w" in inputs_of({"model_type": "ctrl"})
    assert "w" not in inputs_of({"model_type": "llama"})
    assert stands_in("lm_head.weight", ["transformer.w.weight"], {"model_type": "ctrl"})
    assert not stands_in("lm_head.weight", ["transformer.w.weight"], None)
