"""A token mutator over valid files, with the safetensors library as second opinion: we may refuse more, never less."""

import random
import time
from pathlib import Path

from safetensors import SafetensorError, safe_open

from checkpoints.formats.handmade import entry, shard
from sdmw.checkpoints.formats.safetensors.header import read_header
from sdmw.errors import CheckpointError
from sdmw.storage.access import Access
from token_mutator import mutated

SECONDS = 10
NASTY = rb"""-0 -1 0 1 1.0 1e0 1e999 true null NaN Infinity 18446744073709551616 9223372036854775807 4294967296
    "" "\ud800" "\ud83d\ude00" "F32" "F4" "F8_E4M3" "BF16" "I64" "C64" "__metadata__" "dtype" "shape" "data_offsets" "a"
    {"a":"b"} [] {} [0,0] , : { } [ ] 2 3 4 5 6 8 16 00 01 0x1 "\u0061" "\\" /**/""".split()
NASTY += [b" ", b"\0", b"\xef\xbb\xbf", b"\xff"]
SEEDS = (
    ({"a": entry(), "b": entry("BF16", (2, 3), 4, 16), "c": entry("I64", (), 16, 24)}, 24),
    ({"__metadata__": {"format": "pt"}, "e": entry("F16", (0, 3), 0, 0), "u": entry("U8", (3,), 0, 3)}, 3),
    ({"a": entry("F4", (4,), 0, 2), "b": entry("F6_E2M3", (4,), 2, 5), "c": entry("F8_E5M2", (1,), 5, 6, x=[1])}, 6),
)


def damaged(chance: random.Random) -> bytes:
    """A file whose header is mutated, now and then with a byte too many or too few."""
    header, size = chance.choice(SEEDS)
    raw = mutated(shard(header)[8:], NASTY, chance)
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
        content = damaged(chance)
        file.unlink(missing_ok=True)  # ext4 waits for the disk when a file is written anew in place
        file.write_bytes(content)
        try:
            ours = read_header(str(tmp_path), file.name, Access(header_limit=2**20))
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
