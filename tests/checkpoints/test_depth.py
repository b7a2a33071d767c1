"""A config follows the layers that were stacked anew."""

import pytest

from sdmw.checkpoints.depth import Depth, restacked, unfollowed

STACK = Depth("model.layers", 4, (0, 1, 2, 1, 2, 3))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_hidden_layers": 4, "hidden_size": 4}, {"num_hidden_layers": 6, "hidden_size": 4}),
        ({"n_layer": 4, "n_head": 4}, {"n_layer": 6, "n_head": 4}),
        ({"num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"]},
         {"num_hidden_layers": 6, "layer_types": ["a", "b", "c", "b", "c", "d"]}),
        ({"num_hidden_layers": 4, "no_rope_layers": [1, 1, 0, 1]},
         {"num_hidden_layers": 6, "no_rope_layers": [1, 1, 0, 1, 0, 1]}),
        ({"num_hidden_layers": 4, "mlp_only_layers": [0, 2]}, {"num_hidden_layers": 6, "mlp_only_layers": [0, 2, 4]}),
        ({"num_hidden_layers": 4, "mlp_only_layers": []}, {"num_hidden_layers": 6, "mlp_only_layers": []}),
        ({"text_config": {"num_hidden_layers": 4, "layer_types": list("abcd")}, "vision_config": {"depth": 4}},
         {"text_config": {"num_hidden_layers": 6, "layer_types": list("abcbcd")}, "vision_config": {"depth": 4}}),
        ({"num_hidden_layers": 4, "architectures": ["a", "b", "c", "d"], "eos_token_id": [1, 2, 3, 4]},
         {"num_hidden_layers": 6, "architectures": ["a", "b", "c", "d"], "eos_token_id": [1, 2, 3, 4]}),
        ({"num_hidden_layers": 5}, {"num_hidden_layers": 5}),
    ],
)  # fmt: skip
def test_a_stack(config, expected):
    assert restacked(config, STACK) == expected
    assert list(restacked(config, STACK)) == list(config)


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        ("model.encoder.layers", {"encoder_layers": 6, "decoder_layers": 4, "num_hidden_layers": 6}),
        ("model.decoder.layers", {"encoder_layers": 4, "decoder_layers": 6, "num_hidden_layers": 4}),
    ],
)
def test_a_model_of_two_stacks(stack, expected):
    """BART's num_hidden_layers are its encoder's."""
    config = {"encoder_layers": 4, "decoder_layers": 4, "num_hidden_layers": 4}
    assert restacked(config, Depth(stack, 4, STACK.sources)) == expected


def test_t5_counts_its_encoder_s_as_if_there_were_no_other():
    config = {"num_layers": 4, "num_decoder_layers": 4}
    decoder, encoder = (Depth(f"{side}.block", 4, STACK.sources) for side in ("decoder", "encoder"))
    assert restacked(config, decoder) == {"num_layers": 4, "num_decoder_layers": 6}
    assert restacked(config, encoder) == {"num_layers": 6, "num_decoder_layers": 4}


def test_a_model_of_decoders_alone_counts_all_its_layers():
    """OPT's stack is called decoder."""
    assert restacked({"num_hidden_layers": 4}, Depth("model.decoder.layers", 4, STACK.sources)) == {
        "num_hidden_layers": 6
    }


def test_what_depends_on_depth_by_a_pattern_is_named():
    config = {"max_window_layers": 28, "first_k_dense_replace": 0, "sliding_window_pattern": None,
              "text_config": {"decoder_sparse_step": 2}}  # fmt: skip
    assert unfollowed(config, STACK) == ["max_window_layers", "text_config.decoder_sparse_step"]
