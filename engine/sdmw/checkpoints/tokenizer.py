"""Whether the tokenizers of two checkpoints give texts the same numbers, as far as their files tell."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import xxhash

from sdmw.checkpoints.beside import content, names
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.json_files import TOKENIZER, read_object
from sdmw.errors import CheckpointError
from sdmw.storage.pointers import is_pointer

FAST = "tokenizer.json"
_FILES = (
    FAST, "tokenizer.model", "tekken.json", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt",
)  # fmt: skip
LARGEST = 64 * 2**20  # bytes of one of them
_LISTS = ("additional_special_tokens", "extra_special_tokens")
NUMBERS = ("added_tokens", "vocab", "merges")  # what gives tokens their numbers
SPLITS = ("type", "normalizer", "pre_tokenizer", "post_processor")  # what makes tokens of a text
_LARGEST_PARSED = 4 * 2**20  # bytes of a part that is parsed as a whole
STRING = rb'"(?:[^"\\]|\\.)*"'
_PART = re.compile(STRING + rb'|[\[\]{}]|[^\s"\[\]{}]+', re.DOTALL)  # a string, a bracket, what lies between
ENTRY = re.compile(rb"(%b)\s*:\s*([^\s,}]+)|}" % STRING, re.DOTALL)  # a token with its number, or the end of all
_MERGE = re.compile(rb"\[\s*(%b)\s*,\s*(%b)\s*\]|(%b)|\]" % ((STRING,) * 3), re.DOTALL)  # a pair, or the end of all
_FLAT = rb'[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_REST = re.compile(rb"(?>%b|[\[{](?>%b)*+[\]}])*+[\]}]" % (_FLAT, _FLAT), re.DOTALL)  # of two levels of brackets
_OPENING, _CLOSING = (b"{", b"["), (b"}", b"]")
MODEL_TYPE = (b'"model"', b'"type"', b'"type"')
Place = tuple[int, bytes, bytes]  # depth, the key at the top that it is under, its own key, both in quotes
Readers = Mapping[Place, Callable[[bytes, int], tuple[object, int]]]
VOCABULARY: Place = (3, b'"model"', b'"vocab"')
ADDED: Place = (2, b'"added_tokens"', b'"added_tokens"')


def is_of_tokenizer(path: str) -> bool:
    """Whether a file of a model belongs to its tokenizer."""
    return path in _FILES or path in (TOKENIZER, "special_tokens_map.json", "added_tokens.json", "merges.txt")


def differing_parts(one: Checkpoint, other: Checkpoint, *, numbers: bool = True) -> list[str]:
    """Which of `NUMBERS` and `SPLITS` differ between two checkpoints; none where no two files can be compared.

    Args:
        one: the first.
        other: the second.
        numbers: compare the parts that give tokens their numbers too, which are nearly all of the file.
    """
    try:
        both = names(one) & names(other)
        name = next((each for each in _FILES if each in both), None)
        if name is None:
            return []
        first, second = (content(each, name, LARGEST) for each in (one, other))
    except CheckpointError:
        return []
    if first == second or is_pointer(first) or is_pointer(second):
        return []
    if name != FAST:
        return ["vocab"] if numbers else []
    readers = _READERS if numbers else _READERS_OF_SPLITS
    ours, theirs = parts_of(first, readers), parts_of(second, readers)
    compared = (*NUMBERS, *SPLITS) if numbers else SPLITS
    differing = [part for part in compared if ours.get(part) != theirs.get(part)]
    return [part for part in differing if part != "type" or (part in ours and part in theirs)]  # old files lack it


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether a tokenizer lies in a checkpoint's folder."""
    return not names(checkpoint).isdisjoint(_FILES)


def special_tokens(checkpoint: Checkpoint) -> dict[str, Any]:
    """The special tokens that a checkpoint's tokenizer_config.json names, by their keys; empty where there is none."""
    config = read_object(checkpoint, TOKENIZER)
    return {
        key: value["content"] if isinstance(value, dict) and "content" in value else value
        for key, value in config.items()
        if (key.endswith("_token") or key in _LISTS) and value
    }


