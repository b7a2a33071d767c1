"""What every source of every input format must do. A format brings its example in SAMPLES; one without fails here."""

import pickle
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from adapters_on_disk import factors, write_adapter
from sdmw import linux
from sdmw.checkpoints.formats import formats, open_tensor
from sdmw.tensors.tensor import TensorInfo

SHAPE = (13, 1021)  # primes: no tiling falls on rows or pages
ELEMENTS = SHAPE[0] * SHAPE[1]


def safetensors_sample(directory: Path) -> None:
    weights = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    save_file({"first": weights[:1], "weights": weights}, directory / "model.safetensors")
    (directory / "config.json").write_text("{}")


def adapter_sample(directory: Path) -> None:
    rng = np.random.default_rng(0)
    write_adapter(directory / "adapter", factors(rng, "m", SHAPE, rank=5, dtype="BF16"), r=5)
    for path in (directory / "adapter").iterdir():
        path.rename(directory / path.name)
    (directory / "adapter").rmdir()


# By format: writes a checkpoint of which a tensor, the last by name, has SHAPE.
SAMPLES: dict[str, Callable[[Path], None]] = {"safetensors": safetensors_sample, "adapter": adapter_sample}


@pytest.fixture(scope="module", params=[(form, mapped) for form in sorted(formats()) for mapped in (True, False)])
def info(request, tmp_path_factory) -> Iterator[TensorInfo]:
    """Of each format, where mappings can be trusted and where they cannot."""
    name, mapped = request.param
    directory = tmp_path_factory.mktemp(name)
    SAMPLES[name](directory)
    form = formats()[name]
    assert form.recognises(str(directory))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(linux, "maps_safely", lambda path: mapped)
        tensors = form.read(str(directory), header_limit=2**20).tensors
        yield tensors[max(tensors)]


@pytest.fixture
def whole(info):
    return open_tensor(info).tile(0, ELEMENTS).copy()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, ELEMENTS), max_size=12))
def test_any_tiling_reads_the_same(info, whole, cuts):
    edges = [0, *sorted(cuts), ELEMENTS]
    source = open_tensor(info)
    tiles = [source.tile(start, stop) for start, stop in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(tiles), whole)


def test_a_tile_is_one_dimensional_read_only_and_of_the_storage_dtype(info):
    tile = open_tensor(info).tile(3, 1000)
    assert tile.shape == (997,)
    assert tile.dtype == info.dtype.storage
    assert not tile.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        tile.flags.writeable = True


def test_an_empty_tile(info):
    tile = open_tensor(info).tile(7, 7)
    assert tile.shape == (0,)
    assert tile.dtype == info.dtype.storage
    assert not tile.flags.writeable


def test_released_and_taken_again_it_reads_the_same(info, whole):
    source = open_tensor(info)
    for _ in range(3):
        np.testing.assert_array_equal(source.tile(1000, 9000), whole[1000:9000])
        source.release(1000, 9000)


def test_a_tile_still_in_use_survives_the_release_of_its_neighbours(info, whole):
    source = open_tensor(info)
    tile = source.tile(1000, 2000)
    source.release(0, 1000)
    source.release(2000, ELEMENTS)
    source.release(1500, 1500)
    np.testing.assert_array_equal(tile, whole[1000:2000])


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, ELEMENTS + 1), (ELEMENTS + 1, ELEMENTS + 1)])
def test_elements_out_of_range_are_refused(info, start, stop):
    with pytest.raises(IndexError):
        open_tensor(info).tile(start, stop)


def test_info_and_source_pickle(info, whole):
    source = open_tensor(info)
    source.tile(0, 10)
    assert pickle.loads(pickle.dumps(info)) == info
    again = pickle.loads(pickle.dumps(source))
    assert again.info == info
    np.testing.assert_array_equal(again.tile(0, ELEMENTS), whole)


def test_the_source_tells_its_tensor(info):
    assert open_tensor(info).info == info
