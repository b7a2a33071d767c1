"""Products of stored, transposed, stacked and mixed matrices, by blocks of any size, and what is kept of them."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from reference import low_rank as reference
from reference.rounding import STORED
from sdmw.checkpoints.formats.safetensors.header import read_header
from sdmw.storage.access import LEAST
from sdmw.tensors import matrices
from sdmw.tensors.matrices import Kept, Product, Stacked, StoredMatrix, Transposed, kept_bytes
from sdmw.tensors.stored import Stored

SIZES = st.integers(1, 40)
DTYPES = st.sampled_from(["F32", "F16", "BF16"])


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """Puts an array into a file, rounded to a dtype, and gives it as a matrix with its values."""
    folder = tmp_path_factory.mktemp("matrices")

    def made(array, dtype, *, transposed=False):
        values = array.astype(STORED[dtype])
        name = f"{len(list(folder.iterdir()))}.safetensors"
        save_file({"m": np.ascontiguousarray(values.T) if transposed else values}, folder / name)
        (tensor,) = read_header(str(folder), name, LEAST).tensors
        assert isinstance(tensor, Stored)
        found = StoredMatrix(tensor)
        return (Transposed(found) if transposed else found), values.astype(np.float32)

    return made


@dataclass(frozen=True)
class Doubles:
    """A matrix of float64, as those that mix adapters are."""

    values: tuple[tuple[float, ...], ...]

    @property
    def shape(self):
        return len(self.values), len(self.values[0])

    def block(self, rows, columns):
        return np.ascontiguousarray(np.array(self.values)[slice(*rows), slice(*columns)])

    def leaves(self):
        return iter(())

    working_bytes = 0


def spans(data, size):
    first = data.draw(st.integers(0, size - 1))
    return first, data.draw(st.integers(first + 1, size))


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), rows=SIZES, rank=st.integers(1, 9), columns=SIZES, dtypes=st.tuples(DTYPES, DTYPES),
    transposed=st.booleans(), largest=st.sampled_from([1, 30, 10**6]),
)  # fmt: skip
def test_any_part_in_blocks_of_any_size(on_disk, data, rows, rank, columns, dtypes, transposed, largest):
    rng = np.random.default_rng(rows + columns)
    left, left_values = on_disk(rng.standard_normal((rows, rank)), dtypes[0], transposed=transposed)
    right, right_values = on_disk(rng.standard_normal((rank, columns)), dtypes[1], transposed=transposed)
    expected = reference.product(left_values, right_values, 0.3)
    high, wide = spans(data, rows), spans(data, columns)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(matrices, "LARGEST_BLOCK", largest)
        product = Product(left, right, 0.3)
        for found in (product.block(high, wide), product.tile(high, wide), product.kept().tile(high, wide)):
            np.testing.assert_array_equal(found.view("u4"), expected[slice(*high), slice(*wide)].view("u4"))


def test_stacked_matrices_are_float32_and_mixed_ones_multiplied_in_float64(on_disk):
    rng = np.random.default_rng(4)
    (one, a), (other, b) = (on_disk(rng.standard_normal((3, 20)), dtype) for dtype in ("F32", "BF16"))
    stacked, mix = Stacked((one, other)), rng.standard_normal((5, 6))
    assert stacked.block((0, 6), (0, 20)).dtype == np.float32
    expected = reference.product(mix, np.concatenate([a, b]), 1.0)
    product = Product(Doubles(tuple(map(tuple, mix.tolist()))), stacked, 1.0)
    np.testing.assert_array_equal(product.tile((0, 5), (0, 20)).view("u4"), expected.view("u4"))
    again = Product(Doubles(tuple(map(tuple, mix[:, :5].tolist()))), product, 1.0)  # of what was computed
    expected = reference.product(mix[:, :5], expected, 1.0)
    np.testing.assert_array_equal(again.kept().tile((0, 5), (0, 20)).view("u4"), expected.view("u4"))


def test_a_small_matrix_is_read_once_and_a_large_one_block_by_block(on_disk, monkeypatch):
    matrix, values = on_disk(np.arange(12.0).reshape(3, 4), "F32")
    read, plain = [], StoredMatrix.block
    monkeypatch.setattr(StoredMatrix, "block", lambda *given: read.append(given[1:]) or plain(*given))
    for largest, expected in ((12, [((0, 3), (0, 4))]), (11, [((1, 2), (0, 4)), ((0, 3), (1, 2))])):
        monkeypatch.setattr(matrices, "LARGEST_BLOCK", largest)
        kept = Kept(matrix)
        np.testing.assert_array_equal(kept.block((1, 2), (0, 4)), values[1:2])
        found = kept.block((0, 3), (1, 2))
        np.testing.assert_array_equal(found, values[:, 1:2])
        assert found.flags.c_contiguous
        assert read == expected
        assert bool(kept_bytes(matrix)) == (largest == 12)
        read.clear()
