"""What a merge's card takes from the inputs' cards, and what it calls the inputs."""

import os

import numpy as np
import pytest
import yaml

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import told
from sdmw.recipes.model_ref import ModelRef
from sdmw.reporting.naming import id_of, public_name, public_names

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    write_checkpoint(tmp_path / "base", base)
    for name in ("corp", "func"):
        write_checkpoint(tmp_path / "tunes" / name, fine_tuned(rng, base))
    write_adapter(tmp_path / "lora", adapter_of(rng, base))
    return tmp_path


def say(folder, text):
    with open(os.path.join(folder, "README.md"), "w") as file:
        file.write(f"---\n{text}\n---\n")


def merged(*models, base="base", out="out", **fields):
    """The front matter of a merge's card, and its body."""
    recipe = {"merge_method": "linear", "base_model": base, "models": [{"model": m} for m in models], **fields}
    sdmw.merge(recipe, out, progress=False)
    with open(f"{out}/README.md") as file:
        _, front, body = file.read().split("---\n", 2)
    return yaml.safe_load(front), body


def section(body, title):
    return body.partition(f"## {title}\n\n")[2].partition("\n\n##")[0].splitlines()


def test_the_base_s_task_and_languages_and_all_data_sets(world):
    say("base", "pipeline_tag: text-generation\nlanguage: [en, no]\ndatasets: [a/one]")
    say("tunes/corp", "pipeline_tag: fill-mask\nlanguage: de\ndatasets:\n- b/two\n- a/one")
    front, _ = merged("tunes/corp", "tunes/func")
    assert (front["pipeline_tag"], front["language"]) == ("text-generation", ["en", "no"])
    assert front["datasets"] == ["a/one", "b/two"]
    assert front["tags"] == ["merge", "sdmw", "linear", "arxiv:2203.05482"]


def test_the_paper_is_linked_and_loading_is_told(world):
    _, body = merged("tunes/corp")
    assert "- Paper: [arXiv:2203.05482](https://arxiv.org/abs/2203.05482) (model soups), section 2\n" in body
    assert section(body, "Loading") == [
        "```python",
        "import transformers",
        "",
        "model = transformers.AutoModelForCausalLM.from_pretrained('path/to/this/folder')",
        "```",
    ]


def test_an_adapter_s_card_tells_how_to_load_it(world):
    write_adapter(world / "other", adapter_of(np.random.default_rng(5), llama_like(np.random.default_rng(8))))
    front, body = merged("lora", "other", merge_method="lora", parameters={"output": "adapter"})
    assert front["library_name"] == "peft"
    assert section(body, "Loading")[1:4] == [
        "import peft", "", "model = peft.PeftModel.from_pretrained(base, 'path/to/this/folder')"
    ]  # fmt: skip


def test_an_extracted_adapter_s_card(world):
    say("base", "license: mit\nlanguage: en")
    say("tunes/corp", "license: gpl")
    sdmw.extract(world / "base", world / "tunes" / "corp", "adapter", rank=2, progress=False)
    card = (world / "adapter" / "README.md").read_text()
    assert str(world) not in card
    assert "# Adapter of `corp` (`extract, rank 2`)" in card
    assert section(card, "Licences") == ["- `base`: `mit`", "- `corp`: `gpl`"]
    assert 'license: "other"\n' in card
    assert "peft.PeftModel" in card


def test_models_that_are_given_by_relative_paths_leave_no_path_of_the_machine(world):
    merged("tunes/corp", "base+lora", base="base", missing="base")
    for name in ("README.md", "sdmw_report.json", "sdmw_recipe.yaml"):
        assert str(world) not in (world / "out" / name).read_text(), name
    assert [model.name for model in sdmw.Report.load("out").models] == ["tunes/corp", "base+lora"]


def test_of_absolute_paths_the_card_has_the_last_part_and_the_recipe_what_was_written(world):
    _, body = merged(f"{world}/tunes/corp", f"{world}/base+{world}/lora", base=f"{world}/base")
    text, _, recipe = body.partition("## Recipe")
    assert str(world) not in text
    assert "# Merge of `corp` and `base+lora` (`linear`)" in text
    assert "- Base: `base`\n" in text
    assert f"{world}/tunes/corp" in recipe
    assert sdmw.Report.load("out").models[0].name == f"{world}/tunes/corp"
    assert sdmw.verify("out", progress=False).problems == ()


def test_only_snapshots_of_the_hub_have_revisions(world):
    snapshot = world / "hub" / "models--acme--corp-1b" / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    (world / "tunes" / "corp").rename(snapshot)
    front, body = merged(str(snapshot), "tunes/func")
    assert section(body, "Revisions on the Hub") == [f"- `acme/corp-1b`: commit `{COMMIT}`"]
    assert front["base_model"] == ["acme/corp-1b"]
    assert "# Merge of `acme/corp-1b` and `tunes/func` (`linear`)" in body
    assert "ingerprint" not in body
    _, body = merged("tunes/func", out="other")
    assert section(body, "Revisions on the Hub") == []


