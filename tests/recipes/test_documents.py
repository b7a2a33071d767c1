"""Several recipes in one file: how they are told apart, put in order, and what is wrong with them."""

from dataclasses import replace

import pytest

from recipes.asking import loaded, refused
from sdmw.recipes.documents import parts

LAST = "merge_method: linear\nmodels: [x, y]\n"
X = "name: x\nmerge_method: linear\nmodels: [a, b]\n"
Y = "name: y\nmerge_method: linear\nmodels: [x, c]\n"


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(*documents):
        (tmp_path / "r.yaml").write_text("---\n".join(documents))
        return "r.yaml"

    return write


def test_each_comes_after_what_it_uses_wherever_it_stands(written):
    for order in ((X, Y, LAST), (LAST, Y, X), (Y, LAST, X)):
        recipe = loaded(written(*order))
        assert [each.name for each in recipe.documents] == ["x", "y"]
        assert [str(entry.model) for entry in recipe.models] == ["x", "y"]
        assert recipe.name == ""


def test_where_all_have_names_the_last_that_no_other_uses_comes_last(written):
    z = X.replace("name: x", "name: z")
    for order, expected in (((X, Y, z), "xyz"), ((Y, z, X), "xyz"), ((z, X, Y), "xzy")):
        recipe = loaded(written(*order))
        assert "".join(each.name for each in (*recipe.documents, recipe)) == expected
        assert loaded(recipe) == recipe


def test_one_that_nobody_uses_is_left_out_and_said(written):
    recipe = loaded(written(X, Y.replace("x, c", "c"), LAST.replace("x, y", "x")))
    assert [each.name for each in recipe.documents] == ["x"]
    assert "document 'y' is left out: no other document uses it" in recipe.notes


def test_a_single_one_may_have_a_name(written):
    assert loaded(written(X)).name == "x"


def test_an_adapter_on_a_document(written):
    recipe = loaded(written(X, LAST.replace("x, y", "x+lora")))
    assert [each.name for each in recipe.documents] == ["x"]


def test_again_is_equal_and_a_change_is_written_with_all_documents(written):
    once = loaded(written(X, Y, LAST))
    assert loaded(once) == once
    changed = loaded(replace(once, random_seed=3))
    assert changed.documents == once.documents
    assert changed.text.count("---") == 2
    assert loaded(written(changed.text)).random_seed == 3


@pytest.mark.parametrize(
    ("documents", "problems"),
    [
        ((X, X, LAST), ["r.yaml: name: expected a different name for each document, found 'x' twice"]),
        ((LAST, LAST), ["r.yaml: expected at most one document without a name, found 2 of 2. "
                        "Give each of the others a name: its result can be used as a model by that name"]),
        ((X.replace("[a, b]", "[y]"), Y), ["r.yaml: documents: expected no circle, found 'x' uses 'y' uses 'x'"]),
        ((X.replace("[a, b]", "[y]"), Y, LAST), ["r.yaml: documents: expected no circle, found 'x' uses 'y' uses 'x'"]),
        ((X.replace("[a, b]", "[x]"), LAST), ["r.yaml: documents: expected no circle, found 'x' uses 'x'"]),
        ((X.replace("linear", "linaer"), Y.replace("models", "modelss"), LAST),
         ["r.yaml:2:15: merge_method: unknown merge method 'linaer'. Did you mean linear?",
          "r.yaml:5:1: models: missing. Write for instance models: [{model: ./corp}, {model: ./func}]",
          "r.yaml:7:1: modelss: unknown field. Did you mean models?"]),
    ],
)  # fmt: skip
def test_faults(written, documents, problems):
    assert refused(written(*documents)) == problems


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1\n", ["a: 1\n"]),
        ("---\na: 1\n", ["---\na: 1\n"]),
        ("# remark\n---\na: 1\n---\n", ["# remark\n---\na: 1\n---\n"]),
        ("%YAML 1.2\n---\na: 1\n...\n", ["%YAML 1.2\n---\na: 1\n...\n"]),
        ("a: 1\n---\nb: 2\n", ["a: 1", "\n---\nb: 2\n"]),
        ("a: |\n  ---\n  x\n", ["a: |\n  ---\n  x\n"]),
        ("a: 1\n--- {b: 2}\n", ["a: 1", "\n--- {b: 2}\n"]),
        ("a: 1\n----\n", ["a: 1\n----\n"]),
    ],
)
def test_the_parts_of_a_text(text, found):
    assert parts(text) == found
