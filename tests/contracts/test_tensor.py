"""What every kind of tensor must do. A class brings its example in SAMPLES; one without fails here."""

import atexit
import functools
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from adapters_on_disk import factors, write_adapter
from sdmw import codec, linux
from sdmw.checkpoints.formats import formats, read
from sdmw.tensors.combined import Combination, combined
from sdmw.tensors.dtype import DType
from sdmw.tensors.joined import Joined
from sdmw.tensors.low_rank import Factor, LowRank, Sum
from sdmw.tensors.low_rank import factors as factors_of
from sdmw.tensors.part import Part
from sdmw.tensors.remote import StoredRemotely
from sdmw.tensors.row_table import ZEROS
from sdmw.tensors.rows import Mean, MeanRow, Rows
from sdmw.tensors.stored import Stored
from sdmw.tensors.tensor import Tensor
from stores_on_loopback import web

SHAPE = (13, 1021)  # primes: no tiling falls on rows or pages
ELEMENTS = SHAPE[0] * SHAPE[1]


def stored_sample(directory: Path) -> Tensor:
    weights = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    (directory / "model").mkdir()
    save_file({"first": weights[:1], "m.weight": weights}, directory / "model" / "model.safetensors")
    (directory / "model" / "config.json").write_text("{}")
    return read(str(directory / "model")).tensors["m.weight"]


def low_rank_sample(directory: Path) -> LowRank:
    rng = np.random.default_rng(0)
    write_adapter(directory / "adapter", factors(rng, "m", SHAPE, rank=5, dtype="BF16"), r=5)
    found = read(str(directory / "adapter")).tensors["m.weight"]
    assert isinstance(found, LowRank)
    return found


def sum_sample(directory: Path) -> Tensor:
    return low_rank_sample(directory).on(stored_sample(directory))


def factor_sample(directory: Path) -> Tensor:
    """B of an adapter of rank 1021 that is combined of two, so that it has the shape of all samples."""
    delta = low_rank_sample(directory)
    mixed = combined(Combination("cat", (delta, delta), (0.5, -1.0), SHAPE[1]))
    _, b = factors_of(mixed)
    return b


def other_sample(directory: Path, name: str, dtype: DType) -> Tensor:
    """Another vocabulary, of as many elements a row."""
    rows = np.random.default_rng(2).integers(0, 0x3C00, (7, SHAPE[1]), np.uint16)
    values = rows if dtype is DType.F16 else (rows.astype(np.uint32) << 16)
    (directory / name).mkdir()
    save_file({"o.weight": values.view(np.float16 if dtype is DType.F16 else np.float32)},
              directory / name / "model.safetensors")  # fmt: skip
    (directory / name / "config.json").write_text("{}")
    return read(str(directory / name)).tensors["o.weight"]


def gathered(directory: Path, dtype: DType) -> Rows:
    """Rows in another order, of two tensors, with zeros; the last four one after the other."""
    own, other = stored_sample(directory), other_sample(directory, "other", dtype)
    sources = np.array([0, 0, 1, 0, ZEROS, ZEROS, 1, 1, 0, 0, 0, 0, 0])
    return Rows.of("m.weight", (own, other), sources, np.array([12, 3, 6, 4, 0, 0, 1, 2, 0, 5, 6, 7, 8]))


def rows_sample(directory: Path) -> Tensor:
    return gathered(directory, DType.F32)


def mean_sample(directory: Path) -> Tensor:
    rows = gathered(directory, DType.F16)
    assert rows.dtype is DType.F32
    return Mean.of((rows, rows.sources[0]))


def mean_row_sample(directory: Path) -> Tensor:
    return MeanRow.of(other_sample(directory, "other", DType.F16), SHAPE[0])


def part_sample(directory: Path) -> Tensor:
    """The transpose of a stored tensor."""
    rows, columns = SHAPE
    whole = replace(stored_sample(directory), shape=(columns, rows))
    return Part("m.weight", whole.dtype, SHAPE, whole, 0, ((rows, 1), (columns, rows)))


def joined_sample(directory: Path) -> Tensor:
    """Rows of a stored tensor, in another order."""
    stored = stored_sample(directory)
    rows = [Part(f"{n}", stored.dtype, SHAPE[1:], stored, n * SHAPE[1], ((SHAPE[1], 1),)) for n in range(SHAPE[0])]
    return Joined.of("m.weight", SHAPE, [*rows[4:], *rows[:4]])


@functools.cache
def server():
    """For all samples of the process; it ends with it."""
    running, folder = ExitStack(), Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    atexit.register(running.close)
    found = running.enter_context(web(folder))
    os.environ["SSL_CERT_FILE"] = str(folder / "authority.pem")
    return found


def remote_sample(directory: Path) -> Tensor:
    """The same file on a web server."""
    stored_sample(directory)
    server().put(directory / "model", directory.name)
    return read(f"{server().url}/{directory.name}").tensors["m.weight"]


# By class: writes a checkpoint and gives a tensor of SHAPE.
SAMPLES: dict[type[Tensor], Callable[[Path], Tensor]] = {
    Stored: stored_sample, LowRank: low_rank_sample, Sum: sum_sample, Factor: factor_sample,
    Rows: rows_sample, Mean: mean_sample, MeanRow: mean_row_sample,
    Part: part_sample, Joined: joined_sample, StoredRemotely: remote_sample,
}  # fmt: skip


