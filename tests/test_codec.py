"""The one codec: whatever is encoded comes back, and whatever is not of the type is refused with its place."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmw.codec import TAG, Checksum, Within, decode, digest, encode, tagged
from sdmw.tensors.dtype import DType


class Shape(Protocol):
    @property
    def area(self) -> float: ...


@tagged
@dataclass(frozen=True)
class Square:
    side: float

    @property
    def area(self) -> float:
        return self.side**2


@tagged
@dataclass(frozen=True)
class Group:
    shapes: tuple[Shape, ...]

    @property
    def area(self) -> float:
        return sum(shape.area for shape in self.shapes)


@dataclass(frozen=True)
class Everything:
    number: float
    count: int
    flag: bool
    text: str
    pair: tuple[int, str]
    many: tuple[float, ...]
    maybe: int | None
    word: Literal["a", "b"]
    dtype: DType
    table: Mapping[str, int]
    shape: Shape
    anything: object
    percent: Annotated[float, Within(0, 100)] | None
    checksum: Checksum


shapes = st.recursive(
    st.builds(Square, st.floats(allow_nan=False)),
    lambda inner: st.builds(Group, st.lists(inner, max_size=3).map(tuple)),
)
values = st.builds(
    Everything,
    number=st.floats(allow_nan=False),
    count=st.integers(-(2**300), 2**300),
    flag=st.booleans(),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    pair=st.tuples(st.integers(), st.text(st.characters(exclude_categories=["Cs"]))),
    many=st.lists(st.floats(allow_nan=False)).map(tuple),
    maybe=st.none() | st.integers(),
    word=st.sampled_from(["a", "b"]),
    dtype=st.sampled_from(list(DType)),
    table=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers()),
    shape=shapes,
    anything=st.none() | st.booleans() | shapes | st.lists(shapes).map(tuple),
    percent=st.none() | st.floats(0, 100),
    checksum=st.from_regex("[0-9a-f]{32}", fullmatch=True),
)


@given(value=values)
def test_what_is_encoded_comes_back(value):
    again = decode(Everything, json.loads(json.dumps(encode(value))))
    assert again == value
    assert repr(again.number) == repr(value.number)  # -0.0, subnormals
    assert digest(again) == digest(value)


@pytest.mark.parametrize(
    ("field", "wrong", "said"),
    [
        ("number", "x", "number: expected a number, found 'x'"),
        ("number", True, "number: expected a number, found True"),
        ("count", 1.5, "count: expected a whole number, found 1.5"),
        ("flag", 1, "flag: expected true or false, found 1"),
        ("pair", [1], "pair: expected 2 values, found [1]"),
        ("many", [1, None], "many[1]: expected a number, found None"),
        ("many", {}, "many: expected a list, found {}"),
        ("word", "c", "word: expected one of a, b, found 'c'"),
        ("dtype", "F128", "dtype: expected a DType, found 'F128'"),
        ("table", {"a": "b"}, "table.a: expected a whole number, found 'b'"),
        ("shape", {"side": 1.0}, "shape: expected a Shape"),
        ("shape", {TAG: "Everything"}, "shape: expected a Shape"),
        ("shape", {TAG: "os.system", "side": 1.0}, "shape: expected a Shape"),
        ("shape", {TAG: "Square"}, "shape: expected a field 'side'"),
        ("maybe", "x", "maybe: expected a whole number, found 'x'"),
        ("number", 10**400, "number: expected a number that float64 holds, found 1000"),
        ("number", math.inf, "number: expected a number that float64 holds, found inf"),
        ("dtype", [], "dtype: expected a DType, found []"),
        ("word", {}, "word: expected one of a, b, found {}"),
        ("anything", {TAG: "Square", "side": []}, "anything.side: expected a number, found []"),
        ("percent", 101, "percent: expected a number of at least 0, at most 100, found 101"),
        ("percent", -1, "percent: expected a number of at least 0, at most 100, found -1"),
        ("percent", "nan", "percent: expected a number of at least 0, at most 100, found 'nan'"),
        ("count", [0] * 9999, "count: expected a whole number, found [0, 0, 0, 0, 0, 0, ...]"),
        ("checksum", "0" * 31, "checksum: expected a text like [0-9a-f]{32}, found '000"),
        ("checksum", "0" * 32 + "\n", "checksum: expected a text like [0-9a-f]{32}, found '000"),
    ],
)
def test_what_is_of_another_type_is_refused_by_its_place(field, wrong, said):
    value = Everything(1.0, 2, True, "t", (1, "x"), (), None, "a", DType.F32, {}, Square(1.0), None, 50.0, "0" * 32)
    data = json.loads(json.dumps(encode(value)))
    with pytest.raises(ValueError, match="expected") as caught:
        decode(Everything, data | {field: wrong})
    assert str(caught.value).startswith(said)
    del data[field]
    with pytest.raises(ValueError, match="expected a field"):
        decode(Everything, data)


@pytest.mark.parametrize("deep", [{"type": "Group", "shapes": []}, {}])
def test_what_is_nested_too_deep_is_refused(deep):
    for _ in range(5000):
        deep = {TAG: "Group", "shapes": [deep]} if TAG in deep else [deep]
    with pytest.raises(ValueError, match="nested too deep"):
        decode(object, deep)


def test_an_unknown_tag_of_any_type_names_nothing():
    assert decode(object, {TAG: []}) == {TAG: ()}
    assert decode(object, {TAG: "sdmw.cli.main"}) == {TAG: "sdmw.cli.main"}


def test_a_tag_of_another_class_is_refused():
    for tag in ("Group", 3, None):
        with pytest.raises(ValueError, match="expected a Square, found"):
            decode(Square, {TAG: tag, "side": 1.0})
    assert decode(Square, {"side": 1.0}) == Square(1.0)


def test_what_cannot_be_written_is_refused():
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        encode({"a": [object()]})
