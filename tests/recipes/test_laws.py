"""What holds for every recipe, good or hostile."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from recipes.grammars import METHODS
from sdmw.errors import RecipeError
from sdmw.recipes import yaml
from sdmw.recipes.findings import Findings
from sdmw.recipes.load import load
from sdmw.recipes.recipe import Recipe

FIELDS = ["merge_method", "models", "base_model", "parameters", "dtype", "out_dtype", "nonfinite", "slices", "sources",
          "modules", "model", "layer_range", "exclude",
          "k", "weight", "lambda", "normalization", "power", "granularity", "filter", "value", "lora", "path", "<<",
          "int8_mask", "revision"]  # fmt: skip
WORDS = [*METHODS, "ties", "float32", "bfloat16", "linear", "square", "tensor", "error", "pass", "a", "b@c", "d+e", "*"]
KEYS = st.sampled_from(FIELDS) | st.text(max_size=5)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=8)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5))
YAML_PIECES = st.sampled_from(
    [*FIELDS, *WORDS, ": ", ":", "- ", "\n", "\n  ", "[", "]", "{", "}", ", ", "&a ", "*a", "? ", "!!int ",
     "!x ", "|\n", ">", "'", '"', "#", " #", "%", "---", "...", "\t", ".nan", "\u2028", "\x85", "~", "@"]
)  # fmt: skip

# The machine may be busy; tmp_path is overwritten by each example.
lawful = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def mappings(keys: Any, values: Any) -> Any:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(keys, values))


ANY_MODEL = st.fixed_dictionaries({"model": st.text(max_size=3) | TREES}, optional={"parameters": TREES})
ANY_SOURCE = st.fixed_dictionaries(
    {"model": st.text(max_size=3) | TREES},
    optional={"parameters": TREES, "layer_range": st.lists(st.integers(-2, 9), min_size=2, max_size=2) | TREES},
)
ANY_SLICE = st.fixed_dictionaries(
    {"sources": st.lists(ANY_SOURCE, max_size=3) | TREES}, optional={"base_model": TREES, "parameters": TREES}
)
ANY_FORM = st.one_of(
    st.fixed_dictionaries({"models": st.lists(ANY_MODEL, max_size=3) | TREES}),
    st.fixed_dictionaries({"slices": st.lists(ANY_SLICE, max_size=3) | TREES}),
)
ANY_RECIPE = st.builds(dict.__or__, ANY_FORM | st.fixed_dictionaries(
    {"modules": st.dictionaries(st.text(max_size=3), ANY_FORM, max_size=2) | TREES}
), st.fixed_dictionaries(
    {"merge_method": st.sampled_from([*METHODS, "ties"]) | LEAVES},
    optional={
        "base_model": st.text(max_size=3) | TREES,
        "parameters": mappings(["k", "lambda", "normalization"], TREES),
        "dtype": LEAVES,
        "zzz": TREES,
    },
))  # fmt: skip


def refuses_or_loads(source: Any, ignore_unknown: bool = False) -> Recipe | None:
    try:
        return load(source, METHODS, ignore_unknown=ignore_unknown)
    except RecipeError as error:
        problems = error.problems
    assert 1 <= len(problems) <= 51
    assert all(map(str, problems))
    return None


@lawful
@given(TREES.filter(lambda tree: isinstance(tree, dict)) | ANY_RECIPE, st.booleans())
def test_no_mapping_raises_anything_else(tree, ignore_unknown):
    recipe = refuses_or_loads(tree, ignore_unknown)
    if recipe:
        assert load(recipe, METHODS) == recipe


@lawful
@given(data=st.binary(max_size=200) | st.lists(YAML_PIECES, max_size=30).map(lambda parts: "".join(parts).encode()))
@example(data=b"&a a: {<<: *a}")
@example(data=b"? - : -")
def test_no_file_raises_anything_else(tmp_path: Path, data):
    path = tmp_path / "r.yaml"
    path.write_bytes(data)
    refuses_or_loads(path)


NAMES = st.text(st.characters(exclude_characters="\0+", exclude_categories=["Cs"]), min_size=1, max_size=12)
MODEL_NAMES = NAMES.filter(lambda name: name.partition("@")[1:] != ("@", ""))  # a revision is not empty
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-5, 5)


def varying(numbers: Any) -> Any:
    value = numbers | st.lists(numbers, min_size=1, max_size=3)
    rule = st.fixed_dictionaries({"value": value}, optional={"filter": st.none() | NAMES})
    return value | rule | st.lists(rule, min_size=1, max_size=3)


PERCENT = st.floats(0, 100) | st.integers(0, 100)
LAW = st.fixed_dictionaries(
    {"power": st.floats(-1e3, 1e3)}, optional={"norm": st.sampled_from([1, 2]), "scope": st.just("model")}
)
CHOICE = st.sampled_from(["linear", "square"]) | LAW
SCALE = st.just("preserve_norm") | st.fixed_dictionaries({"preserve_norm": st.sampled_from(["model", "layer"])})
GOOD = st.builds(
    lambda names, given, top, fields: {
        "merge_method": "sdm_w",
        "base_model": "the base",
        "models": [{"model": f"{i}{name}", "parameters": given[i]} for i, name in enumerate(names)],
        "parameters": top,
        **fields,
    },
    st.lists(MODEL_NAMES, min_size=1, max_size=3),
    st.lists(mappings(["k"], varying(PERCENT)), min_size=3, max_size=3),
    st.fixed_dictionaries(
        {}, optional={"k": varying(PERCENT), "weight": varying(FLOAT32), "lambda": varying(FLOAT32) | SCALE,
                      "normalization": CHOICE, "percentile": st.sampled_from(["exact", "approximate"])}
    ),
    st.fixed_dictionaries(
        {}, optional={"dtype": st.sampled_from(["float32", "bfloat16"]), "extra": st.sampled_from(["error", "take"])}
    ),
)  # fmt: skip


def simplest(value: Any) -> Any:
    """A number is a rule for all, and so on: what the loader should make of a setting."""
    if isinstance(value, str) or (
        isinstance(value, Mapping) and not value.keys().isdisjoint(("power", "preserve_norm"))
    ):
        return value
    items = [value] if isinstance(value, Mapping) else value
    rules = items if isinstance(items, list) and isinstance(items[0], Mapping) else [{"value": value}]
    return [(r.get("filter"), tuple(map(float, v)) if isinstance(v := r["value"], list) else float(v)) for r in rules]


@lawful
@given(GOOD)
def test_what_is_good_comes_out_as_it_went_in_and_its_text_says_the_same(recipe):
    once = load(recipe, METHODS)
    levels = [(once.parameters, recipe["parameters"])]
    levels += [
        (entry.parameters, said["parameters"]) for entry, said in zip(once.models, recipe["models"], strict=True)
    ]
    for settings_, said in levels:
        plain = {n: [(r.filter, r.value) for r in s] if isinstance(s, tuple) else s for n, s in settings_.items()}
        assert plain == {name: simplest(value) for name, value in said.items()}
    assert load(once, METHODS) == once
    again = load(yaml.tree(once.text, Findings()), METHODS)
    assert replace(again, text="") == replace(once, text="")


ENCODABLE = st.text(st.characters(exclude_categories=["Cs"]))
WRITABLE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | ENCODABLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ENCODABLE, inner, max_size=3),
)


@lawful
@given(WRITABLE)
@example(
    [
        "\x85",
        "1\x85x",
        "\u2028 x",
        "\ufeff",
        "a\nb",
        "a\r\nb",
        " x",
        "x ",
        "a: b",
        "# x",
        "",
        "- x",
        "é",
        "🙂",
        "\x00",
        "\x7f",
    ]
)
@example({"\x85x": 1, "": 2, " ": 3, "a: b": 4, "<<": 5, "null": 6, "1": 7, "?": 8, "\n": 9})
@example(
    ["null", "true", "1e-5", "10", "0x10", "1_0", ".inf", "=", "<<", "~", "2001-01-01", "!x", "&a", "*a", "%", "@", "`"]
)
def test_what_is_written_reads_back(tree):
    assert same(yaml.tree(yaml.written({"a": tree}), Findings()), {"a": tree})


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return type(left) is type(right) and left == right
