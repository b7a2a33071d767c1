"""Tiny models with tokenizers, for tests of vocabularies."""

import json
from pathlib import Path

import numpy as np

from checkpoints_on_disk import CONFIG, write_checkpoint
from reference.rounding import STORED

WIDTH = 6
EMBEDDING, HEAD, NORM, Q = (
    "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.0.self_attn.q_proj.weight",
)  # fmt: skip


def added_token(number, content, **fields):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content, **flags, **fields}


def tokenizer(plain, added=()):
    """A tokenizer.json of words, the added ones numbered on from the plain ones unless they say a number."""
    entries = [each if isinstance(each, tuple) else (len(plain) + n, each) for n, each in enumerate(added)]
    vocab = dict(plain) if isinstance(plain, dict) else {word: number for number, word in enumerate(plain)}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added_token(*each) for each in entries],
        "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": next(iter(vocab))},
    }  # fmt: skip


def tokens_of(folder):
    found = json.loads(Path(folder, "tokenizer.json").read_text())
    return {**found["model"]["vocab"], **{each["content"]: each["id"] for each in found["added_tokens"]}}


def write_model(folder, plain, added=(), *, rows=None, seed=0, dtype="F32", head=True, config=None, decoder=True):
    """A model with as many rows as it has tokens, or so many; gives its tensors."""
    made = tokenizer(plain, added)
    tokens = len({**made["model"]["vocab"], **{each["content"]: 0 for each in made["added_tokens"]}})
    rng = np.random.default_rng(seed)
    height = rows or tokens
    shapes = {
        EMBEDDING: (height, WIDTH),
        NORM: (WIDTH,),
        Q: (WIDTH, WIDTH),
        **({HEAD: (height, WIDTH)} if head else {}),
    }
    tensors = {name: rng.standard_normal(shape).astype(STORED[dtype]) for name, shape in shapes.items()}
    given = {**CONFIG, "vocab_size": height, "hidden_size": WIDTH, "tie_word_embeddings": not head, **(config or {})}
    write_checkpoint(folder, tensors, config=given)
    Path(folder, "tokenizer.json").write_text(json.dumps(made, indent=2, ensure_ascii=False))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": made["model"]["unk_token"]}
    if decoder:
        said["added_tokens_decoder"] = {
            str(each["id"]): {name: value for name, value in each.items() if name != "id"}
            for each in made["added_tokens"]
        }
    Path(folder, "tokenizer_config.json").write_text(json.dumps(said, indent=2))
    return tensors
