import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmw.writing.card import common_license, license_of, model_card

PLAIN = {
    "method": "sdm_w",
    "base_model": "./base",
    "hub_ids": ["org/base", "org/tune"],
    "license": "apache-2.0",
    "models": [("./base", []), ("org/tune", ["weight 0.25", "kept 90 % of its nonzero deltas"])],
    "recipe_text": "merge_method: sdm_w\n",
    "version": "0.1.0",
    "fingerprints": [("org/tune", "00ff")],
}

EXPECTED = """---
base_model:
- "org/base"
- "org/tune"
base_model_relation: merge
library_name: transformers
tags:
- merge
- sdmw
license: "apache-2.0"
---

# Merged model

Merged with sdmw `0.1.0`.

- Method: `sdm_w`
- Base: `./base`

## Models

- `./base`
- `org/tune`, weight 0.25, kept 90 % of its nonzero deltas

## Recipe

```yaml
merge_method: sdm_w
```

## Fingerprints of the inputs

- `org/tune`: `00ff`
"""

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


def test_without_hub_ids_and_licence_the_front_matter_names_none():
    found = front_matter(model_card(**PLAIN | {"hub_ids": [], "license": None, "base_model": None}))
    assert found == {"base_model_relation": "merge", "library_name": "transformers", "tags": ["merge", "sdmw"]}


@settings(deadline=None)
@given(ids=st.lists(hostile, min_size=1, max_size=3), licence=hostile, name=hostile, recipe=hostile)
def test_hostile_names_stay_names(ids, licence, name, recipe):
    hostile_card = PLAIN | {
        "hub_ids": ids, "license": licence, "models": [(name, ["weight 1"])], "method": name, "base_model": name,
        "recipe_text": recipe, "fingerprints": [(name, name)],
    }  # fmt: skip
    card = model_card(**hostile_card)

    found = front_matter(card)
    if not any("\ud800" <= c <= "\udfff" for text in (*ids, licence) for c in text):  # no YAML reader takes these
        assert (found["base_model"], found["license"]) == (ids, licence)
    assert all(c.isprintable() or c in "\n\t" for c in card)
    card.encode()
    # Nothing that came from outside begins a line, the recipe aside.
    body, _, rest = card.partition("## Recipe\n\n")
    assert all(line[:1] in "-#M" for line in body.split("\n---\n", 1)[1].split("\n"))
    fence = rest[: len(rest) - len(rest.lstrip("`"))]
    lines = rest.split("\n")
    assert len(fence) >= 3
    assert [i for i, line in enumerate(lines) if line.startswith(fence)] == [0, lines.index(fence)]
    assert lines[lines.index(fence) + 2] == "## Fingerprints of the inputs"


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
    card = model_card(**PLAIN | {"hub_ids": ids, "license": licence})
    folder = tmp_path_factory.mktemp("card")
    (folder / "README.md").write_bytes(card.encode())

    assert huggingface_hub.ModelCard(card).data.to_dict().get("base_model", []) == ids
    loaded = metadata.Metadata.load_model_card(folder)
    assert loaded.get("base_model", []) == ids
    assert loaded["license"] == licence
    assert loaded["base_model_relation"] == "merge"


def readme(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\r\nlicense: mit\r\n---\r\nText", "mit"),
        ("\ufeff---\nlicense: mit\n---", "mit"),
        ("\n---\ntags: [license, b]\nlicense: 'llama3'  # c\n---\n", "llama3"),
        ("---\nnested: {license: gpl}\nlist:\n- license: gpl\nlicense: mit\n---\n", "mit"),
        ("---\na: &x 1\nb: *x\n? [license]\n: no\nlicense: mit\n---\n", "mit"),
        ("---\na: license\nb: gpl\n---\n", None),
        ("---\nlicense: [mit, gpl]\n---\n", None),
        ("---\nlicense:\n---\n", None),
        ("---\nlicense: null\n---\n", None),
        ("---\n- license\n- mit\n---\n", None),
        ("---\nlicense\n---\n", None),
        ("---\nlicense: mit\n", None),
        ("license: mit\n", None),
        ("---\n: : [ %\nlicense: mit\n---\n", None),
        ("---\n\x00license: mit\n---\n", None),
        (b"---\nlicense: mit\xff\n---\n", None),
        (b"", None),
        ("---\nlicense: mit\npad: " + "x" * 2**20 + "\n---\n", None),
    ],
)  # fmt: skip
def test_the_licence_of_a_card(tmp_path, text, licence):
    assert license_of(readme(tmp_path, text)) == licence


def test_no_card_no_licence(tmp_path):
    assert license_of(str(tmp_path)) is None
    (tmp_path / "README.md").mkdir()
    assert license_of(str(tmp_path)) is None


def test_a_card_that_is_a_link_out_of_the_folder(tmp_path):
    readme(tmp_path / "other", "---\nlicense: mit\n---\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").symlink_to("../other/README.md")
    assert license_of(str(tmp_path / "model")) is None


@pytest.mark.parametrize(
    "front",
    ["[" * 900_000, "- " * 400_000, "{a: " * 200_000, "? " * 400_000, "a: &a [x]\n" + "b: [*a, *a]\n" * 10_000,
     "x" * 900_000, "'" + "x\n" * 400_000, "license" + " " * 900_000 + ": a"],
    ids=range(8),
)  # fmt: skip
def test_a_hostile_card_is_done_with_soon(tmp_path, front):
    start = time.process_time()
    license_of(readme(tmp_path, f"---\n{front}\n---\n"))
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    ("licences", "common"),
    [(["mit", "mit"], "mit"), (["mit", "gpl"], None), (["mit", None], None), ([None, None], None), ([], None)],
)
def test_a_licence_stands_only_where_all_agree(tmp_path, licences, common):
    folders = [
        readme(tmp_path / str(i), f"---\nlicense: {licence}\n---\n" if licence else "")
        for i, licence in enumerate(licences)
    ]
    assert common_license([(folder, False) for folder in folders]) == common
