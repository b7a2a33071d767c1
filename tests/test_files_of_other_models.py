"""Recipe fields that take chat templates and generation settings from another model than the base."""

import json
from pathlib import Path

import pytest

import sdmw
from planning.test_differences import models, put, recipe
from sdmw.errors import PlanError, RecipeError

__all__ = ["models"]  # the fixture
TOKENS = {"eos_token": "</s>", "chat_template": "of the base"}


def read(name):
    return json.loads(Path("out", name).read_text())


def merge(**more):
    report = sdmw.merge(recipe("a", "b", **more), "out", progress=False)
    assert not sdmw.verify("out", sample=1, progress=False).problems
    return report


def files():
    return {str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file()}


def test_generation_settings_of_a_model(models):
    put("base", "generation_config.json", {"eos_token_id": 2})
    put("b", "generation_config.json", '{"eos_token_id":   3}\n')
    report = merge(generation_config="b")
    assert Path("out/generation_config.json").read_text() == '{"eos_token_id":   3}\n'
    assert "generation_config.json" in report.files.written
    assert "generation_config.json" not in report.files.copied


def test_a_template_goes_where_the_base_s_tokenizer_keeps_its_own(models):
    put("base", "tokenizer_config.json", TOKENS)
    put("a", "chat_template.jinja", "of a")
    merge(chat_template="a")
    assert read("tokenizer_config.json") == {**TOKENS, "chat_template": "of a"}
    assert "chat_template.jinja" not in files()


def test_a_template_in_both_places(models):
    put("base", "tokenizer_config.json", TOKENS)
    put("base", "chat_template.jinja", "of the base")
    put("base", "additional_chat_templates/tools.jinja", "tools of the base")
    put("a", "tokenizer_config.json", {"chat_template": [{"name": "default", "template": "of a"},
                                                         {"name": "rag", "template": "rag of a"}]})  # fmt: skip
    merge(chat_template="./a")
    assert Path("out/chat_template.jinja").read_text() == "of a"
    assert Path("out/additional_chat_templates/rag.jinja").read_text() == "rag of a"
    assert "additional_chat_templates/tools.jinja" not in files()
    assert read("tokenizer_config.json")["chat_template"][1] == {"name": "rag", "template": "rag of a"}


def test_a_base_without_a_template_gets_a_file(models):
    put("base", "tokenizer_config.json", {"eos_token": "</s>"})
    put("b", "chat_template.json", {"chat_template": "of b"})
    merge(chat_template="b")
    assert Path("out/chat_template.jinja").read_text() == "of b"
    assert read("tokenizer_config.json") == {"eos_token": "</s>"}


@pytest.mark.parametrize("name", ["base", "./base"])
def test_the_base_s_own(models, name):
    put("base", "tokenizer_config.json", TOKENS)
    put("a", "chat_template.jinja", "of a")
    merge(chat_template=name)
    assert Path("out/tokenizer_config.json").read_bytes() == Path("base/tokenizer_config.json").read_bytes()


@pytest.mark.parametrize("field", ["chat_template", "generation_config"])
def test_a_model_that_has_none_is_a_problem(models, field):
    with pytest.raises(PlanError, match=rf"recipe: {field}: model 'a' has no {field}\. Write {field}: base"):
        merge(**{field: "a"})
    merge(**{field: "base"})


def test_a_model_that_the_recipe_does_not_list(models):
    with pytest.raises(RecipeError, match=r"chat_template: expected base, one of models, .*, found 'c'"):
        merge(chat_template="c")


def test_a_template_whose_name_is_a_path_is_refused(models):
    put("a", "tokenizer_config.json", {"chat_template": [{"name": "../../x", "template": "of a"}]})
    with pytest.raises(PlanError, match=r"chat_template: expected a valid file name, found '../../x'"):
        merge(chat_template="a")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 3000\n"


@pytest.mark.parametrize(
    ("field", "file"),
    [
        ("chat_template", "chat_template.jinja"),
        ("chat_template", "additional_chat_templates/tools.jinja"),
        ("chat_template", "chat_template.json"),
        ("chat_template", "tokenizer_config.json"),
        ("generation_config", "generation_config.json"),
    ],
)
def test_a_pointer_of_git_lfs_is_refused_and_not_recommended(models, field, file):
    put("a", file, POINTER)
    with pytest.raises(PlanError, match=rf"a/{file}: expected the file, found a Git LFS pointer.*git lfs pull"):
        merge(**{field: "a"})
    assert not any(field in note for note in sdmw.plan(recipe("a", "b")).notes)


def test_a_pointer_that_is_not_read_does_not_matter(models):
    put("a", "chat_template.jinja", "of a")
    put("a", "tokenizer_config.json", POINTER)
    merge(chat_template="a")
    assert Path("out/chat_template.jinja").read_text() == "of a"


@pytest.mark.parametrize(
    ("text", "said"), [("{", "not JSON: Expecting property name"), ("[1]", "expected an object, found list")]
)
def test_generation_settings_that_are_no_object_are_refused_and_not_recommended(models, text, said):
    put("a", "generation_config.json", text)
    with pytest.raises(PlanError, match=rf"a/generation_config\.json: {said}.*\. Correct the file, or write"):
        merge(generation_config="a")
    assert not any("generation_config" in note for note in sdmw.plan(recipe("a", "b")).notes)
