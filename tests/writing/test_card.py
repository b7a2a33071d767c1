import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmw.writing.card import Card
from sdmw.writing.licences import Licence

PLAIN = {
    "method": "task_arithmetic",
    "paper": "arXiv:2212.04089, section 2",
    "base_model": "./base",
    "models": [("./base", []), ("org/tune", ["weight 0.25", "kept 90 % of its nonzero deltas"])],
    "hub_ids": ["org/base", "org/tune"],
    "revisions": [("org/tune", "00ff")],
    "licences": [("org/base", Licence("apache-2.0")), ("org/tune", Licence("apache-2.0"))],
    "pipeline_tag": "text-generation",
    "languages": ["en", "no"],
    "datasets": ["org/texts"],
    "not_merged": ["missing: 2 tensors in `org/tune`: the base's are used"],
    "loading": "model = load()",
    "recipe_text": "merge_method: task_arithmetic\n",
    "version": "0.1.0",
}
BARE = PLAIN | {
    "paper": None, "hub_ids": [], "revisions": [], "licences": [("a", None)], "pipeline_tag": None, "languages": [],
    "datasets": [], "base_model": None, "not_merged": [],
}  # fmt: skip

EXPECTED = """---
base_model:
- "org/base"
- "org/tune"
base_model_relation: merge
library_name: transformers
tags:
- merge
- sdmw
- task_arithmetic
- arxiv:2212.04089
license: "apache-2.0"
pipeline_tag: "text-generation"
language:
- "en"
- "no"
datasets:
- "org/texts"
---

# Merge of `./base` and `org/tune` (`task_arithmetic`)

Merged with sdmw `0.1.0`.

- Method: `task_arithmetic`
- Paper: [arXiv:2212.04089](https://arxiv.org/abs/2212.04089), section 2
- Base: `./base`

## Models

- `./base`
- `org/tune`, weight 0.25, kept 90 % of its nonzero deltas

## What is not merged

- missing: 2 tensors in `org/tune`: the base's are used

## Revisions on the Hub

- `org/tune`: commit `00ff`

## Loading

```python
model = load()
```

## Recipe

```yaml
merge_method: task_arithmetic
```
"""


def model_card(**fields):
    return Card(**fields).markdown()


hostile = st.one_of(
    st.text(max_size=30),
    st.text("`-|<>*_[]()!#\\\n\r\t \u2028\x85\x1b: '\"{}&%@", max_size=30),
    st.sampled_from(
        ["no", "on", "1e1", "0x1F", "12:30:45", "~", "---", "```", "- no\n", "\udc80", "</script>", "x" * 300]
    ),
)


def front_matter(card):
    lines = card.split("\n")
    assert lines[0] == "---"
    return yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)]))


def test_a_card():
    assert model_card(**PLAIN) == EXPECTED


def test_what_nobody_says_is_left_out():
    card = model_card(**BARE)
    found = front_matter(card)
    assert found == {
        "base_model_relation": "merge", "library_name": "transformers", "tags": ["merge", "sdmw", "task_arithmetic"]
    }  # fmt: skip
    sections = [line for line in card.splitlines() if line.startswith("## ")]
    assert sections == ["## Models", "## Licences", "## Loading", "## Recipe"]


def test_an_adapter_s():
    card = model_card(**BARE | {"method": "extract, rank 8", "adapter": True, "recipe_text": None})
    assert front_matter(card) == {
        "base_model_relation": "adapter", "library_name": "peft", "tags": ["lora", "sdmw"]
    }  # fmt: skip
    assert "# Adapter of `./base` and `org/tune` (`extract, rank 8`)" in card


@pytest.mark.parametrize(
    ("count", "named"),
    [(1, "`m0`"), (2, "`m0` and `m1`"), (3, "`m0`, `m1` and `m2`"), (9, "`m0`, `m1`, `m2` and 6 more")],
)
def test_the_title_names_a_few_models(count, named):
    card = model_card(**PLAIN | {"models": [(f"m{n}", []) for n in range(count)]})
    assert f"# Merge of {named} (`task_arithmetic`)\n" in card


MIT, LLAMA = Licence("mit"), Licence("other", "llama3.2", "LICENSE")


