"""Whether the tokenizers of two checkpoints give texts the same numbers, as far as their files tell."""

import re
from typing import Any

import xxhash

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.json_files import TOKENIZER, read_object
from sdmw.errors import CheckpointError
from sdmw.storage.files import listing, read_bounded

_FAST = "tokenizer.json"
_FILES = (
    _FAST, "tokenizer.model", "tekken.json", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt",
)  # fmt: skip
_LARGEST = 64 * 2**20  # bytes of one of them
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_PART = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]|[^\s"\[\]{}]+', re.DOTALL)  # a string, a bracket, what lies between


def same_vocabulary(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether the vocabularies of two checkpoints are the same; so they count where no two files can be compared."""
    try:
        both = listing(one.path) & listing(other.path)
        name = next((each for each in _FILES if each in both), None)
        if name is None:
            return True
        first, second = (
            read_bounded(each.path, name, _LARGEST, follow_links=each.follow_links) for each in (one, other)
        )
    except CheckpointError:
        return True
    return first == second or (name == _FAST and _numbering(first) == _numbering(second))


def special_tokens(checkpoint: Checkpoint) -> dict[str, Any]:
    """The special tokens that a checkpoint's tokenizer_config.json names, by their keys; empty where there is none."""
    config = read_object(checkpoint, TOKENIZER)
    return {
        key: value["content"] if isinstance(value, dict) and "content" in value else value
        for key, value in config.items()
        if (key.endswith("_token") or key in _LISTS) and value
    }


def _numbering(raw: bytes) -> dict[bytes, str]:
    """XXH3-128 of what in a tokenizer.json gives tokens their numbers, whatever blanks stand in it.

    Not parsed: the objects of one with 260,000 tokens take 250 MB.
    """
    found: dict[bytes, str] = {}
    depth, above, last = 0, b"", b""
    digest, opened = None, 0
    for part in _PART.finditer(raw):
        token = part[0]
        if digest is not None:
            digest.update(token)
        if token in (b"{", b"["):
            depth += 1
            above = last if depth == 2 else above
            if digest is None and (depth, above, last) in _NUMBERS:
                digest, opened = xxhash.xxh3_128(), depth
        elif token in (b"}", b"]"):
            if digest is not None and depth == opened:
                found[last], digest = digest.hexdigest(), None
            depth -= 1
        elif digest is None and token.startswith(b'"'):
            last = token
    return found


# Where these stand: their depth, the key at the top that they are under, their own key.
_NUMBERS = (
    (2, b'"added_tokens"', b'"added_tokens"'),
    (3, b'"model"', b'"vocab"'),
    (3, b'"model"', b'"merges"'),
)