def _vocabulary(raw: bytes, place: int) -> tuple[object, int]:
    """The tokens with their numbers: in any order, but for a list (Unigram's), whose order gives the numbers."""
    if raw[place - 1 : place] == b"[":
        return _part(raw, place)
    pairs = 0
    for match in ENTRY.finditer(raw, place):
        if match[1] is None:
            return pairs, match.end()
        pairs = (pairs + xxhash.xxh3_128_intdigest(unescaped(match[1]) + b"\0" + match[2])) % 2**128
    return pairs, len(raw)


def _merges(raw: bytes, place: int) -> tuple[object, int]:
    """The pairs of tokens that are merged, in their order, whether written `"a b"` or `["a", "b"]`."""
    ordered = xxhash.xxh3_128()
    for match in _MERGE.finditer(raw, place):
        if match[0] == b"]":
            return ordered.digest(), match.end()
        strings = (match[1], match[2]) if match[3] is None else (match[3],)
        ordered.update(b" ".join(map(unescaped, strings)) + b"\0")
    return ordered.digest(), len(raw)


def _part(raw: bytes, place: int) -> tuple[object, int]:
    """A small part by what it says; a large one as it is written, but for blanks."""
    text, written = bytearray(raw[place - 1 : place]), xxhash.xxh3_128()
    depth = 1
    while depth and (match := _PART.search(raw, place)):
        place = match.end()
        depth += (match[0] in _OPENING) - (match[0] in _CLOSING)
        written.update(match[0])
        if len(text) <= _LARGEST_PARSED:
            text += match[0] + b" "
    try:
        said = json.dumps(_plain(json.loads(text)), sort_keys=True)
    except (ValueError, RecursionError):
        return written.digest(), place
    return xxhash.xxh3_128_digest(said.encode()), place


def _skipped(raw: bytes, place: int) -> tuple[object, int]:
    """A large part that nobody asks for."""
    match = _REST.match(raw, place)
    return None, match.end() if match else len(raw)


_MERGES: Place = (3, b'"model"', b'"merges"')
_READERS_OF_SPLITS: Readers = {
    VOCABULARY: _skipped,
    _MERGES: _skipped,
    **{(2, key, key): _part for key in (f'"{part}"'.encode() for part in SPLITS[1:])},
}
_READERS: Readers = {**_READERS_OF_SPLITS, VOCABULARY: _vocabulary, _MERGES: _merges, ADDED: _part}


def parts_of(raw: bytes, readers: Readers) -> dict[str, object]:
    """What stands in a tokenizer.json in some places, however it is spelled.

    Not parsed as a whole: the objects of one with 260,000 tokens take 250 MB.

    Args:
        raw: the file.
        readers: by place, what is called with the file and the place behind the opening bracket; it gives what it read
            and the place behind the closing one.

    Returns:
        What the readers gave, by key; under "type" that of the model, if the file says so.
    """
    found: dict[str, object] = {}
    depth, above, last, key, place = 0, b"", b"", b"", 0
    while match := _PART.search(raw, place):
        part, place = match[0], match.end()
        if part in _OPENING:
            depth += 1
            above = key if depth == 2 else above
            if read := readers.get((depth, above, key)):
                found[key[1:-1].decode()], place = read(raw, place)
                depth -= 1
        elif part in _CLOSING:
            depth -= 1
        elif part.startswith(b":"):
            key = last
        elif part.startswith(b'"'):
            if (depth, above, key, last) == (2, *MODEL_TYPE):
                found["type"] = unescaped(part)
            last = part
    return found


def unescaped(string: bytes) -> bytes:
    """The text of a JSON string, without quotes and escapes."""
    if b"\\" not in string:
        return string[1:-1]
    try:
        return str(json.loads(string)).encode(errors="surrogatepass")
    except ValueError:
        return string


def _plain(value: Any) -> Any:
    """A part without what versions of `tokenizers` spell in several ways, and what moves no token."""
    if isinstance(value, list):
        return [each for each in map(_plain, value) if each is not None]
    if not isinstance(value, dict):
        return value
    found = {key: _plain(each) for key, each in value.items() if key not in ("trim_offsets", "str_rep")}
    if found.get("type") == "Metaspace" and "add_prefix_space" in found:
        prefix = "always" if found.pop("add_prefix_space") else "never"
        found.setdefault("prepend_scheme", prefix)
    return {key: each for key, each in found.items() if not (key in ("use_regex", "split") and each is True)}