@pytest.mark.parametrize(
    ("licences", "front", "body"),
    [
        ([MIT, MIT], {"license": "mit"}, None),
        ([LLAMA, LLAMA], {"license": "other", "license_name": "llama3.2", "license_link": "LICENSE"}, None),
        ([MIT, LLAMA], {"license": "other"}, ["- `0`: `mit`", "- `1`: `llama3.2`"]),
        ([MIT, Licence("other")], {"license": "other"}, ["- `0`: `mit`", "- `1`: `other`"]),
        ([MIT, LLAMA, None], {"license": "other"},
         ["- `0`: `mit`", "- `1`: `llama3.2`", "- `2`: not named in its card"]),
        ([MIT, None], {}, ["- `0`: `mit`", "- `1`: not named in its card"]),
        ([Licence("mit", more=("gpl",))] * 2, {"license": ["mit", "gpl"]}, []),
        ([None, None], {}, ["- None of the inputs names its licence in its card."]),
    ],
)  # fmt: skip
def test_licences(licences, front, body):
    card = model_card(**PLAIN | {"licences": [(str(n), licence) for n, licence in enumerate(licences)]})
    assert {key: value for key, value in front_matter(card).items() if key.startswith("license")} == front
    section = card.partition("## Licences\n\n")[2].partition("\n\n")[0].splitlines()
    assert section == (body or [])


@settings(deadline=None)
@given(ids=st.lists(hostile, min_size=1, max_size=3), licence=hostile, name=hostile, recipe=hostile)
def test_hostile_names_stay_names(ids, licence, name, recipe):
    hostile_card = PLAIN | {
        "hub_ids": ids, "licences": [(name, Licence(licence)), (name, Licence(licence))], "revisions": [(name, name)],
        "models": [(name, ["weight 1"])], "method": name, "base_model": name, "recipe_text": recipe,
        "languages": ids, "datasets": ids, "pipeline_tag": licence, "loading": recipe,
    }  # fmt: skip
    card = model_card(**hostile_card)

    found = front_matter(card)
    if not any("\ud800" <= c <= "\udfff" for text in (*ids, licence) for c in text):  # no YAML reader takes these
        assert found["base_model"] == found["language"] == found["datasets"] == ids
        assert found["license"] == found["pipeline_tag"] == licence
    assert all(c.isprintable() or c in "\n\t" for c in card)
    card.encode()
    # Nothing that came from outside begins a line, code aside.
    body, _, code = card.split("\n---\n", 1)[1].partition("## Loading\n\n")
    assert all(line[:1] in "-#M" for line in body.split("\n"))
    lines = code.split("\n")
    for following in ("## Recipe", ""):
        fence = lines[0][: len(lines[0]) - len(lines[0].lstrip("`"))]
        assert len(fence) >= 3
        end = next(n for n, line in enumerate(lines[1:], 1) if line.startswith(fence))
        assert lines[end + 1 :][: 2 if following else 1] == ["", following][-2 if following else 1 :]
        lines = lines[end + 4 :]
    assert lines == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a", "`a`"), ("a`b``c", "```a`b``c```"), ("`", "`` ` ``"), (" x ", "`  x  `"),
     ("", "`(empty)`"), ("a\nb\t", "`a\\nb\\t`"), ("\x1b[31m", "`\\x1b[31m`"), ("<b>*_", "`<b>*_`")],
)  # fmt: skip
def test_names_are_code_spans(text, shown):
    assert f"- Method: {shown}\n" in model_card(**PLAIN | {"method": text})


def test_the_fence_is_longer_than_any_run_in_the_recipe():
    card = model_card(**PLAIN | {"recipe_text": "a: ````\n```\nend"})
    assert "\n`````yaml\na: ````\n```\nend\n`````\n" in card


@settings(deadline=None)  # the first example pays for the imports
@given(ids=st.lists(hostile, max_size=3), licence=hostile)
def test_hub_and_llama_cpp_read_the_front_matter(tmp_path_factory, ids, licence):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    metadata = pytest.importorskip("gguf.metadata")
    if any("\ud800" <= c <= "\udfff" for text in (*ids, licence) for c in text):
        return
    card = model_card(**PLAIN | {"hub_ids": ids, "licences": [("a", Licence(licence))]})
    folder = tmp_path_factory.mktemp("card")
    (folder / "README.md").write_bytes(card.encode())

    assert huggingface_hub.ModelCard(card).data.to_dict().get("base_model", []) == ids
    loaded = metadata.Metadata.load_model_card(folder)
    assert loaded.get("base_model", []) == ids
    assert loaded["license"] == licence
    assert loaded["base_model_relation"] == "merge"