@pytest.fixture(scope="module", params=[(kind, mapped) for kind in SAMPLES for mapped in (True, False)])
def tensor(request, tmp_path_factory) -> Iterator[Tensor]:
    """Of each class, where mappings can be trusted and where they cannot."""
    kind, mapped = request.param
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(linux, "maps_safely", lambda path: mapped)
        found = SAMPLES[kind](tmp_path_factory.mktemp(kind.__name__))
        assert type(found) is kind
        assert found.shape == SHAPE
        yield found


@pytest.fixture
def whole(tensor):
    return tensor.open().tile(0, ELEMENTS).copy()


def test_every_class_has_a_sample():
    here = {kind for kind in codec._tagged.values() if issubclass(kind, Tensor) and "tensors." in kind.__module__}
    assert here == set(SAMPLES)


def test_every_format_reads_into_these(tmp_path):
    assert set(formats()) == {"safetensors", "adapter"}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, ELEMENTS), max_size=12))
def test_any_tiling_reads_the_same(tensor, whole, cuts):
    edges = [0, *sorted(cuts), ELEMENTS]
    source = tensor.open()
    tiles = [source.tile(start, stop) for start, stop in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(tiles), whole)


def test_a_tile_is_one_dimensional_read_only_and_of_the_storage_dtype(tensor):
    tile = tensor.open().tile(3, 1000)
    assert tile.shape == (997,)
    assert tile.dtype == tensor.dtype.storage
    assert not tile.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        tile.flags.writeable = True


def test_an_empty_tile(tensor):
    tile = tensor.open().tile(7, 7)
    assert tile.shape == (0,)
    assert tile.dtype == tensor.dtype.storage
    assert not tile.flags.writeable


def test_released_and_taken_again_it_reads_the_same(tensor, whole):
    source = tensor.open()
    for _ in range(3):
        np.testing.assert_array_equal(source.tile(1000, 9000), whole[1000:9000])
        source.release(1000, 9000)


def test_a_tile_still_in_use_survives_the_release_of_its_neighbours(tensor, whole):
    source = tensor.open()
    tile = source.tile(1000, 2000)
    source.release(0, 1000)
    source.release(2000, ELEMENTS)
    source.release(1500, 1500)
    np.testing.assert_array_equal(tile, whole[1000:2000])


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, ELEMENTS + 1), (ELEMENTS + 1, ELEMENTS + 1)])
def test_elements_out_of_range_are_refused(tensor, start, stop):
    with pytest.raises(IndexError):
        tensor.open().tile(start, stop)


def test_tensor_and_source_pickle(tensor, whole):
    source = tensor.open()
    source.tile(0, 10)
    assert pickle.loads(pickle.dumps(tensor)) == tensor
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).tile(0, ELEMENTS), whole)


def test_it_survives_json(tensor, whole):
    again = codec.decode(Tensor, json.loads(json.dumps(codec.encode(tensor))))
    assert again == tensor
    assert again.fingerprint() == tensor.fingerprint()
    np.testing.assert_array_equal(again.open().tile(5, 999), whole[5:999])


def test_it_names_the_files_that_it_is_made_of(tensor):
    files = {leaf.file for leaf in tensor.leaves()}
    assert files
    assert all(file in tensor.where for file in files)
    assert all(isinstance(leaf, Stored) for leaf in tensor.leaves())


def test_what_it_costs(tensor):
    cost = tensor.cost
    assert cost.held >= tensor.dtype.itemsize
    assert 0 <= cost.read <= cost.held


def test_fingerprints_differ_where_tensors_do(tmp_path):
    prints = set()
    for number, make in enumerate(SAMPLES.values()):
        (tmp_path / str(number)).mkdir()
        prints.add(make(tmp_path / str(number)).fingerprint())
    one = Stored("a", next(iter(prints)) and stored_sample(tmp_path).dtype, (3, 5), "/x", 8)
    others = [Stored("a", one.dtype, (5, 3), "/x", 8), Stored("b", one.dtype, (3, 5), "/x", 8),
              Stored("a", one.dtype, (3, 5), "/y", 8), Stored("a", one.dtype, (3, 5), "/x", 9)]  # fmt: skip
    prints |= {each.fingerprint() for each in (one, *others)}
    assert len(prints) == len(SAMPLES) + 5
    assert one.fingerprint() == Stored("a", one.dtype, (3, 5), "/x", 8).fingerprint()


def test_a_computed_tensor_that_is_called_like_a_shard_is_computed(tmp_path):
    """Nobody looks at a file's name to find out how a tensor is read."""
    rng = np.random.default_rng(1)
    write_adapter(tmp_path / "model.safetensors", factors(rng, "model.safetensors", (4, 6), rank=2), r=2)
    (delta,) = read(str(tmp_path / "model.safetensors")).tensors.values()
    (a, b) = (leaf.open().tile(0, leaf.elements).view(np.float32).reshape(leaf.shape)
              for leaf in sorted(delta.leaves(), key=lambda leaf: leaf.name))  # fmt: skip
    expected = (4.0 * (b.astype(np.float64) @ a.astype(np.float64))).astype(np.float32)  # lora_alpha 8 by r 2
    np.testing.assert_allclose(delta.open().tile(0, 24).view(np.float32).reshape(4, 6), expected, rtol=1e-6)
