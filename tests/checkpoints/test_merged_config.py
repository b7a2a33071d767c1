import json

import pytest

from sdmw.checkpoints.merged_config import merged_config
from sdmw.errors import CheckpointError

BASE = """{
    "architectures": ["LlamaForCausalLM"],
    "rope_theta": 500000.0, "note": "é",
    "torch_dtype": "bfloat16",
    "vocab_size": 128256}"""


@pytest.mark.parametrize("text", [BASE, "no JSON at all", "\ufeff{}", ""])
def test_without_another_dtype_the_bytes_are_the_base_s(text):
    assert merged_config(text.encode(), None) == text.encode()


def test_with_the_same_dtype_the_bytes_are_the_base_s():
    assert merged_config(BASE.encode(), "bfloat16") == BASE.encode()


def test_another_dtype_changes_that_and_keeps_all_keys_in_order():
    expected = json.loads(BASE) | {"torch_dtype": "float32"}
    found = json.loads(merged_config(BASE.encode(), "float32"))
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ({"dtype": "bfloat16"}, {"dtype": "float16"}),
        ({"torch_dtype": None}, {"torch_dtype": "float16"}),
        ({"dtype": "float32", "torch_dtype": "float16"}, {"dtype": "float16", "torch_dtype": "float16"}),
        ({"a": 1}, {"a": 1, "torch_dtype": "float16"}),
        (
            {"dtype": "float16", "text_config": {"dtype": "float32", "b": 2}},
            {"dtype": "float16", "text_config": {"dtype": "float16", "b": 2}},
        ),
        (
            {"text_config": {"torch_dtype": "bfloat16"}},
            {"text_config": {"torch_dtype": "float16"}, "torch_dtype": "float16"},
        ),
        ({"text_config": {"b": 2}}, {"text_config": {"b": 2}, "torch_dtype": "float16"}),
        ({"text_config": "odd"}, {"text_config": "odd", "torch_dtype": "float16"}),
    ],
)
def test_the_keys_that_are_there_are_set(base, expected):
    assert json.loads(merged_config(json.dumps(base).encode(), "float16")) == expected


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xff", b"[" * 100_000, b'{"a":' * 100_000])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(CheckpointError, match=r"config\.json: expected"):
        merged_config(text, "float32")
