"""The arrays and attributes of a delta archive: what is written is read, and nothing else is believed."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmw.archives import runs, shards
from sdmw.archives.archive import Archive, ArchivedTensor, believed, read_archive
from sdmw.archives.arrays import ArchiveReader, ArchiveWriter, shuffle_of
from sdmw.errors import ArchiveError
from sdmw.tensors.dtype import DType

HASH = "0" * 32
NONE = {"base": {}, "model": {}}
DTYPES = (DType.BOOL, DType.BF16, DType.F32, DType.F64)


@pytest.fixture(autouse=True, scope="module")
def _small():
    """Many blocks, chunks and shards of few elements."""
    with pytest.MonkeyPatch.context() as patch:
        for where, name, size in ((runs, "BLOCK", 8), (shards, "CHUNK", 4), (shards, "SHARD", 16)):
            patch.setattr(where, name, size)
        yield


def kept_of(mask, dtype, seed):
    rng = np.random.default_rng(seed)
    places = np.flatnonzero(mask)
    return places, rng.integers(1, 1 << 8 * dtype.itemsize - 1, places.size, f"<u{dtype.itemsize}", endpoint=True)


def run_of(mask, dtype, seed):
    places, bits = kept_of(mask, dtype, seed)
    xor = np.zeros(len(mask), bits.dtype)
    xor[places] = bits
    return runs.run_of(xor, np.empty(len(mask), np.uint16))


def write(path, contents, files=None):
    """An archive of (dtype, mask) for each tensor."""
    tensors = []
    with ArchiveWriter(str(path)) as writer:

        def store(chunks):
            for name, chunk in chunks:
                writer.store(name, shards.compressed(chunk, shuffle_of(name)))

        for number, (dtype, mask) in enumerate(contents):
            run = run_of(mask, dtype, number)
            store(writer.add(run))
            tensors.append(ArchivedTensor(f"t{number}", dtype, (len(mask),), run.gaps.size, HASH, HASH))
        store(writer.rest())
        archive = Archive(str(path), 0.0, tuple(tensors), files or NONE, {"LICENSE": HASH}, NONE)
        writer.close(archive)
    return archive


def read(reader, tensor, elements):
    """Places and bits of the next run."""
    run = reader.take(tensor, elements)
    marks = np.zeros(elements, np.uint8)
    with believed("gaps"):
        runs.flip(marks, replace(run, xor=np.ones(run.gaps.size, np.uint8)))
    return np.flatnonzero(marks), run.xor


masks = st.lists(st.booleans(), max_size=60)


@settings(max_examples=30)
@given(contents=st.lists(st.tuples(st.sampled_from(DTYPES), masks), max_size=6))
def test_what_is_written_is_read(tmp_path_factory, contents):
    path = tmp_path_factory.mktemp("archive") / "a"
    written = write(path, contents)
    archive = read_archive(str(path))
    assert archive == written
    reader = ArchiveReader(archive)
    for number, (dtype, mask) in enumerate(contents):
        found = []
        for start in range(0, max(1, len(mask)), 16):  # runs of two blocks, as tiles are
            places, xor = read(reader, archive.tensors[number], min(16, len(mask) - start))
            found.append((places + start, xor))
        for had, part in zip(kept_of(mask, dtype, number), zip(*found, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(part), had)


CONTENTS = [(DType.BF16, [True, False, True] * 13), (DType.F64, [False] * 9), (DType.BF16, [True] * 20)]


def test_the_files_are_those_that_zarr_writes(sound, tmp_path):
    for name in sorted(each.name for each in sound.iterdir() if each.is_dir()):
        array = zarr.open_array(sound / name, mode="r")
        metadata = array.metadata.to_dict()
        again = zarr.create_array(
            store=tmp_path / name, shape=array.shape, dtype=array.dtype, chunks=array.chunks, shards=array.shards,
            compressors=array.compressors, fill_value=0,
            config={"write_empty_chunks": True},
        )  # fmt: skip
        again[:] = array[:]
        assert again.metadata.to_dict() == metadata
        files = sorted(each.relative_to(sound) for each in (sound / name).rglob("c/*"))
        assert files == sorted(each.relative_to(tmp_path) for each in (tmp_path / name).rglob("c/*"))
        assert all((sound / each).read_bytes() == (tmp_path / each).read_bytes() for each in files)


def taken(path):
    archive = read_archive(str(path))
    reader = ArchiveReader(archive)
    return [read(reader, tensor, tensor.elements) for tensor in archive.tensors]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "a"
    write(path, CONTENTS)
    return path


@pytest.fixture
def copied(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "a"))


def edited(path, change, name="zarr.json"):
    node = json.loads((path / name).read_text())
    change(node)
    (path / name).write_text(json.dumps(node))


def setting(*keys, value):
    def change(node):
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value

    return change


def test_zarr_itself_reads_it(sound):
    group = zarr.open_group(str(sound), mode="r")
    assert group["counts"][:].tolist() == [5, 6, 5, 5, 5, 0, 0, 8, 8, 4]
    assert group["xor16"].shape == group["gaps"].shape == (46,)
    assert group["xor64"].shape == (0,)
    assert len(os.listdir(sound / "gaps/c")) == 3
    assert "no signature" in group.attrs["checksums"]


ATTRIBUTES = [
    (("format",), 1), (("k",), -1), (("k",), True), (("k",), "0"), (("tensors",), {}), (("files",), {}),
    (("files", "base"), {"config.json": "x"}), (("files", "model"), {"../x": HASH}), (("tensors", 0), 7),
    (("shared",), None), (("shared",), {"x": 1}), (("left_out",), {}),
    (("left_out", "base"), []), (("left_out", "model"), {"x": 2}),
    (("tensors", 0, "name"), "t1"), (("tensors", 0, "name"), 1), (("tensors", 0, "dtype"), "F4"),
    (("tensors", 0, "dtype"), ["F32"]), (("tensors", 0, "dtype"), "F64"), (("tensors", 0, "shape"), "39"),
    (("tensors", 0, "shape"), [-39]), (("tensors", 0, "shape"), [2**40, 2**40]), (("tensors", 0, "shape"), [1] * 999),
    (("tensors", 0, "shape"), [2**50]), (("tensors", 0, "shape"), [39.0]), (("tensors", 0, "kept"), 40),
    (("tensors", 0, "kept"), 25), (("tensors", 0, "kept"), True), (("tensors", 0, "base"), "0" * 31),
    (("tensors", 0, "model"), None), (("tensors", 0, "more"), 1),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "value"), ATTRIBUTES)
def test_attributes_that_are_not_believed(copied, keys, value):
    edited(copied, setting("attributes", *keys, value=value))
    with pytest.raises(ArchiveError, match="a/"):
        taken(copied)


def test_a_file_that_is_the_same_and_another(copied):
    files = copied / "files" / "base"
    files.mkdir(parents=True)
    (files / "LICENSE").touch()
    empty = xxhash.xxh3_128_hexdigest(b"")
    edited(copied, setting("attributes", "files", value={"base": {"LICENSE": empty}, "model": {}}))
    with pytest.raises(ArchiveError, match="a file is listed both as equal and as different"):
        read_archive(str(copied))


@pytest.mark.parametrize("text", [
    "", "[]", "{}", "nul", "[" * 100_000, '{"attributes": {"format": NaN}}',
    '{"attributes": {"format": 2, "format": 2}}',
])  # fmt: skip
def test_attributes_that_are_none(copied, text):
    (copied / "zarr.json").write_text(text)
    with pytest.raises(ArchiveError, match=r"zarr\.json"):
        taken(copied)


def test_attributes_beyond_all_bounds(copied):
    with open(copied / "zarr.json", "r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ArchiveError, match="at most"):
        read_archive(str(copied))


METADATA = [
    (("shape",), [2**40]), (("shape",), [45]), (("shape",), [46, 1]), (("data_type",), "int16"),
    (("data_type",), "uint64"), (("fill_value",), 7), (("codecs", 0, "configuration", "chunk_shape"), [2]),
    (("chunk_grid", "configuration", "chunk_shape"), [2**40]), (("codecs",), [{"name": "bytes"}]),
    (("codecs", 0, "configuration", "codecs", 1, "name"), "gzip"),
    (("codecs", 0, "configuration", "codecs", 1, "configuration", "cname"), "lz4"),
    (("codecs", 0, "name"), "no_such_codec"), (("zarr_format",), 2), (("node_type",), "group"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "value"), METADATA)
def test_arrays_that_this_version_would_not_write(copied, keys, value):
    edited(copied, setting(*keys, value=value), "gaps/zarr.json")
    with pytest.raises(ArchiveError, match="gaps"):
        taken(copied)


def test_a_named_pipe_does_not_hang_it(copied):
    for name in ("gaps/c/0", "xor16/zarr.json"):
        os.unlink(copied / name)
        os.mkfifo(copied / name)
        with pytest.raises(ArchiveError, match="a named pipe"):
            taken(copied)


def test_a_link_out_of_it_is_not_followed(copied, sound):
    os.unlink(copied / "gaps/c/0")
    (copied / "gaps/c/0").symlink_to(sound / "gaps/c/0")
    with pytest.raises(ArchiveError, match="a link that leaves it"):
        taken(copied)


@pytest.mark.parametrize(
    "name", ["gaps/c/0", "gaps/c/2", "xor16/c/1", "counts/c/0", "gaps/zarr.json", "xor8/zarr.json"]
)
def test_files_that_are_cut_or_gone(copied, name):
    whole = (copied / name).read_bytes()
    for size in sorted({0, 1, 20, len(whole) // 2, len(whole) - 1}):
        (copied / name).write_bytes(whole[:size])
        with pytest.raises(ArchiveError, match=name.split("/")[0]):
            taken(copied)
    os.unlink(copied / name)
    with pytest.raises(ArchiveError, match="no such file"):
        taken(copied)


def test_a_chunk_that_claims_gigabytes(copied):
    """C-Blosc takes the size of its result from the chunk's own header."""
    whole = bytearray((copied / "gaps/c/0").read_bytes())
    whole[4:8] = (2**31 - 1).to_bytes(4, "little")
    (copied / "gaps/c/0").write_bytes(whole)
    with pytest.raises(ArchiveError, match="a chunk of another size"):
        taken(copied)


