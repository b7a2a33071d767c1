import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.asking import loaded, refused, sdm_w
from recipes.grammars import METHODS
from sdmw.recipes import yaml
from sdmw.recipes.findings import Findings
from sdmw.recipes.load import load
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import ModelEntry

DIRECTORIES = ["a", "a+b", "a@b", "c++", "m", "m@1", "+x", "base", "base+lora", "base/sub+1", "org/local"]

lawful = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working directory with folders of these names, which is home as well."""
    for name in DIRECTORIES:
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("base")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def on(model, adapter):
    return replace(model, adapter=adapter)


class TestParse:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("org/name", ModelRef("org/name")),
            ("org/name@v1", ModelRef("org/name", "v1")),
            ("org/name+org/lora", on(ModelRef("org/name"), ModelRef("org/lora"))),
            ("org/name@v1+org/lora@v2", on(ModelRef("org/name", "v1"), ModelRef("org/lora", "v2"))),
            ("base/+org/lora@v2", on(ModelRef("base/"), ModelRef("org/lora", "v2"))),
            ("org/name@v1+w", on(ModelRef("org/name", "v1"), ModelRef("w"))),
            ("", ModelRef("")),
            ("@", ModelRef("", "")),
            ("+", on(ModelRef(""), ModelRef(""))),
        ],
    )
    def test_as_mergekit_reads_it(self, text, expected):
        assert ModelRef.parse(text) == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("c++", ModelRef("c++")),
            ("~/c++", ModelRef("~/c++")),
            ("m@1", ModelRef("m@1")),
            ("m@1+c++", on(ModelRef("m@1"), ModelRef("c++"))),
            ("org/name+m@1", on(ModelRef("org/name"), ModelRef("m@1"))),
            ("base/sub+1+org/lora@v2", on(ModelRef("base/sub+1"), ModelRef("org/lora", "v2"))),
            ("base+lora", ModelRef("base+lora")),  # all of it is a directory, though base is one too
            ("a+b+org/lora", on(ModelRef("a+b"), ModelRef("org/lora"))),  # and so is a
            ("a@b@v1", ModelRef("a@b", "v1")),
        ],
    )
    def test_directories_with_the_marks_in_their_names(self, text, expected):
        assert ModelRef.parse(text) == expected

    # Each was read in two ways when the loader and `locate` had a parser each: the loader cut at the first mark.
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("c+++lora", on(ModelRef("c++"), ModelRef("lora"))),  # loader: c and ++lora
            ("c++/+lora", on(ModelRef("c++/"), ModelRef("lora"))),  # loader: c and +/+lora
            ("+x+lora", on(ModelRef("+x"), ModelRef("lora"))),  # loader: refused as no model before the adapter
            ("m@1@2", ModelRef("m@1", "2")),  # loader: m at 1@2
            ("o/m@a@b", ModelRef("o/m", "a@b")),  # locate: o/m@a at b
            ("o/m+o/l@v@w", on(ModelRef("o/m"), ModelRef("o/l", "v@w"))),  # locate: o/l@v at w
        ],
    )
    def test_what_two_parsers_disagreed_on(self, text, expected):
        assert ModelRef.parse(text) == expected

    def test_of_many_marks_few_are_tried(self, monkeypatch):
        asked = []
        monkeypatch.setattr(os.path, "isdir", asked.append)
        assert ModelRef.parse("x" + "+y" * 4000).path == "x"
        assert len(asked) < 40

    @pytest.mark.parametrize("text", ["~\0x", "\0", "~\ud800", "a" * 5000])
    def test_what_the_file_system_refuses_to_hear(self, text):
        reference = ModelRef.parse(text)
        assert reference == ModelRef(text)
        assert reference.directory is None
        assert reference.identity()


# Pieces that make many of the directories above, and many of none.
TEXTS = st.lists(st.sampled_from([*"+@/~", "a", "b", "c++", "m@1", "+x", "base", "lora", "./", "v1"])).map("".join)
PATHS = st.sampled_from([*DIRECTORIES, "org/name", "none", "lora", "x+y", "x@y", ""])
ALONE = st.builds(ModelRef, PATHS, st.sampled_from([None, "v1", "main", "a@b", "r+s", ""]))
REFERENCES = st.builds(on, ALONE, st.none() | ALONE)


@lawful
@given(TEXTS | st.text(max_size=12))
def test_a_parsed_text_comes_back(text):
    reference = ModelRef.parse(text)
    assert str(reference) == text
    assert reference.plain() == text
    assert pickle.loads(pickle.dumps(reference)) == reference


@lawful
@given(REFERENCES)
def test_the_parts_of_a_reference_have_none(reference):
    assert [part.adapter for part in reference.parts] == [None] * len(reference.parts)
    assert "+".join(map(str, reference.parts)) == str(reference)


def without_empty(reference):
    return all(part.path and part.revision != "" for part in reference.parts)


@lawful
@given(REFERENCES.filter(without_empty), REFERENCES.filter(without_empty))
def test_every_reference_survives_its_recipe(base, model):
    """Also those that no text can say: mergekit's long form says them."""
    recipe = {"merge_method": "linear", "base_model": base, "models": [{"model": model}]}
    once = load(recipe, METHODS)
    assert (once.base_model, once.models) == (base, (ModelEntry(model),))
    assert load(once, METHODS) == once
    again = load(yaml.tree(once.text, Findings()), METHODS)
    assert replace(again, text="") == replace(once, text="")


