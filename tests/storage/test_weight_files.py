from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmw.storage.weight_files import format_of, not_beside_a_merge, not_fetched


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "MODEL.SAFETENSORS"], "safetensors"),
        (["pytorch_model.bin", "model.pt", "consolidated.00.pth", "m.ckpt", "M.BIN", "training_args_2.bin"], "pickle"),
        (["m.gguf", "m.GGUF"], "GGUF"),
        (["tf_model.h5", "flax_model.msgpack", "m.onnx", "64.tflite", "m.mlmodel"], "other"),
        (["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "config.json", "LICENSE"], None),
    ],
)  # fmt: skip
def test_formats(names, expected):
    assert [format_of(name) for name in names] == [expected] * len(names)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        # The deny list of CHECKPOINT.md, "Everything else".
        (["model-00001-of-00002.safetensors", "any.safetensors"], "weights"),
        (["m.gguf", "m.onnx", "x.tflite", "x.h5", "x.mlmodel", "rust_model.ot"], "weights for another program"),
        (["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "consolidated.safetensors", "openvino_model.bin"],
         "another form of the weights"),
        (["optimizer.pt", "optimizer_0.json", "scheduler.pt", "rng_state.pth", "trainer_state.json",
          "training_args.bin"], "state of a training run"),
        # What it does not name and a loader may want.
        (["tokenizer.json", "vocab.txt", "chat_template.jinja", "preprocessor_config.json", "original", "onnx",
          "spk_dict.pt", "speech_tokenizer.bin"], ""),
    ],
)  # fmt: skip
def test_files_beside_a_merge(names, reason):
    assert [not_beside_a_merge(name, folder=False, top=True) for name in names] == [reason] * len(names)


def test_folders_beside_a_merge():
    for name in ("original", "ONNX", "openvino", "coreml", "consolidated", "scheduler"):
        assert not_beside_a_merge(name, folder=True, top=True)
    assert not not_beside_a_merge("additional_chat_templates", folder=True, top=True)


def test_weights_in_a_folder_of_their_own_are_a_part_of_the_model():
    """Such as `2_Dense/model.safetensors` of a sentence transformer, or, of an older one, the pickled form alone."""
    assert not not_beside_a_merge("model.safetensors", folder=False, top=False)
    assert not not_beside_a_merge("pytorch_model.bin", folder=False, top=False)
    for name in ("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "pytorch_model.fp16.bin"):
        assert not_beside_a_merge(name, folder=False, top=False)


def fetched(path):
    """As huggingface_hub decides it."""
    return not any(fnmatchcase(path, pattern) for pattern in not_fetched())


def test_what_is_read_is_fetched():
    for name in ("config.json", "model.safetensors", "model.safetensors.index.json", "README.md", "tokenizer.model",
                 "adapter_config.json", "adapter_model.safetensors", "additional_chat_templates/a.jinja",
                 "2_Dense/pytorch_model.bin"):  # fmt: skip
        assert fetched(name)


COMPONENTS = st.sampled_from(
    ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "openvino",
     "rust_model.ot", "consolidated", "original", "onnx", "model.onnx", "optimizer.json", "rng_state_0.json", "sub",
     "trainer_state.json", "training_args.bin", "training_args.json", "x.tflite", "flax_model_config.json", "a.json"]
)  # fmt: skip


@given(st.lists(COMPONENTS, min_size=1, max_size=4))
def test_what_would_not_be_copied_is_not_fetched_and_nothing_else(components):
    *folders, name = components
    suffixed = [folder for folder in folders if "." in folder]  # a folder that is called like a file of weights
    if not suffixed:
        copied = not not_beside_a_merge(name, folder=False, top=not folders)
        copied &= not any(not_beside_a_merge(each, folder=True, top=not n) for n, each in enumerate(folders))
        assert fetched("/".join(components)) == copied
