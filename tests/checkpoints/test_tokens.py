"""Tokens and their numbers, as the `tokenizers` library has them."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.tokens import hash_of, read_tokens, texts_of
from sdmw.errors import CheckpointError


def checkpoint(folder, tokenizer=None, config=None):
    if tokenizer is not None:
        text = tokenizer if isinstance(tokenizer, str) else json.dumps(tokenizer)
        (folder / "tokenizer.json").write_text(text)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Checkpoint(str(folder), (), {}, {})


def added(number, content, **fields):
    return {"id": number, "content": content, "special": True, **fields}


def numbers_of(tokens, *texts):
    return tokens.of(np.array([hash_of(text) for text in texts], np.uint64)).tolist()


def test_vocabulary_and_added_tokens(tmp_path):
    model = checkpoint(tmp_path, {
        "added_tokens": [added(4, "<s>"), added(1, "b")],
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "é\n\"": 3}, "merges": []},
    })  # fmt: skip
    tokens = read_tokens(model)
    assert numbers_of(tokens, "a", "b", 'é\n"', "<s>", "c") == [0, 1, 3, 4, -1]
    assert set(tokens.added) == {hash_of("<s>"), hash_of("b")}
    numbers, hashes = tokens.in_order()
    assert numbers.tolist() == [0, 1, 3, 4]
    assert hashes.tolist() == [hash_of(each) for each in ("a", "b", 'é\n"', "<s>")]
    assert numbers_of(tokens.below(3), "a", "b", "<s>") == [0, 1, -1]
    assert texts_of(model, {hash_of('é\n"'), hash_of("zzz")}) == {hash_of('é\n"'): 'é\n"'}


def test_unigram(tmp_path):
    pieces = [["<unk>", 0.0], ["▁a", -1.5], ["[", -2], ["]", -3]]
    tokens = read_tokens(checkpoint(tmp_path, {"model": {"unk_id": 0, "vocab": pieces}, "added_tokens": []}))
    assert numbers_of(tokens, "<unk>", "▁a", "[", "]") == [0, 1, 2, 3]


def test_tokens_that_only_the_config_adds(tmp_path):
    config = {"added_tokens_decoder": {"2": {"content": "<x>", "special": True}, "0": {"content": "a"}, "x": 3}}
    tokens = read_tokens(checkpoint(tmp_path, {"model": {"vocab": {"a": 0, "b": 1}}}, config))
    assert numbers_of(tokens, "<x>", "a", "b") == [2, 0, 1]
    assert tokens.in_file == frozenset()


def test_none(tmp_path):
    assert read_tokens(checkpoint(tmp_path)) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": {"vocab": {}}}', '{"model": 3}'])
def test_no_tokens(tmp_path, text):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: expected tokens under model\.vocab, found none"):
        read_tokens(checkpoint(tmp_path, text))


def test_faults(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"only a tokenizer in another form.*save_pretrained"):
        read_tokens(checkpoint(tmp_path))
    with pytest.raises(CheckpointError, match="expected a number for each token"):
        read_tokens(checkpoint(tmp_path, '{"model": {"vocab": {"a": -1}}}'))
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        read_tokens(checkpoint(tmp_path, "version https://git-lfs.github.com/spec/v1\n"))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6), unique=True, max_size=12))
def test_any_words_as_the_library_has_them(tmp_path_factory, words):
    tokenizers = pytest.importorskip("tokenizers", reason="pip install 'sdmw[parity]'")
    folder = tmp_path_factory.mktemp("t")
    vocab = {"u": 0, **{word: number for number, word in enumerate((w for w in words if w != "u"), 1)}}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, "u"))
    library.add_tokens(["<more>", "u"])
    library.save(str(folder / "tokenizer.json"))
    tokens = read_tokens(checkpoint(folder))
    expected = library.get_vocab(with_added_tokens=True)
    assert numbers_of(tokens, *expected) == list(expected.values())
    assert tokens.numbers.size == len(expected)


def test_a_large_one_takes_little_memory(tmp_path):
    vocab = {f"token number {number}": number for number in range(100_000)}
    model = checkpoint(tmp_path, {"model": {"vocab": vocab}})
    size = (tmp_path / "tokenizer.json").stat().st_size
    del vocab
    tracemalloc.start()
    tokens = read_tokens(model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tokens.numbers.size == 100_000
    assert peak < size + 100 * 100_000