@settings(max_examples=150)
@given(data=st.data())
def test_flipped_bytes_never_crash_it(sound, tmp_path_factory, data):
    """Their meaning is for the checksums of tensors to judge; here either way is right, if it is clear."""
    path = tmp_path_factory.mktemp("flipped") / "a"
    shutil.copytree(sound, path)
    files = sorted(str(f.relative_to(path)) for f in path.rglob("c/*"))
    name = data.draw(st.sampled_from(files))
    content = bytearray((path / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (path / name).write_bytes(content)
    try:
        found = taken(path)
    except ArchiveError:
        return
    for (places, xor), (_, mask) in zip(found, CONTENTS, strict=True):
        assert places.size == xor.size
        assert (np.diff(places) > 0).all()
        assert not places.size or 0 <= places[0] <= places[-1] < len(mask)


@pytest.mark.parametrize(("array", "entry", "value", "said"), [
    ("counts", 0, 9, "more elements kept than a block has"), ("counts", 4, 8, "more elements kept than a block has"),
    ("counts", 9, 1, ""), ("gaps", 0, 60_000, "a place beyond the end of a block"),
    ("gaps", 25, 7, "a place beyond the end of a block"),
])  # fmt: skip
def test_numbers_that_do_not_fit(copied, array, entry, value, said):
    opened = zarr.open_array(str(copied / array), mode="r+")
    opened[entry] = value
    if said:
        with pytest.raises(ArchiveError, match=said):
            taken(copied)
    else:
        assert sum(places.size for places, _ in taken(copied)) == 43  # for the tensor's checksum to tell


def test_counts_that_add_up_to_more_than_there_is(copied):
    opened = zarr.open_array(str(copied / "counts"), mode="r+")
    opened[5:7] = 8, 1
    with pytest.raises(ArchiveError, match="fewer entries than the counts of blocks add up to"):
        taken(copied)


def test_no_archive(tmp_path):
    (tmp_path / "file").write_text("")
    for name, said in (("none", "no such directory"), ("file", "a file"), (".", "no such file")):
        with pytest.raises(ArchiveError, match=said):
            read_archive(str(tmp_path / name))
