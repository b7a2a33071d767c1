"""Tensors of several names, of which `safetensors.torch.save_model` stores one and tells the others in the header."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sdmw
from checkpoints_on_disk import CONFIG, fine_tuned, llama_like
from reference.linear import linear

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BIAS, OLD_BIAS = "model.bias", "model.decoder.bias"
TIED = {**CONFIG, "tie_word_embeddings": True}
UNTIED = {**CONFIG, "tie_word_embeddings": False}


@pytest.fixture
def values(tmp_path, monkeypatch):
    """Tensors of a base and of two fine-tunes without heads, with a bias."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(8)
    base = llama_like(rng, "F32")
    del base[HEAD]
    base[BIAS] = np.arange(4, dtype=np.float32)
    return {"base": base, "one": fine_tuned(rng, base), "two": fine_tuned(rng, base)}


def write(name, tensors, aliases=None, config=TIED):
    """A model whose tensors bear other names where `aliases`, as in a header, give one that is stored for another."""
    stored = dict(tensors)
    for alias, kept in (aliases or {}).items():
        if kept not in stored and alias in stored:
            stored[kept] = stored.pop(alias)
    folder = Path(name)
    folder.mkdir()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt", **(aliases or {})})
    (folder / "config.json").write_text(json.dumps(config))


def merged(*names, **fields):
    sdmw.merge({"merge_method": "linear", "base_model": "base", "models": list(names), **fields}, "out", progress=False)
    assert sdmw.verify("out", sample=1, progress=False).problems == ()
    return load_file("out/model.safetensors")


def average(values):
    one, two = values["one"], values["two"]
    return {name: linear([one[name], two[name]], [1, 1], True) for name in one}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("of", [("one",), ("base",), ("base", "one"), ("one", "two"), ("base", "one", "two")])
def test_a_tensor_under_another_name_is_that_tensor(values, of):
    """The head that alone is stored is the embedding, whoever stores it so; the config ties both: none is written."""
    for name, tensors in values.items():
        write(name, tensors, {EMBEDDING: HEAD} if name in of else None)
    assert_equal(merged("one", "two"), average(values))


def test_an_untied_base_has_both(values):
    values["base"][HEAD] = values["base"][EMBEDDING] + 1
    values["two"][HEAD] = values["two"][EMBEDDING] + 2
    for name, tensors in values.items():
        write(
            name, tensors, {EMBEDDING: HEAD} if name == "one" else None, config={**TIED, "tie_word_embeddings": False}
        )
    values["one"][HEAD] = values["one"][EMBEDDING]
    assert_equal(merged("one", "two"), average(values))


@pytest.mark.parametrize("of", [("one",), ("one", "two")])
def test_another_name_that_the_base_lacks_is_none_of_its_own(values, of):
    for name, tensors in values.items():
        write(name, tensors, {OLD_BIAS: BIAS} if name in of else None)
    assert_equal(merged("one", "two", extra="take"), average(values))


@pytest.mark.parametrize("of", [("base",), ("base", "one")])
def test_names_of_the_base_are_those_of_the_output(values, of):
    """A model that stores the bias under one of them has it under both."""
    for name, tensors in values.items():
        write(name, tensors, {BIAS: OLD_BIAS} if name in of else None)
    expected = average(values)
    assert_equal(merged("one", "two"), {**expected, OLD_BIAS: expected[BIAS]})


@pytest.mark.parametrize("aliases", [{"model.more": "model.none"}, {BIAS: EMBEDDING}, {"format": "np"}])
def test_what_a_header_says_is_not_believed_against_what_is_stored(values, aliases):
    for name, tensors in values.items():
        write(name, tensors)
    save_file(values["one"], "one/model.safetensors", metadata=aliases)
    assert_equal(merged("one", "two"), average(values))


def test_extraction_knows_other_names(values):
    write("base", values["base"], {EMBEDDING: HEAD})
    write("one", values["one"], {OLD_BIAS: BIAS})
    report = sdmw.extract("base", "one", "adapter", rank=4, progress=False)
    assert not {HEAD, OLD_BIAS} & {each.tensor for each in report.left_out}
    assert EMBEDDING in {each.tensor for each in report.weights}


def test_an_archive_has_what_is_stored(values):
    for name in ("base", "one"):
        write(name, values[name], {EMBEDDING: HEAD})
    sdmw.pack("base", "one", "archive", progress=False)
    sdmw.apply("base", "archive", "again", progress=False)
    assert_equal(load_file("again/model.safetensors"), load_file("one/model.safetensors"))


def test_an_index_may_name_what_a_header_says_is_another_tensor(values):
    write("base", values["base"], {OLD_BIAS: BIAS})
    shard, index = Path("base", "model-00001-of-00001.safetensors"), Path("base", "model.safetensors.index.json")
    Path("base", "model.safetensors").rename(shard)
    index.write_text(json.dumps({"weight_map": dict.fromkeys([*values["base"], OLD_BIAS], shard.name)}))
    for name in ("one", "two"):
        write(name, values[name])
    found = merged("one", "two")
    np.testing.assert_array_equal(found[BIAS], average(values)[BIAS])