def test_the_report_has_size_header_and_sample_of_every_file(world):
    merged("tunes/corp", "tunes/func")
    inputs = {each.model: each for each in sdmw.Report.load("out").inputs}
    assert inputs.keys() == {"base", "tunes/corp", "tunes/func"}
    assert len({each.header for each in inputs.values()}) == 1  # which is why a card has no use for it
    assert len({each.sample for each in inputs.values()}) == 3


class TestLicencesThatDiffer:
    @pytest.fixture(autouse=True)
    def cards(self, world):
        say("base", "license: apache-2.0")
        say("tunes/corp", "license: other\nlicense_name: llama3.2")
        (world / "base" / "LICENSE").write_text("the base's")

    WARNING = (
        "the inputs have different licences: 'apache-2.0' of 'base'; 'llama3.2' of 'tunes/corp'. The card says "
        "`other` and lists them. 'LICENSE', copied into the output, comes from 'base' only."
    )

    def test_are_told_by_the_plan(self, world, capsys, monkeypatch):
        recipe = {"merge_method": "linear", "base_model": "base", "models": [{"model": "tunes/corp"}]}
        assert self.WARNING in sdmw.plan(recipe).warnings
        (world / "r.yaml").write_text(yaml.safe_dump(recipe))
        assert f"warning: {self.WARNING}\n" in told(capsys, monkeypatch, "plan", "r.yaml").err

    def test_are_listed_in_the_card(self, world):
        front, body = merged("tunes/corp", "tunes/func")
        assert (front["license"], front.get("license_name")) == ("other", None)
        assert section(body, "Licences") == [
            "- `base`: `apache-2.0`", "- `tunes/corp`: `llama3.2`", "- `tunes/func`: not named in its card"
        ]  # fmt: skip
        assert (world / "out" / "LICENSE").read_text() == "the base's"
        assert self.WARNING in sdmw.Report.load("out").warnings

    def test_that_agree_are_the_card_s(self, world):
        say("tunes/corp", "license: apache-2.0")
        front, body = merged("tunes/corp")
        assert (front["license"], section(body, "Licences")) == ("apache-2.0", [])
        assert not any("licence" in warning for warning in sdmw.Report.load("out").warnings)

    def test_of_which_one_is_unknown(self, world):
        say("tunes/corp", "language: en")
        front, body = merged("tunes/corp")
        assert "license" not in front
        assert section(body, "Licences") == ["- `base`: `apache-2.0`", "- `tunes/corp`: not named in its card"]
        assert not any("licence" in warning for warning in sdmw.Report.load("out").warnings)


@pytest.mark.parametrize(
    ("name", "public", "hub"),
    [
        ("./corp", "./corp", None),
        ("/a/b/corp/", "corp", None),
        ("/", "/", None),
        ("org/model@v1", "org/model@v1", "org/model"),
        ("/a/b+/c/lora", "b+lora", None),
        ("~/models/corp", "corp", None),
    ],
)
def test_what_a_card_calls_an_input(name, public, hub):
    reference = ModelRef.parse(name)
    assert public_name(reference) == public
    assert id_of(reference.alone) == hub


def test_models_whose_paths_end_alike_are_told_apart(world):
    for name in ("one/tune", "two/tune"):
        write_checkpoint(world / name, {"model.norm.weight": np.ones(16, np.float32)})
    write_checkpoint(world / "small", {f"model.{n}.weight": np.ones(16, np.float32) for n in ("norm", "other")})
    _, body = merged(f"{world}/one/tune", f"{world}/two/tune", base=f"{world}/small", missing="base")
    assert "# Merge of `tune` and `tune (2)` (`linear`)" in body
    assert "- missing: 1 tensor in `tune`, 1 in `tune (2)`: the base's are used\n" in body
    named = ModelRef.parse("base"), ModelRef.parse("base"), ModelRef.parse("/base")
    assert public_names(named) == {"base": "base", "/base": "base (2)"}


@pytest.mark.parametrize(("folder", "hub"), [("models--gpt2", "gpt2"), ("models--a--b--c", None), ("a", None)])
def test_the_hub_id_of_a_folder_in_the_cache(tmp_path, folder, hub):
    place = tmp_path / folder / "snapshots" / COMMIT
    place.mkdir(parents=True)
    assert id_of(ModelRef(str(place))) == hub
    assert public_name(ModelRef(str(place))) == (hub or COMMIT)
