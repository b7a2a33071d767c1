"""What llama.cpp's converter reads, by its own library `gguf`: vocabulary, model card, shards, index."""

import json
import logging
import shutil
from pathlib import Path

import ml_dtypes  # noqa: F401  bfloat16 for safetensors
import numpy as np
import pytest

EXTRA = "pip install 'sdmw[parity]'"
gguf = pytest.importorskip("gguf", reason=EXTRA)
hub = pytest.importorskip("huggingface_hub", reason=EXTRA)

from gguf.metadata import Metadata  # noqa: E402
from gguf.utility import SafetensorsLocal  # noqa: E402
from gguf.vocab import BpeVocab, SpecialVocab  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

import sdmw  # noqa: E402

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module", params=["5GB", "700KB"])
def merged(request, tmp_path_factory):
    """The example, merged into one shard and into several."""
    out = tmp_path_factory.mktemp("llama_cpp") / "merged"
    models = [{"model": str(DATA / name)} for name in ("corp", "func")]
    recipe = {"merge_method": "sdm_w", "base_model": str(DATA / "base"), "models": models}
    sdmw.merge(recipe, out, progress=False, max_shard_size=request.param)
    return out


def test_the_vocabulary_is_the_base_s(merged, caplog):
    caplog.set_level(logging.WARNING)
    ours, base = (SpecialVocab(path, load_merges=True, n_vocab=2048) for path in (merged, DATA / "base"))
    assert caplog.records == []
    assert ours.merges
    assert ours.merges == base.merges
    assert ours.special_token_ids == base.special_token_ids == {"bos": 0, "eos": 1, "pad": 2}
    assert ours.add_special_token == base.add_special_token
    assert ours.chat_template == (DATA / "base" / "chat_template.jinja").read_text()


def test_the_bytes_of_the_tokenizer_are_the_base_s(merged):
    """llama.cpp knows a pre-tokenizer by a hash of what it does; nothing was written anew."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (merged / name).read_bytes() == (DATA / "base" / name).read_bytes()


def test_the_index_names_what_the_shards_hold(merged):
    """The converter refuses a checkpoint whose index and shards differ by one name."""
    shards = sorted(merged.glob("*.safetensors"))
    index = merged / "model.safetensors.index.json"
    found, size = {}, 0
    for shard in shards:
        with SafetensorsLocal(shard) as tensors:
            found |= dict.fromkeys(tensors, shard.name)
            size += sum(tensor.data_range.size for tensor in tensors.values())
            assert all(tensor.data_range.offset % 8 == 0 for tensor in tensors.values())
        with safe_open(shard, framework="np") as file:
            assert file.metadata() == {"format": "pt"}
            assert set(file.keys()) == {name for name, where in found.items() if where == shard.name}
    if len(shards) == 1:
        assert shards[0].name == "model.safetensors"
        assert not index.exists()
    else:
        assert [shard.name for shard in shards] == [
            f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)
        ]
        told = json.loads(index.read_text())
        assert told["weight_map"] == found
        assert told["metadata"]["total_size"] == size
    with SafetensorsLocal(DATA / "base" / "model.safetensors") as base:
        assert found.keys() == base.keys()


def test_the_model_card_of_local_models(merged):
    """A path is no Hub id and is left out."""
    card = Metadata.load_model_card(merged)
    tags = ["merge", "sdmw", "sdm_w"]
    assert card == {"base_model_relation": "merge", "library_name": "transformers", "tags": tags}
    assert Metadata.load(None, merged, None, 1_295_488).tags == tags


MORE = "pipeline_tag: text-generation\nlanguage: [en, no]\ndatasets:\n- a/b\n"


@pytest.mark.parametrize("license_of_func", ["apache-2.0", "mit"])
def test_the_model_card_of_models_from_the_hub(tmp_path, monkeypatch, license_of_func):
    """The ids come through, and the licence where all agree on it; languages, task and data sets too."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    for name, licence in (("base", "apache-2.0"), ("corp", "apache-2.0"), ("func", license_of_func)):
        cached(
            tmp_path / "hub" / f"models--acme--{name}-1b",
            DATA / name,
            f"---\nlicense: {licence}\n{MORE}---\n# {name}\n",
        )
    models = [{"model": "acme/corp-1b"}, {"model": "acme/func-1b@main"}]
    recipe = {"merge_method": "sdm_w", "base_model": "acme/base-1b", "models": models}
    out = tmp_path / "out"
    sdmw.merge(recipe, out, progress=False)
    card = Metadata.load_model_card(out)
    assert card["base_model"] == ["acme/base-1b", "acme/corp-1b", "acme/func-1b"]
    assert card["base_model_relation"] == "merge"
    assert card.get("license") == ("apache-2.0" if license_of_func == "apache-2.0" else "other")
    assert (card["pipeline_tag"], card["language"], card["datasets"]) == ("text-generation", ["en", "no"], ["a/b"])
    metadata = Metadata.load(None, out, None, 1_295_488)
    assert [base["repo_url"] for base in metadata.base_models] == [
        f"https://huggingface.co/acme/{name}-1b" for name in ("base", "corp", "func")
    ]
    assert metadata.license == card.get("license")
    assert SpecialVocab(out).special_token_ids == {"bos": 0, "eos": 1, "pad": 2}


