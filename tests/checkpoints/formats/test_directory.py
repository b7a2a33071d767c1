import json
import os

import pytest

from checkpoints.formats.handmade import INDEX, SINGLE, checkpoint, entry, shard, sharded
from sdmw.checkpoints.formats import read
from sdmw.errors import CheckpointError

ONE = shard({"t": entry()}, b"1234")
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def problems(path, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(str(path), **options)
    return str(caught.value)


def test_shards_are_read_in_the_order_of_their_names(tmp_path):
    found = read(sharded(tmp_path, ["z", "b"], ["a"]))
    assert list(found.tensors) == ["z", "b", "a"]
    assert [os.path.basename(s.path) for s in found.shards] == [FIRST, SECOND]
    assert found.warnings == ()


def test_the_path_may_be_relative_and_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sharded(tmp_path / "m", ["a"])
    assert read("m").path == str(tmp_path / "m")


def test_a_missing_directory(tmp_path):
    assert problems(tmp_path / "none").endswith("no such directory")


def test_a_file_for_a_directory(tmp_path):
    (tmp_path / SINGLE).write_bytes(ONE)
    assert "expected a checkpoint directory, found a file" in problems(tmp_path / SINGLE)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "expected a checkpoint directory, found a file" in problems(tmp_path / "model.gguf")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_named_and_never_opened(tmp_path, name):
    os.mkfifo(tmp_path / name)  # opening it would hang
    said = problems(checkpoint(tmp_path, {"training_args.bin": b""}))
    assert f"only pickled weights, which are never opened: '{name}'." in said
    assert "Convert them to safetensors" in said


def test_only_gguf(tmp_path):
    assert "only GGUF: 'm.gguf'" in problems(checkpoint(tmp_path, {"m.gguf": b"GGUF"}, config=None))


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack", "model.onnx", "64.tflite", "M.MLMODEL"])
def test_only_other_formats(tmp_path, name):
    said = problems(checkpoint(tmp_path, {name: b"", "rng_state.pth": b""}))
    assert f"only weights of other formats: '{name}'. Give the safetensors" in said


def test_no_weights_and_no_config_are_told_together(tmp_path):
    said = problems(checkpoint(tmp_path, {"training_args.bin": b"", "optimizer.pt": b""}, config=None))
    assert "found no weights" in said
    assert "config.json: no such file" in said


def test_an_adapter(tmp_path):
    files = {"adapter_model.safetensors": ONE, "adapter_config.json": b"{}"}
    assert "expected a LoRA adapter, peft_type LORA" in problems(checkpoint(tmp_path, files, config=None))


def test_safetensors_under_other_names(tmp_path):
    said = problems(checkpoint(tmp_path, {"weights.safetensors": ONE}))
    assert "neither, but 'weights.safetensors'. Rename the file to model.safetensors" in said
    said = problems(checkpoint(tmp_path, {"more.safetensors": ONE}))
    assert "Write the model.safetensors.index.json" in said


@pytest.mark.parametrize(
    "names", [["model-00001-of-00002.safetensors"], ["m-1-of-2.safetensors", "m-2-of-2.safetensors"]]
)
def test_shards_without_their_index(tmp_path, names):
    """One of several is not the whole model under another name."""
    said = problems(checkpoint(tmp_path, dict.fromkeys(names, ONE)))
    assert "Copy or download model.safetensors.index.json too, and every shard" in said


@pytest.mark.parametrize("names", [["consolidated.safetensors"], ["consolidated-00001-of-00002.safetensors"] * 2])
def test_only_the_form_of_mistral(tmp_path, names):
    """Another name would not help: its tensors have other names, and it has params.json for config.json."""
    said = problems(checkpoint(tmp_path, {"params.json": b"{}", **dict.fromkeys(names, ONE)}, config=None))
    assert "only weights in Mistral's own format, with other tensor names: 'consolidated" in said
    assert said.endswith("Get the model in the format of transformers, with its config.json")
    assert "ename" not in said.partition("Get")[2]


def test_weights_below(tmp_path):
    for name in ("a", "b"):
        checkpoint(tmp_path / name, {SINGLE: ONE})
    assert "found no weights. Give the directory in it that has them: 'a', 'b'" in problems(checkpoint(tmp_path, {}))


def test_other_safetensors_beside_the_weights_are_a_warning(tmp_path):
    (warning,) = read(checkpoint(tmp_path, {SINGLE: ONE, "consolidated.safetensors": ONE})).warnings
    assert "not read: 'consolidated.safetensors'" in warning


def test_no_tensors_at_all(tmp_path):
    assert "holds no tensors" in problems(checkpoint(tmp_path, {SINGLE: shard({})}))


def test_problems_of_headers_and_config_and_index_are_told_together(tmp_path):
    path = sharded(tmp_path, ["a"], ["b"], config=b"[]")
    (tmp_path / FIRST).write_bytes(b"")
    (tmp_path / SECOND).write_bytes(ONE)
    said = problems(path)
    assert "config.json: expected an object" in said
    assert f"{FIRST}: expected a safetensors file" in said
    assert "lacks tensors" in said
    assert "holds tensors" in said


CONFIGS = {
    "missing": (None, "config.json: no such file"),
    "not json": (b"{", "not JSON"),
    "not utf-8": (b'{"\xff":1}', "not JSON"),
    "not an object": (b"[1]", "expected an object, found list [1]"),
    "nested": (b"[" * 100_000, "nested too deep"),
    "too large": (b" " * (16 * 2**20 + 1), "at most 16,777,216 bytes"),
    "quantised": (b'{"quantization_config":{"quant_method":"gptq"}}', "quant_method 'gptq'"),
    "quantised inside": (
        b'{"text_config":{"quantization_config":{"quant_method":"awq"}}}',
        "text_config.quantization_config with quant_method 'awq'",
    ),
    "quantised somehow": (b'{"quantization_config":{}}', "quant_method 'unknown'"),
}


@pytest.mark.parametrize(("config", "said"), CONFIGS.values(), ids=CONFIGS)
def test_a_bad_config(tmp_path, config, said):
    assert said in problems(checkpoint(tmp_path, {SINGLE: ONE}, config))


def test_a_config_is_read_as_leniently_as_transformers_does(tmp_path):
    config = b'{"time_step_limit":[0.0,Infinity],"quantization_config":null,"text_config":null}'
    assert read(checkpoint(tmp_path, {SINGLE: ONE}, config)).config == json.loads(config)


INDEXES = {
    "not json": (b"{", "cannot be used"),
    "nested": (b"[" * 1000 + b"]" * 1000, "nested too deep"),
    "bomb": (b"[" * 600_000, "at most 262,144 tensors"),
    "too large": (b" " * (16 * 2**20 + 1), "at most 16,777,216 bytes"),
    "a list": (b"[]", "expected an object with"),
    "no map": ({"metadata": {}}, "expected an object with"),
    "map a list": ({"weight_map": ["t"]}, "expected an object with"),
    "empty map": ({"weight_map": {}}, "names no tensors"),
    "key twice": (b'{"weight_map":{"t":"a.safetensors","t":"b.safetensors"}}', "key 't' appears twice"),
    "file a number": ({"weight_map": {"t": 1}}, "found 1 for tensor 't'"),
    "file a list": ({"weight_map": {"t": [SINGLE]}}, "for tensor 't'"),
    "path upwards": ({"weight_map": {"t": "../model.safetensors"}}, "plain file names"),
    "path": ({"weight_map": {"t": "sub/model.safetensors"}}, "plain file names"),
    "absolute": ({"weight_map": {"t": "/etc/model.safetensors"}}, "plain file names"),
    "zero byte": ({"weight_map": {"t": "m\0.safetensors"}}, "plain file names"),
    "pickle": ({"weight_map": {"t": "pytorch_model.bin", "u": "x.bin"}}, "for tensor 't', and 1 more"),
    "missing shard": ({"weight_map": {"t": "model-00001-of-00001.safetensors"}}, "safetensors: no such file"),
    "lone surrogate": (b'{"weight_map":{"\\ud800":"a.safetensors"}}', "surrogate"),
}


@pytest.mark.parametrize(("index", "said"), INDEXES.values(), ids=INDEXES)
def test_a_bad_index(tmp_path, index, said):
    assert said in problems(checkpoint(tmp_path, {}, index=index))


def test_the_index_names_a_tensor_that_its_shard_lacks(tmp_path):
    path = checkpoint(tmp_path, {SINGLE: ONE}, index={"weight_map": {"t": SINGLE, "u": SINGLE}})
    assert f"'{SINGLE}' lacks tensors that weight_map places there, 1: 'u'" in problems(path)


def test_a_shard_holds_a_tensor_that_the_index_lacks(tmp_path):
    content = shard({"t": entry(), "u": entry(start=4, stop=8)}, bytes(8))
    path = checkpoint(tmp_path, {SINGLE: content}, index={"weight_map": {"t": SINGLE}})
    assert f"'{SINGLE}' holds tensors that weight_map does not place there, 1: 'u'" in problems(path)


def test_a_name_in_two_shards(tmp_path):
    path = sharded(tmp_path, ["a", "b"], ["b", "c"])
    said = problems(path)
    assert f"expected each tensor in one shard, found 'b' in each of '{FIRST}', '{SECOND}'" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("total", [5, -1, "8", None, 1.5])
def test_a_wrong_total_size_is_a_warning(tmp_path, total):
    index = {"metadata": {"total_size": total}, "weight_map": {"t": SINGLE}}
    found = read(checkpoint(tmp_path, {SINGLE: ONE}, index=index))
    assert len(found.warnings) == (total is not None)


@pytest.mark.parametrize("more", [{}, {"metadata": None}, {"metadata": {"total_size": 4.0}}, {"metadata": []}])
def test_an_index_may_lack_or_round_its_metadata(tmp_path, more):
    assert read(checkpoint(tmp_path, {SINGLE: ONE}, index={"weight_map": {"t": SINGLE}, **more})).warnings == ()


def test_a_single_file_beside_shards_that_differ(tmp_path):
    path = sharded(tmp_path, ["a"], ["b"])
    (tmp_path / SINGLE).write_bytes(ONE)
    assert f"{SINGLE} and the shards of {INDEX} differ in 3 tensors: 'a', 'b', 't'" in problems(path)


def test_a_single_file_beside_shards_that_agree_is_what_is_read(tmp_path):
    path = sharded(tmp_path, ["a"], ["b"])
    header = {"b": entry(shape=()), "a": entry(shape=(), start=4, stop=8)}
    (tmp_path / SINGLE).write_bytes(shard(header, bytes(8)))
    found = read(path)
    assert [os.path.basename(s.path) for s in found.shards] == [SINGLE]
    assert list(found.tensors) == ["b", "a"]
    assert any("is read, the shards are not" in warning for warning in found.warnings)


def test_a_broken_single_file_beside_shards(tmp_path):
    path = sharded(tmp_path, ["a"], ["b"])
    (tmp_path / SINGLE).write_bytes(b"")
    assert "only 0 bytes" in problems(path)


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def names_too_much(folder, names, absent, config=b"{}"):
    """Shards of these names, and an index that places one more in the last."""
    sharded(folder, *([name] for name in names), config=config)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][absent] = sorted(index["weight_map"].values())[-1]
    (folder / INDEX).write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    ("names", "absent", "config"),
    [
        ((EMBEDDING, "norm"), HEAD, {}),
        ((EMBEDDING, "norm"), HEAD, {"tie_word_embeddings": True}),
        ((EMBEDDING, "norm"), HEAD, {"text_config": {"tie_word_embeddings": True}}),
        (("shared.weight", "norm"), "encoder.embed_tokens.weight", {"tie_word_embeddings": False}),
    ],
)
def test_an_index_may_name_a_tied_head_that_no_shard_stores(tmp_path, names, absent, config):
    """transformers loads it."""
    found = read(str(names_too_much(tmp_path, names, absent, json.dumps(config).encode())))
    assert set(found.tensors) == set(names)
    assert found.warnings == (
        f"{tmp_path}: {INDEX} names '{absent}', which no shard stores: the embedding is used instead",
    )


@pytest.mark.parametrize(
    ("names", "absent", "config"),
    [
        ((EMBEDDING, "norm"), HEAD, {"tie_word_embeddings": False}),
        ((EMBEDDING, "norm"), "model.layers.0.weight", {}),
        (("norm", "other"), HEAD, {}),  # there is no embedding
        ((HEAD, "norm"), EMBEDDING, {}),  # the head cannot stand for it
        ((EMBEDDING, "shared"), "model.decoder.embed_tokens.weight", {}),
    ],
)
def test_an_index_that_names_what_is_really_missing(tmp_path, names, absent, config):
    said = problems(names_too_much(tmp_path, names, absent, json.dumps(config).encode()))
    assert f"lacks tensors that weight_map places there, 1: '{absent}'" in said
