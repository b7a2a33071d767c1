"""A token mutator over valid files, with the safetensors library as second opinion: we may refuse more, never less."""

import random
import re
import time
from pathlib import Path

from safetensors import SafetensorError, safe_open

from checkpoints.formats.handmade import entry, shard
from sdmw.checkpoints.formats.safetensors.header import read_header
from sdmw.errors import CheckpointError

SECONDS = 10
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9.eE+-]+|[a-zA-Z]+|.', re.DOTALL)
NASTY = rb"""-0 -1 0 1 1.0 1e0 1e999 true null NaN Infinity 18446744073709551616 9223372036854775807 4294967296
    "" "\ud800" "\ud83d\ude00" "F32" "F4" "F8_E4M3" "BF16" "I64" "C64" "__metadata__" "dtype" "shape" "data_offsets" "a"
    {"a":"b"} [] {} [0,0] , : { } [ ] 2 3 4 5 6 8 16 00 01 0x1 "\u0061" "\\" /**/""".split()
NASTY += [b" ", b"\0", b"\xef\xbb\xbf", b"\xff"]
SEEDS = (
    ({"a": entry(), "b": entry("BF16", (2, 3), 4, 16), "c": entry("I64", (), 16, 24)}, 24),
    ({"__metadata__": {"format": "pt"}, "e": entry("F16", (0, 3), 0, 0), "u": entry("U8", (3,), 0, 3)}, 3),
    ({"a": entry("F4", (4,), 0, 2), "b": entry("F6_E2M3", (4,), 2, 5), "c": entry("F8_E5M2", (1,), 5, 6, x=[1])}, 6),
)


def mutated(chance: random.Random) -> bytes:
    header, size = chance.choice(SEEDS)
    tokens = TOKEN.findall(shard(header)[8:])
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5))):
        place, other = chance.randrange(len(tokens)), chance.randrange(len(tokens))
        match chance.randrange(5):
            case 0:
                tokens[place] = b""
            case 1:
                tokens[place] += tokens[other]
            case 2:
                tokens[place], tokens[other] = tokens[other], tokens[place]
            case 3:
                tokens[place:place] = tokens[min(place, other) : max(place, other)]
            case 4:
                tokens[place] = chance.choice(NASTY)
    raw = b"".join(tokens)
    more, longer = chance.choice(((0, 0),) * 8 + ((1, 0), (-1, 0), (0, 1), (0, -1)))
    return shard(raw, bytes(size + more), max(0, len(raw) + longer))


def loads(file):
    try:
        with safe_open(file, "numpy"):
            return True
    except SafetensorError:
        return False


def test_nothing_is_accepted_that_safetensors_refuses(tmp_path: Path):
    chance = random.Random()  # other inputs each time; what fails is in the message
    file = tmp_path / "m.safetensors"
    rounds = accepted = 0
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        rounds += 1
        content = mutated(chance)
        file.unlink(missing_ok=True)  # ext4 waits for the disk when a file is written anew in place
        file.write_bytes(content)
        try:
            ours = read_header(str(tmp_path), file.name, 2**20)
        except CheckpointError:
            continue
        accepted += 1
        assert loads(file), content
        with safe_open(file, "numpy") as theirs:
            assert {t.name: (t.dtype.name, list(t.shape)) for t in ours.tensors} == {
                name: (theirs.get_slice(name).get_dtype(), theirs.get_slice(name).get_shape())
                for name in theirs.keys()  # noqa: SIM118
            }, content
    assert accepted > rounds // 50  # else the mutations are too wild to tell anything