def test_what_apply_makes_is_read_as_what_was_packed(merged, tmp_path):
    """Its model card too; and what revert makes as the base, which has none."""
    sdmw.pack(DATA / "base", merged, tmp_path / "archive", progress=False)
    sdmw.apply(DATA / "base", tmp_path / "archive", tmp_path / "there", progress=False)
    sdmw.revert(merged, tmp_path / "archive", tmp_path / "back", progress=False)
    for made, of in ((tmp_path / "there", merged), (tmp_path / "back", DATA / "base")):
        ours, theirs = (SpecialVocab(path, load_merges=True, n_vocab=2048) for path in (made, of))
        assert (ours.merges, ours.special_token_ids) == (theirs.merges, theirs.special_token_ids)
        assert ours.chat_template == theirs.chat_template
        assert Metadata.load_model_card(made) == Metadata.load_model_card(of)


def cached(repository, model, card):
    """A model as the Hub's client keeps it: blobs, and a snapshot of links to them."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot, blobs = repository / "snapshots" / commit, repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for number, file in enumerate(model.iterdir()):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    (snapshot / "README.md").write_text(card)


@pytest.fixture(scope="module")
def united(tmp_path_factory):
    """The example and a model with two more tokens, the tokens of both."""
    folder = tmp_path_factory.mktemp("united")
    chat = shutil.copytree(DATA / "corp", folder / "chat")
    words = json.loads((DATA / "base" / "tokenizer.json").read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    words["added_tokens"] += [{"id": 2048 + n, "content": text, **flags} for n, text in enumerate(("<im>", "<end>"))]
    (chat / "tokenizer.json").write_text(json.dumps(words, ensure_ascii=False))
    tensors = load_file(chat / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = np.concatenate([tensors[name], tensors[name][:2]])
    save_file(tensors, chat / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((chat / "config.json").read_text())
    (chat / "config.json").write_text(json.dumps({**config, "vocab_size": 2050}))
    recipe = {"merge_method": "linear", "base_model": str(DATA / "base"), "models": [str(DATA / "base"), str(chat)]}
    sdmw.merge({**recipe, "tokenizer_source": "union", "chat_template": "chatml"}, folder / "out", progress=False)
    return folder / "out"


def test_a_vocabulary_with_more_tokens(united, caplog):
    caplog.set_level(logging.WARNING)
    ours, base = SpecialVocab(united, load_merges=True, n_vocab=2050), SpecialVocab(DATA / "base", load_merges=True)
    assert caplog.records == []
    assert ours.merges == base.merges
    assert ours.special_token_ids == base.special_token_ids
    assert "<|im_start|>" in ours.chat_template
    every = list(BpeVocab(united).all_tokens())
    assert [text for text, _, _ in every[2048:]] == [b"<im>", b"<end>"]
    assert len(every) == 2050 == json.loads((united / "config.json").read_text())["vocab_size"]


def test_transformers_tokenises_each_added_token_as_one(united):
    transformers = pytest.importorskip("transformers", reason=EXTRA)
    words, before = (transformers.AutoTokenizer.from_pretrained(each) for each in (united, DATA / "base"))
    assert words("<im>a<end>", add_special_tokens=False).input_ids[::2] == [2048, 2049]
    text = "def merged(a, b): return a + b"
    assert words(text).input_ids == before(text).input_ids
    assert "<|im_start|>user" in words.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
