"""The tokens of a checkpoint with their numbers, from tokenizer.json and tokenizer_config.json.

Tokens are held by their XXH3-64, eight bytes each: two of a million tokens have the same with a chance of 3e-8.
"""

import json
import os
import re
from array import array
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from sdmw.checkpoints.beside import content, names
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.json_files import TOKENIZER, read_object
from sdmw.checkpoints.tokenizer import (
    ADDED,
    ENTRY,
    FAST,
    LARGEST,
    STRING,
    VOCABULARY,
    has_tokenizer,
    parts_of,
    unescaped,
)
from sdmw.errors import CheckpointError, Problem, quoted
from sdmw.storage.pointers import FETCH, IS_POINTER, is_pointer

DECODER = "added_tokens_decoder"  # in tokenizer_config.json: added tokens by number
CONVERT = "Write one with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
_MOST = 2**31 - 1  # a larger number is none of a token
_PIECE = re.compile(rb"\[\s*(%b)\s*,[^\[\]]*\]|\]" % STRING, re.DOTALL)  # one of Unigram's, or the end of all
_OBJECT = re.compile(rb'\{(?:[^{}"]|%b)*\}|\]' % STRING, re.DOTALL)  # an added token, or the end of all
Numbers = NDArray[np.int64]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The tokens of one tokenizer.

    Attributes:
        hashes: (tokens) uint64, ascending.
        numbers: (tokens) int64, of each.
        added: by hash, those that are not of the vocabulary proper: as tokenizer.json has them.
        in_file: hashes of those of `added` that tokenizer.json has.
        following: the number that the `tokenizers` library gives the next token that is added: it numbers on from how
            many tokens the vocabulary has, or from the largest number of one that was added.
    """

    hashes: Hashes
    numbers: Numbers
    added: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    in_file: frozenset[int] = frozenset()
    following: int = 0

    def of(self, hashes: Hashes) -> Numbers:
        """The number of each token; -1 where there is none."""
        if not self.hashes.size:
            return np.full(hashes.size, -1)
        places = np.minimum(np.searchsorted(self.hashes, hashes), self.hashes.size - 1)
        return np.where(self.hashes[places] == hashes, self.numbers[places], -1)

    def below(self, rows: int) -> "Tokens":
        """Those with a number below this."""
        kept = self.numbers < rows
        return replace(self, hashes=self.hashes[kept], numbers=self.numbers[kept])

    def in_order(self) -> tuple[Numbers, Hashes]:
        """Numbers, ascending, and the token of each; of two with one number the one that was added."""
        added = np.isin(self.hashes, np.fromiter(self.added, np.uint64, len(self.added)))
        order = np.lexsort((~added, self.numbers))
        numbers, first = np.unique(self.numbers[order], return_index=True)
        return numbers, self.hashes[order][first]


def hash_of(token: str) -> int:
    """The XXH3-64 of a token."""
    return xxhash.xxh3_64_intdigest(token.encode(errors="surrogatepass"))


def read_tokens(checkpoint: Checkpoint) -> Tokens | None:
    """The tokens of a checkpoint; None where it has no tokenizer.

    Raises:
        CheckpointError: it has another than tokenizer.json, or one that cannot be read.
    """
    if FAST not in names(checkpoint):
        if not has_tokenizer(checkpoint):
            return None
        where = os.path.join(checkpoint.path, FAST)
        found = "only a tokenizer in another form"
        raise CheckpointError([Problem(where, "a file with the tokens and their numbers", found, CONVERT)])
    hashes, numbers, raw = array("Q"), array("q"), tokenizer_json(checkpoint)
    for token, number in _vocabulary(raw, checkpoint):
        hashes.append(xxhash.xxh3_64_intdigest(token))
        numbers.append(number)
    of_vocabulary = len(hashes)
    added: dict[int, Mapping[str, Any]] = {}
    for entry in added_entries(raw):
        added[hash_of(entry["content"])] = entry
    in_file, following = frozenset(added), _following(hashes, numbers, added)
    for entry in _decoder(checkpoint):
        added.setdefault(hash_of(entry["content"]), entry)
    hashes.extend(added)
    numbers.extend(entry["id"] for entry in added.values())
    if not of_vocabulary and not added:
        where = os.path.join(checkpoint.path, FAST)
        raise CheckpointError([Problem(where, "tokens under model.vocab", "none", CONVERT)])
    return replace(_sorted(hashes, numbers), added=added, in_file=in_file, following=following)


def digest_of(checkpoint: Checkpoint) -> bytes:
    """Equal for checkpoints whose files give the same tokens, byte by byte; CheckpointError as for `read_tokens`."""
    files = [name for name in (FAST, TOKENIZER) if name in names(checkpoint)]
    parts = (xxhash.xxh3_128_digest(content(checkpoint, name, LARGEST)) for name in files)
    return b"".join([*parts, str(files).encode()])


def texts_of(checkpoint: Checkpoint, wanted: Collection[int]) -> dict[int, str]:
    """The texts of some tokens, by their hashes; what the checkpoint does not have is left out."""
    found: dict[int, str] = {}
    for token, _ in _vocabulary(tokenizer_json(checkpoint), checkpoint):
        if (key := xxhash.xxh3_64_intdigest(token)) in wanted:
            found[key] = token.decode(errors="surrogatepass")
    return found


def tokenizer_json(checkpoint: Checkpoint) -> bytes:
    """The content of tokenizer.json; CheckpointError where it cannot be read, or is a pointer to it."""
    raw = content(checkpoint, FAST, LARGEST)
    if is_pointer(raw):
        raise CheckpointError([Problem(os.path.join(checkpoint.path, FAST), "the file", IS_POINTER, FETCH)])
    return raw


def added_entries(raw: bytes) -> Iterator[dict[str, Any]]:
    """The added tokens of a tokenizer.json, in the order of the file."""
    for match in _added(raw):
        if match[0] == b"]":
            return
        try:
            entry = json.loads(match[0])
        except (ValueError, RecursionError):
            continue
        if _is_entry(entry):
            yield entry


def end_of_added(raw: bytes) -> int | None:
    """Where the list of added tokens of a tokenizer.json ends; None where it has none."""
    return next((match.start() for match in _added(raw) if match[0] == b"]"), None)


def _added(raw: bytes) -> "Iterator[re.Match[bytes]]":
    """Each added token, and the end of their list."""
    place = parts_of(raw, {ADDED: _place}).get("added_tokens")
    return _OBJECT.finditer(raw, place) if isinstance(place, int) else iter(())


def _place(raw: bytes, place: int) -> tuple[object, int]:
    """Where a list or an object begins; what comes after is not looked at."""
    return place, len(raw)


def _vocabulary(raw: bytes, checkpoint: Checkpoint) -> Iterator[tuple[bytes, int]]:
    """Every token of the vocabulary proper with its number."""
    place = parts_of(raw, {VOCABULARY: _place}).get("vocab")
    if not isinstance(place, int):
        return
    if raw[place - 1 : place] == b"[":
        pieces = (match[1] for match in _PIECE.finditer(raw, place))
        for number, piece in enumerate(pieces):
            if piece is None:
                return
            yield unescaped(piece), number
    for match in ENTRY.finditer(raw, place):
        if match[1] is None:
            return
        if not match[2].isdigit() or int(match[2]) > _MOST:
            where = os.path.join(checkpoint.path, FAST)
            found = quoted(match[0][:100].decode(errors="replace"))
            raise CheckpointError([Problem(where, "a number for each token", found)])
        yield unescaped(match[1]), int(match[2])


def _decoder(checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
    """The added tokens of tokenizer_config.json."""
    given = read_object(checkpoint, TOKENIZER).get(DECODER)
    for number, each in given.items() if isinstance(given, dict) else ():
        if isinstance(each, dict) and number.isdigit() and _is_entry(entry := {"id": int(number), **each}):
            yield entry


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("content"), str)
        and type(entry.get("id")) is int
        and 0 <= entry["id"] <= _MOST
    )


def _following(hashes: "array[int]", numbers: "array[int]", added: Mapping[int, Mapping[str, Any]]) -> int:
    """What comes after the added tokens of tokenizer.json as `tokenizers` numbers them, whatever their entries say."""
    plain = _sorted(hashes, numbers).of(np.fromiter(added, np.uint64, len(added)))
    largest, size = -1, len(hashes)
    for number, entry in zip(plain.tolist(), added.values(), strict=True):
        if entry["content"]:  # an empty one is passed over
            largest = max(largest, number if number >= 0 else max(size, largest + 1))
    return max(size, largest + 1)


def _sorted(hashes: "array[int]", numbers: "array[int]") -> Tokens:
    """Ascending; of a token that is listed twice the last number counts."""
    every, each = np.array(hashes, np.uint64)[::-1], np.array(numbers, np.int64)[::-1]
    unique, first = np.unique(every, return_index=True)
    return Tokens(unique, each[first])