class TestIdentity:
    @pytest.mark.parametrize(
        "spellings",
        [
            ["base", "./base", "base/", "~/base", "m/../base", "link", "HERE/base"],
            ["org/name", "org/name@main"],
            ["none", "./none", "a/../none"],
            ["c+++lora", "c++/+lora", "./c++/+./lora", "~/c+++lora@main"],
            ["base+org/lora", "link+org/lora@main"],
        ],
    )
    def test_spellings_of_one_model(self, here, spellings):
        found = {ModelRef.parse(text.replace("HERE", str(here))).identity() for text in spellings}
        assert len(found) == 1

    @pytest.mark.parametrize(
        "names",
        [
            ["org/name", "org/name@v1", "org/name@v2", "org/other", "org/name+base", "org/name+base@v1"],
            ["m@1", "m", "m+1", "m@2"],
            ["a+b", "a+c", "a", "b"],
        ],
    )
    def test_names_of_several(self, names):
        assert len({ModelRef.parse(name).identity() for name in names}) == len(names)

    @lawful
    @given(REFERENCES)
    def test_a_directory_is_the_same_from_anywhere(self, reference):
        path = reference.directory
        if path is not None:
            assert replace(reference, path=os.path.abspath(path)).identity() == reference.identity()


class TestInARecipe:
    def test_a_model_under_two_names_is_listed_twice(self):
        for one, other in (("c+++lora", "c++/+lora"), ("o/m", "o/m@main"), ("base+o/l", "link+o/l@main")):
            assert refused(sdm_w(models=[{"model": one}, {"model": other}])) == [
                f"models.1.model: expected each model once, found '{other}'. It is also models.0"
            ]

    def test_the_base_among_models_by_its_branch(self):
        recipe = loaded(sdm_w(base_model="o/m", models=[{"model": "o/m@main"}, {"model": "o/m@v1"}]))
        assert [str(entry.model) for entry in recipe.models] == ["o/m@v1"]

    def test_two_revisions_are_two_models(self):
        assert len(loaded(sdm_w(models=[{"model": "base+o/l@v1"}, {"model": "base+o/l@v2"}])).models) == 2

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("o/m@", "model@revision"), ("o/m+o/l@", "model@revision"), ("@v", "model+adapter"), ("m+", "model+adapter"),
         ("m+@v", "model+adapter"), ("+lora", "model+adapter")],
    )  # fmt: skip
    def test_names_with_an_empty_part(self, name, expected):
        assert refused(sdm_w(base_model=name)) == [f"base_model: expected {expected}, found '{name}'"]

    def test_a_nul_after_a_tilde(self):
        assert refused(sdm_w(base_model="~\0x")) == [r"base_model: expected a path or a Hub name, found '~\x00x'"]

    def test_the_long_form_says_what_a_name_cannot(self):
        given = {"model": {"path": "a"}, "lora": {"path": "b", "revision": "v1"}}
        recipe = loaded(sdm_w(models=[{"model": {"model": "a", "lora": {"path": "b"}}}]))
        assert recipe.models[0].model == ModelRef("a", adapter=ModelRef("b"))
        assert "lora:" in recipe.text  # a+b is a directory
        assert "a+b@v1" in loaded(sdm_w(models=[{"model": given}])).text

    def test_a_path_with_a_revision_in_the_long_form(self):
        """As mergekit reads it: a `+` there belongs to the name."""
        recipe = loaded(sdm_w(models=[{"model": {"model": "o/m@v1", "lora": "x+y@v2"}}]))
        assert recipe.models[0].model == ModelRef("o/m", "v1", ModelRef("x+y", "v2"))

    def test_two_models_that_would_have_one_name(self):
        models = [{"model": "a+b"}, {"model": {"model": "a", "lora": "b"}}]
        assert refused(sdm_w(models=models)) == [
            "models.1.model: expected a name other than that of models.0, found 'a+b'. Rename one"
        ]

    def test_an_adapter_on_an_adapter(self):
        twice = ModelRef("a", adapter=ModelRef("y", adapter=ModelRef("z")))
        assert "models.0.model.lora.lora: unknown field" in refused(sdm_w(models=[{"model": twice}]))[0]

    def test_a_recipe_by_hand_takes_texts_and_references(self):
        by_text = loaded(sdm_w(base_model="o/m@v1"))
        by_reference = loaded(sdm_w(base_model=ModelRef("o/m", "v1")))
        assert by_text == by_reference
        assert loaded(replace(by_text, base_model="o/m@v1")) == by_text

    def test_a_text_that_no_longer_says_the_same_is_written_anew(self, here):
        Path("r.yaml").write_text("merge_method: linear\nmodels: [{model: a+b}]\n")
        once = loaded("r.yaml")
        (here / "a+b").rmdir()
        again = loaded(once)
        assert again.models == once.models == (ModelEntry(ModelRef("a+b")),)
        assert (again.file, loaded(again)) == ("", again)
