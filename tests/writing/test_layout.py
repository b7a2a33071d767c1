import itertools
import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmw.errors import PlanError
from sdmw.tensors.dtype import DType
from sdmw.writing import layout
from sdmw.writing.layout import index_bytes, lay_out

dtypes = st.sampled_from([dtype for dtype in DType if dtype.merges or dtype.copies])
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=0, max_size=12).filter("__metadata__".__ne__)
shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
wanted_tensors = st.lists(st.tuples(names, dtypes, shapes), min_size=1, max_size=25, unique_by=lambda t: t[0])


@given(wanted=wanted_tensors, size=st.integers(1, 6000))
def test_shards_are_what_the_format_and_its_readers_ask_for(wanted, size):
    layouts = lay_out(wanted, size)

    assert sorted((t.name, t.dtype, t.shape) for s in layouts for t in s.tensors) == sorted(wanted)
    for shard in layouts:
        (length,) = struct.unpack("<Q", shard.header[:8])
        assert len(shard.header) == 8 + length
        assert len(shard.header) % layout.DATA_ALIGNMENT == 0
        header = json.loads(shard.header[8:])
        assert header.pop("__metadata__") == {"format": "pt"}
        assert list(header) == [t.name for t in shard.tensors]
        at = len(shard.header)
        for tensor in shard.tensors:  # no hole, no overlap, aligned
            assert layouts[tensor.shard] is shard
            assert tensor.offset == at
            assert tensor.offset % tensor.dtype.itemsize == 0
            told = header[tensor.name]
            assert (told["dtype"], tuple(told["shape"])) == (tensor.dtype.name, tensor.shape)
            start, stop = told["data_offsets"]
            assert (start, stop) == (at - len(shard.header), at - len(shard.header) + tensor.nbytes)
            at += tensor.nbytes
        assert at == shard.size
        assert sum(t.nbytes for t in shard.tensors) <= size or len([t for t in shard.tensors if t.nbytes]) == 1
        order = [(-t.dtype.bits, t.name) for t in shard.tensors]
        assert order == sorted(order)


@given(wanted=wanted_tensors, size=st.integers(1, 6000))
def test_shards_fill_in_order_and_close_only_when_the_next_tensor_would_not_fit(wanted, size):
    position = {name: i for i, (name, _, _) in enumerate(wanted)}
    shards = [sorted(shard.tensors, key=lambda t: position[t.name]) for shard in lay_out(wanted, size)]

    assert [t.name for tensors in shards for t in tensors] == [name for name, _, _ in wanted]
    for before, after in itertools.pairwise(shards):
        assert sum(t.nbytes for t in before) + after[0].nbytes > size


@given(wanted=wanted_tensors, size=st.integers(1, 6000))
def test_the_index_is_the_union_of_the_shards(wanted, size):
    layouts = lay_out(wanted, size)
    text = index_bytes(layouts)
    index = json.loads(text)

    assert text.endswith(b"}\n")
    assert index["weight_map"] == {t.name: s.name for s in layouts for t in s.tensors}
    assert list(index["weight_map"]) == sorted(index["weight_map"])
    assert index["metadata"]["total_parameters"] == sum(math.prod(shape) for _, _, shape in wanted)
    assert index["metadata"]["total_size"] == sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in wanted)


def test_names_of_one_shard_and_of_more():
    wanted = [(name, DType.BF16, (4,)) for name in "abc"]
    assert [s.name for s in lay_out(wanted, 24)] == ["model.safetensors"]
    assert [s.name for s in lay_out(wanted, 23)] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_a_tensor_larger_than_the_size_has_its_own_shard():
    wanted = [("a", DType.F32, (1,)), ("big", DType.F32, (100,)), ("z", DType.F32, (1,))]
    assert [[t.name for t in s.tensors] for s in lay_out(wanted, 8)] == [["a"], ["big"], ["z"]]


def test_an_index_as_transformers_writes_it():
    layouts = lay_out([("b", DType.F32, (2,)), ("a", DType.BF16, ())], 8)
    assert (
        index_bytes(layouts).decode()
        == """{
  "metadata": {
    "total_parameters": 3,
    "total_size": 10
  },
  "weight_map": {
    "a": "model-00002-of-00002.safetensors",
    "b": "model-00001-of-00002.safetensors"
  }
}
"""
    )


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ([], "at least one tensor"),
        ([("a", DType.F32, ()), ("a", DType.F32, ())], "one tensor of this name, found 2"),
        ([("__metadata__", DType.F32, ())], "reserved"),
        ([("\ud800", DType.F32, ())], "surrogate"),
    ],
)
def test_what_no_file_can_hold_is_refused(wanted, said):
    with pytest.raises(PlanError, match=said):
        lay_out(wanted, 100)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(PlanError) as told:
        lay_out([("__metadata__", DType.F32, ()), ("a", DType.F32, ()), ("a", DType.F32, ())], 100)
    assert len(told.value.problems) == 2


def test_a_header_beyond_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(layout, "LONGEST_HEADER", 8000)
    wanted = [(f"tensor {i:04d}", DType.F32, (1,)) for i in range(100)]
    with pytest.raises(PlanError, match=r"8,000 bytes, found 8,184 for 100 tensors\. A smaller max_shard_size"):
        lay_out(wanted, 10**9)
    assert len(lay_out(wanted, 200)) == 2
