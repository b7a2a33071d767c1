import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from checkpoints.formats.handmade import checkpoint, entry, shard
from sdmw.checkpoints.formats import read
from sdmw.checkpoints.formats._quantised import quantised_by_names

DTYPES = {
    "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16, "F64": "f8", "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "u2",
    "I16": "i2", "U32": "u4", "I32": "i4", "U64": "u8", "I64": "i8",
}  # fmt: skip


def is_plain(name):
    """Neither the key that is no tensor's, nor a name that only quantised weights have."""
    scales = name.endswith((".scales", ".weight_scale", ".weight_scale_inv"))
    return name != "__metadata__" and not scales and not quantised_by_names((), {name: None})


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(is_plain)
TENSORS = st.dictionaries(
    NAMES,
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 5), max_size=4), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=6,
)
EACH = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def values(dtype, shape, seed):
    drawn = np.random.default_rng(seed).bytes(int(np.prod(shape, dtype=int)) * np.dtype(DTYPES[dtype]).itemsize)
    if dtype == "BOOL":
        drawn = bytes(byte & 1 for byte in drawn)
    return np.frombuffer(drawn, DTYPES[dtype]).reshape(shape)


def assert_read_alike(path, arrays):
    found = read(str(path))
    assert set(found.tensors) == set(arrays)
    for name, array in arrays.items():
        tensor = found.tensors[name]
        assert tensor.shape == array.shape
        tile = tensor.open().tile(0, tensor.elements)
        assert tile.dtype == tensor.dtype.storage
        assert tile.tobytes() == array.tobytes()


@EACH
@given(tensors=TENSORS)
def test_what_the_library_writes_is_what_tiles_read(tmp_path, tensors):
    arrays = {name: values(*tensor) for name, tensor in tensors.items()}
    checkpoint(tmp_path, {})
    save_file(arrays, tmp_path / "model.safetensors")
    assert_read_alike(tmp_path, arrays)


@EACH
@given(tensors=TENSORS, padding=st.integers(0, 9))
def test_unaligned_tensors_are_read_as_the_library_reads_them(tmp_path, tensors, padding):
    header, data = {}, bytearray()
    for name, (dtype, shape, seed) in tensors.items():
        array = values(dtype, shape, seed)
        header[name] = entry(dtype, shape, len(data), len(data) + array.nbytes)
        data += array.tobytes()
    raw = shard(header)[8:] + b" " * padding
    checkpoint(tmp_path, {"model.safetensors": shard(raw, bytes(data))})
    with safe_open(tmp_path / "model.safetensors", "numpy") as theirs:
        assert_read_alike(tmp_path, {name: theirs.get_tensor(name) for name in theirs.keys()})  # noqa: SIM118


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_has_the_storage_of_its_size(tmp_path, dtype):
    array = values(dtype, (3, 5), 1)
    checkpoint(tmp_path, {"model.safetensors": shard({"t": entry(dtype, (3, 5), 0, array.nbytes)}, array.tobytes())})
    tensor = read(str(tmp_path)).tensors["t"]
    assert tensor.dtype.name == dtype
    assert tensor.nbytes == array.nbytes
