import os
import pickle

import numpy as np
import pytest
from safetensors import safe_open

from checkpoints.formats.handmade import SINGLE, checkpoint, entry, shard
from sdmw.checkpoints.checkpoint import unmergeable
from sdmw.checkpoints.formats import _json, read
from sdmw.checkpoints.formats.safetensors.header import MOST_TENSORS
from sdmw.errors import CheckpointError, quoted
from sdmw.storage.access import Access

OK = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def one(value: bytes, data=b"1234"):
    return shard(b'{"t":' + value + b"}", data)


def shaped(shape: bytes, data=b"1234"):
    return one(b'{"dtype":"F32","shape":' + shape + b',"data_offsets":[0,%d]}' % len(data), data)


def at(offsets: bytes, data=b"1234"):
    return one(b'{"dtype":"F32","shape":[1],"data_offsets":' + offsets + b"}", data)


BAD = {
    "empty file": (b"", "only 0 bytes"),
    "seven bytes": (b"1234567", "only 7 bytes"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "header beyond file": (shard({}, length=100), "100 bytes of header declared in a file of 10 bytes"),
    "huge length": (shard({}, length=2**64 - 1), "bytes of header declared"),
    "no header": (shard(b""), "cannot be used"),
    "not json": (shard(b"{]"), "cannot be used"),
    "not utf-8": (shard(b'{"\xff":1}'), "utf-8"),
    "byte order mark": (shard(b"\xef\xbb\xbf{}"), "cannot be used"),
    "two values": (shard(b"{}{}"), "Extra data"),
    "zero behind": (shard(b"{}\0"), "Extra data"),
    "an array": (shard(b"[]"), "a JSON object, found list"),
    "a number": (shard(b"1"), "a JSON object, found int"),
    "nested too deep": (shard(b"[" * 90_000), "nested too deep"),
    "entry nested very deep": (one(b"[" * 900 + b"]" * 900), "expected an object"),
    "raw control character": (shard(b'{"a\nb":' + OK + b"}", b"1234"), "control character"),
    "tensor twice": (shard(b'{"t":' + OK + b',"t":' + OK + b"}", b"1234"), "key 't' appears twice"),
    "metadata twice": (shard(b'{"__metadata__":{},"__metadata__":{}}'), "key '__metadata__' appears twice"),
    "metadata key twice": (shard(b'{"__metadata__":{"a":"","a":""}}'), "key 'a' appears twice"),
    "dtype twice": (one(b'{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}'), "key 'dtype' appears"),
    "escaped twice": (shard(b'{"t":' + OK + b',"\\u0074":' + OK + b"}", b"1234"), "key 't' appears twice"),
    "unknown field twice": (one(OK[:-1] + b',"x":{"y":1,"y":2}}'), "key 'y' appears twice"),
    "metadata a list": (shard({"__metadata__": []}), "__metadata__: expected an object with text values, found []"),
    "metadata number": (shard({"__metadata__": {"a": 1}}), "an object with text values"),
    "metadata null value": (shard({"__metadata__": {"a": None}}), "an object with text values"),
    "entry a list": (one(b'["F32",[1],[0,4]]'), "tensor 't': expected an object"),
    "entry null": (one(b"null"), "tensor 't': expected an object, found None"),
    "no dtype": (one(b'{"shape":[1],"data_offsets":[0,4]}'), "has no dtype"),
    "no shape": (one(b'{"dtype":"F32","data_offsets":[0,4]}'), "has no shape"),
    "no offsets": (one(b'{"dtype":"F32","shape":[1]}'), "has no data_offsets"),
    "unknown dtype": (one(OK.replace(b"F32", b"Q4_K")), "unknown dtype 'Q4_K'"),
    "dtype in small letters": (one(OK.replace(b"F32", b"f32")), "unknown dtype 'f32'"),
    "dtype a number": (one(OK.replace(b'"F32"', b"32")), "unknown dtype 32"),
    "dtype a list": (one(OK.replace(b'"F32"', b'["F32"]')), "unknown dtype ['F32']"),
    "NaN": (shaped(b"[NaN]"), "NaN' is not JSON"),
    "infinity": (shaped(b"[Infinity]"), "Infinity' is not JSON"),
    "minus infinity": (shaped(b"[-Infinity]"), "Infinity' is not JSON"),
    "out of range": (one(OK[:-1] + b',"x":1e999}'), "out of range"),
    "minus zero": (at(b"[-0,4]"), "expected two integers in order, found [-0.0, 4]"),
    "minus zero dimension": (shaped(b"[-0]", b""), "found [-0.0]"),
    "float": (shaped(b"[1.0]"), "found [1.0]"),
    "float offset": (at(b"[0,4.0]"), "found [0, 4.0]"),
    "exponent": (shaped(b"[1e0]"), "found [1.0]"),
    "bool": (shaped(b"[true]"), "found [True]"),
    "bool offset": (at(b"[false,4]"), "found [False, 4]"),
    "text dimension": (shaped(b'["1"]'), "found ['1']"),
    "null shape": (shaped(b"null"), "found None"),
    "shape a number": (shaped(b"1"), "found 1"),
    "negative dimension": (shaped(b"[-1]"), "found [-1]"),
    "two negative dimensions": (shaped(b"[-1,-1]"), "found [-1, -1]"),
    "dimension 2^63": (shaped(b"[%d]" % 2**63), "from 0 to 2^63 - 1"),
    "dimension of 5000 digits": (shaped(b"[" + b"9" * 5000 + b"]"), "cannot be used"),
    "product overflows": (shaped(b"[%d,%d]" % (2**40, 2**40)), "overflows"),
    "product overflows before a zero": (shaped(b"[%d,%d,0]" % (2**62, 2**62), b""), "overflows"),
    "rank 65": (shaped(b"[" + b",".join([b"1"] * 65) + b"]"), "at most 64 dimensions, found 65"),
    "negative offset": (at(b"[-4,0]"), "found [-4, 0]"),
    "offsets in reverse": (at(b"[4,0]"), "two integers in order, found [4, 0]"),
    "one offset": (at(b"[0]"), "two integers in order"),
    "three offsets": (at(b"[0,4,8]"), "two integers in order"),
    "offset 2^64": (at(b"[0,%d]" % 2**64), "two integers in order"),
    "too few bytes": (at(b"[0,2]", b"12"), "takes 4 bytes, data_offsets [0, 2] give 2"),
    "too many bytes": (at(b"[0,8]", b"12345678"), "takes 4 bytes, data_offsets [0, 8] give 8"),
    "half a byte": (shard({"t": entry("F4", (3,), 0, 2)}, b"12"), "is not a whole number of bytes"),
    "overlap": (shard({"a": entry(), "b": entry(start=2, stop=6)}, b"123456"), "byte 2: overlaps tensor 'a'"),
    "same bytes": (shard({"a": entry(), "b": entry()}, b"1234"), "overlaps tensor 'a'"),
    "empty inside another": (shard({"a": entry(), "b": entry(shape=(0,), start=2, stop=2)}, b"1234"), "overlaps"),
    "hole": (shard({"a": entry(), "b": entry(start=6, stop=10)}, bytes(10)), "hole of 2 bytes after tensor 'a'"),
    "hole at the start": (shard({"a": entry(start=2, stop=6)}, bytes(6)), "hole of 2 bytes after the header"),
    "trailing bytes": (one(OK, b"12345"), "1 more after the last tensor"),
    "cut off": (one(OK, b"123"), "expected 4 bytes of data, found 3: the file is cut off"),
    "lone high surrogate": (shard(b'{"\\ud800":' + OK + b"}", b"1234"), "half of a surrogate pair"),
    "lone low surrogate": (shard(b'{"\\uDC00":' + OK + b"}", b"1234"), "half of a surrogate pair"),
    "two high surrogates": (shard(b'{"\\ud83d\\ud83d\\ude00":' + OK + b"}", b"1234"), "half of a surrogate pair"),
    "two low surrogates": (shard(b'{"\\ud83d\\ude00\\ude00":' + OK + b"}", b"1234"), "half of a surrogate pair"),
    "split pair": (shard(b'{"\\ud83d\\\\\\ude00":' + OK + b"}", b"1234"), "half of a surrogate pair"),
    "surrogate in metadata": (shard(b'{"__metadata__":{"a":"\\udfff"}}'), "half of a surrogate pair"),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD)
def test_a_bad_header_is_refused_by_name(tmp_path, content, said):
    path = checkpoint(tmp_path, {SINGLE: content})
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert said in str(caught.value)
    assert all(problem.where.startswith(str(tmp_path / SINGLE)) for problem in caught.value.problems)


ODD = {
    "blanks around": shard(b" \n\t{" + b'"t":' + OK + b"} \r\n ", b"1234"),
    "null metadata": shard(b'{"__metadata__":null,"t":' + OK + b"}", b"1234"),
    "metadata": shard({"__metadata__": {"format": "pt", "": ""}, "t": entry()}, b"1234"),
    "empty name": shard({"": entry()}, b"1234"),
    "name with controls": shard({"\x1b[31mred\n\0": entry()}, b"1234"),
    "name like JSON": shard({'"},{"data_offsets":[': entry()}, b"1234"),
    "name in Cyrillic": shard({"вес/../\\u": entry()}, b"1234"),
    "name of a pair": shard(b'{"\\ud83d\\ude00\\\\ud800":' + OK + b"}", b"1234"),
    "long name": shard({"x" * 100_000: entry()}, b"1234"),
    "unaligned": shard({"a": entry("U8", (3,), 0, 3), "b": entry(start=3, stop=7)}, b"1234567"),
    "header of odd length": shard(b'{"t":' + OK + b" }", b"1234"),
    "order of data is not order of names": shard({"a": entry(start=4, stop=8), "b": entry()}, b"12345678"),
    "empty tensors": shard({"a": entry(shape=(0, 5), start=4), "b": entry(), "c": entry(shape=(0,), stop=0)}, b"1234"),
    "empty of huge shape": shard({"a": entry(shape=(0, 2**62), stop=0)}),
    "scalar": shard({"a": entry(shape=())}, b"1234"),
    "rank 64": shard({"a": entry(shape=(1,) * 64)}, b"1234"),
    "sub-byte": shard({"a": entry("F4", (4,), 0, 2), "b": entry("F6_E2M3", (4,), 2, 5)}, b"12345"),
    "complex": shard({"a": entry("C64", (1,), 0, 8)}, b"12345678"),
    "large metadata": shard({"__metadata__": {"tags": "a,[{" * 20_000}, "t": entry()}, b"1234"),
}  # fmt: skip


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_what_is_odd_and_allowed_is_read_as_safetensors_reads_it(tmp_path, content):
    path = checkpoint(tmp_path, {SINGLE: content})
    found = read(path)
    assert found.warnings == ()
    with safe_open(tmp_path / SINGLE, "numpy") as theirs:
        assert {t.name: (t.dtype.name, list(t.shape)) for t in found.tensors.values()} == {
            name: (theirs.get_slice(name).get_dtype(), theirs.get_slice(name).get_shape())
            for name in theirs.keys()  # noqa: SIM118
        }
        for tensor in found.tensors.values():
            if tensor.elements and (tensor.dtype.merges or tensor.dtype.copies):
                ours = tensor.open().tile(0, tensor.elements)
                np.testing.assert_array_equal(
                    ours.view(np.uint8), theirs.get_tensor(tensor.name).reshape(-1).view(np.uint8)
                )


def test_an_unknown_field_is_a_warning(tmp_path):
    path = checkpoint(tmp_path, {SINGLE: shard({"t": entry(scale=1.5), "u": entry(start=4, stop=8)}, bytes(8))})
    (warning,) = read(path).warnings
    assert "'scale' of 't'" in warning


def test_tensors_come_in_the_order_of_their_offsets(tmp_path):
    header = {"a": entry(start=4, stop=8), "b": entry(), "c": entry(start=8, stop=12)}
    assert list(read(checkpoint(tmp_path, {SINGLE: shard(header, bytes(12))})).tensors) == ["b", "a", "c"]


def test_all_problems_of_all_tensors_are_told_at_once_and_many_are_counted(tmp_path):
    header = {f"t{i}": entry("Q8") for i in range(100)}
    with pytest.raises(CheckpointError) as caught:
        read(checkpoint(tmp_path, {SINGLE: shard(header)}))
    assert len(caught.value.problems) == 11
    assert "90 more tensors" in str(caught.value)


def test_terminal_controls_in_names_never_reach_the_message(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        read(checkpoint(tmp_path, {SINGLE: shard({"\x1b]0;owned\x07" + "x" * 500: entry("Q8")})}))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_a_header_may_have_as_many_bytes_as_the_limit_says(tmp_path):
    text = (b'{"t":' + OK + b"}").ljust(1000)
    path = checkpoint(tmp_path, {SINGLE: shard(text, b"1234")})
    assert list(read(path, Access(header_limit=1000)).tensors) == ["t"]
    with pytest.raises(CheckpointError, match="a header of at most 999 bytes, found 1,000 bytes"):
        read(path, Access(header_limit=999))


def test_the_header_limit_holds_and_can_be_raised(tmp_path):
    path = checkpoint(tmp_path, {SINGLE: shard(b'{"t":' + OK + b"}" + b" " * (17 * 2**20), b"1234")})
    with pytest.raises(CheckpointError, match=r"at most 16,777,216 bytes.*raise the header limit"):
        read(path)
    assert list(read(path, Access(header_limit=20 * 2**20)).tensors) == ["t"]


def test_the_formats_own_limit_cannot_be_raised(tmp_path):
    with (tmp_path / SINGLE).open("wb") as file:
        file.write((10**8 + 1).to_bytes(8, "little"))
        file.truncate(10**8 + 100)
    with pytest.raises(CheckpointError, match="at most 100,000,000 bytes"):
        read(checkpoint(tmp_path, {}), Access(header_limit=2**30))


@pytest.mark.parametrize(
    "header",
    [
        b"{" + b",".join(b'"%x":{"data_offsets":0}' % i for i in range(200_000)) + b"}",
        b'{"__metadata__":{' + b",".join(b'"%x":""' % i for i in range(200_000)) + b"}}",
        b'{"a":' + b"[" * 200_000,
        b'{"a":[' + b"{}," * 200_000,
    ],
    ids=["entries", "metadata", "nested", "objects"],
)
def test_a_header_bomb_is_refused_before_it_is_parsed(tmp_path, monkeypatch, header):
    monkeypatch.setattr("sdmw.checkpoints.formats.safetensors.header.members", pytest.fail)
    with pytest.raises(CheckpointError, match="JSON values"):
        read(checkpoint(tmp_path, {SINGLE: shard(header)}))


def test_more_tensors_than_a_file_may_have_are_refused_before_parsing_whatever_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("sdmw.checkpoints.formats.safetensors.header.members", pytest.fail)
    names = b",".join(b'"%x":' % i + OK for i in range(MOST_TENSORS + 1))
    with pytest.raises(CheckpointError, match=r"at most 131,072 tensors.*Save it in more shards"):
        read(checkpoint(tmp_path, {SINGLE: shard(b"{" + names + b"}")}), Access(header_limit=10**8))


@pytest.mark.parametrize("odd", ["\U0001f600".encode(), b"\\ud83d\\ude00"], ids=["raw", "escaped"])
def test_characters_that_would_quadruple_the_text_are_refused_before_parsing(tmp_path, monkeypatch, odd):
    monkeypatch.setattr("sdmw.checkpoints.formats.safetensors.header.members", pytest.fail)
    with pytest.raises(CheckpointError, match="at most 8,388,608 bytes of header where characters take 4"):
        read(checkpoint(tmp_path, {SINGLE: shard(b'{"' + odd + b"a" * 2**23 + b'":' + OK + b"}", b"1234")}))


def counting(monkeypatch) -> list[str]:
    """The names of the entries that get parsed from now on."""
    parsed = []

    def members(raw):
        for name, value in _json.members(raw):
            parsed.append(name)
            yield name, value

    monkeypatch.setattr("sdmw.checkpoints.formats.safetensors.header.members", members)
    return parsed


def test_a_file_full_of_faults_is_left_early(tmp_path, monkeypatch):
    parsed = counting(monkeypatch)
    with pytest.raises(CheckpointError, match="1,000 more tensors have problems; the rest was not checked"):
        read(checkpoint(tmp_path, {SINGLE: shard({f"t{i}": entry("Q8") for i in range(5_000)})}))
    assert len(parsed) == 1_010


def test_a_file_full_of_holes_is_left_early(tmp_path):
    header = {f"t{i}": entry("U8", (1,), 2 * i, 2 * i + 1) for i in range(5_000)}
    with pytest.raises(CheckpointError, match="1,000 more tensors have problems; the rest was not checked"):
        read(checkpoint(tmp_path, {SINGLE: shard(header, bytes(10_000))}))


def test_a_name_that_stands_twice_ends_the_parsing(tmp_path, monkeypatch):
    parsed = counting(monkeypatch)
    names = b",".join(b'"%d":' % (i // 2) + OK for i in range(1_000))
    with pytest.raises(CheckpointError, match="'0' appears twice"):
        read(checkpoint(tmp_path, {SINGLE: shard(b"{" + names + b"}", b"1234")}))
    assert parsed == ["0", "0"]


def test_a_bad_tensor_that_stands_twice_is_told_as_that(tmp_path):
    with pytest.raises(CheckpointError, match="'t' appears twice"):
        read(checkpoint(tmp_path, {SINGLE: shard(b'{"t":0,"t":' + OK + b"}", b"1234")}))


def test_integers_of_thousands_of_digits_are_not_made(tmp_path):
    with pytest.raises(CheckpointError, match="an integer of 4,000 digits"):
        read(checkpoint(tmp_path, {SINGLE: one(b'{"x":' + b"9" * 4_000 + b"}")}))


class Unread(list):
    """A list that is not to be looked through."""

    def __iter__(self):
        for number, item in enumerate(super().__iter__()):
            assert number < 200
            yield item


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("it's", '"it\'s"'),
        ([1, "a", {"b": [None, -0.0]}, {}, []], "[1, 'a', {'b': [None, -0.0]}, {}, []]"),
        ("x" * 199, "'" + "x" * 199 + "…'"),
        ({"x" * 500: 1}, "{'" + "x" * 198 + "…}"),
        (Unread([0] * 10_000), "[" + "0, " * 66 + "0…]"),
    ],
)
def test_a_value_is_shown_as_repr_shows_it_and_no_more_of_it_looked_at_than_is_shown(value, shown):
    assert _json.told(value) == shown
    assert isinstance(value, Unread) or _json.told(value) == quoted(value)


def test_small_floats_are_read_and_listed_as_unmergeable(tmp_path):
    header = {"a": entry("F8_E4M3", (4,)), "b": entry(start=4, stop=8), "c": entry("I64", (1,), 8, 16)}
    found = read(checkpoint(tmp_path, {SINGLE: shard(header, bytes(16))}))
    (problem,) = unmergeable(found)
    assert "tensor 'a'" in problem.where
    assert problem.found == "F8_E4M3"
    with pytest.raises(CheckpointError, match="F8_E4M3"):
        found.tensors["a"].open()


def test_a_checkpoint_pickles(tmp_path):
    found = read(checkpoint(tmp_path, {SINGLE: shard({"t": entry()}, b"1234")}))
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_fingerprint_tells_what_changed(tmp_path):
    (found,) = read(checkpoint(tmp_path, {SINGLE: shard({"t": entry(shape=(1000,), stop=4000)}, bytes(4000))})).shards
    file = tmp_path / SINGLE
    assert found.changed() is None
    os.utime(file)
    assert found.changed() == "was modified"
    (tmp_path / "copy").write_bytes(file.read_bytes())
    (tmp_path / "copy").rename(file)
    assert found.changed() == "was replaced"
    os.truncate(file, 100)
    assert found.changed() == f"was {found.size / 1000:.2f} KB at the start, is 100 bytes now"
    os.truncate(file, found.size + 1)
    assert found.changed() == f"was {found.size:,} bytes at the start, is {found.size + 1:,} bytes now"
    file.unlink()
    assert found.changed() == "is gone"


def test_the_header_hash_is_that_of_the_header_only(tmp_path):
    header = {"t": entry()}
    hashes = {
        read(checkpoint(tmp_path / name, {SINGLE: shard(header, data)})).shards[0].header_hash
        for name, data in (("a", b"1234"), ("b", b"4321"))
    }
    assert len(hashes) == 1
    assert len(hashes.pop()) == 32
