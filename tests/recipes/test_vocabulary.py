"""`tokenizer_source` and `tokenizer`: what they may say, and what becomes of it."""

import pytest

from recipes.asking import loaded, refused, sdm_w
from sdmw.recipes.recipe import TokenRow, Vocabulary
from sdmw.recipes.yaml import written


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    return tmp_path


def vocabulary(**fields):
    return loaded(sdm_w(**fields)).tokenizer


@pytest.mark.parametrize(
    ("given", "source"),
    [("base", "base"), ("./base", "base"), ("base/", "base"), ("union", "union"), ("./corp", "./corp"),
     ("corp/../corp", "./corp"), ("./other", "./other"), ("o/t@r", "o/t@r")],
)  # fmt: skip
def test_whose_tokens(here, given, source):
    assert vocabulary(tokenizer_source=given) == Vocabulary(source)
    assert vocabulary(tokenizer={"source": given}) == Vocabulary(source)


def test_the_models_that_they_name(here):
    named = loaded(sdm_w(tokenizer_source="./corp")).tokenizer_of
    assert str(named) == "./corp"
    assert loaded(sdm_w(tokenizer_source="union")).tokenizer_of is None
    assert loaded(sdm_w()).tokenizer_of is None


def test_nothing_said():
    assert vocabulary() is None
    assert loaded({**sdm_w(), "tokenizer": None, "tokenizer_source": None}) == loaded(sdm_w())
    assert vocabulary(tokenizer={}) == Vocabulary("union")
    assert vocabulary(tokenizer={"pad_to_multiple_of": 64}) == Vocabulary("union", (), 64)


TOKENS = {
    "<a>": {"source": "./corp", "force": True},
    "<b>": {"source": {"kind": "zero"}},
    "<c>": {"source": {"kind": "model_token", "model": "func", "token": "x"}},
    "<d>": {"source": {"kind": "model_token", "model": "./base", "token_id": 3}},
    "<e>": {},
    "<f>": {"source": {"model": {"path": "./corp"}}},
}
ROWS = (
    TokenRow("<a>", "model", "./corp", force=True), TokenRow("<b>", "zero"), TokenRow("<c>", "model", "./func", "x"),
    TokenRow("<d>", "model", "./base", 3), TokenRow("<e>"), TokenRow("<f>", "model", "./corp"),
)  # fmt: skip


def test_each_kind_of_source(here):
    (here / "func").mkdir()
    assert vocabulary(tokenizer={"source": "base", "tokens": TOKENS}) == Vocabulary("base", ROWS)


def test_loaded_again_it_is_the_same(here):
    (here / "func").mkdir()
    recipe = loaded(sdm_w(tokenizer={"source": "union", "tokens": TOKENS, "pad_to_multiple_of": 8}))
    assert loaded(recipe) == recipe
    (here / "r.yaml").write_text(written(sdm_w(tokenizer={"tokens": TOKENS, "pad_to_multiple_of": 8})))
    assert loaded("r.yaml").tokenizer == recipe.tokenizer
    assert loaded(loaded("r.yaml")).text == (here / "r.yaml").read_text()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"tokenizer": "x"}, "tokenizer: expected a mapping, found 'x'"),
        ({"tokenizer_source": 3}, "tokenizer_source: expected text, found 3. Put it in quotes"),
        ({"tokenizer_source": "a\0"}, r"tokenizer_source: expected a path or a Hub name, found 'a\x00'"),
        (
            {"tokenizer_source": "base", "tokenizer": {}},
            "tokenizer_source: expected one of the two, found tokenizer_source beside tokenizer. "
            "Write it as source under tokenizer",
        ),
        ({"tokenizer": {"sauce": "base"}}, "tokenizer.sauce: unknown field. Did you mean source?"),
        ({"tokenizer": {"tokens": []}}, "tokenizer.tokens: expected a mapping, found an empty list"),
        ({"tokenizer": {"tokens": {"x": "./corp"}}}, "tokenizer.tokens.x: expected a mapping, found './corp'"),
        (
            {"tokenizer": {"tokens": {"x": {"forse": True}}}},
            "tokenizer.tokens.x.forse: unknown field. Did you mean force?",
        ),
        ({"tokenizer": {"tokens": {"x": {"force": 1}}}}, "tokenizer.tokens.x.force: expected true or false, found 1"),
        (
            {"tokenizer": {"tokens": {"x": {"source": "./corpp"}}}},
            "tokenizer.tokens.x.source: expected base_model or one of models, found './corpp'. Did you mean ./corp?",
        ),
        (
            {"tokenizer": {"tokens": {"x": {"source": 3}}}},
            "tokenizer.tokens.x.source: expected one of models, or a mapping with kind, found 3",
        ),
        (
            {"tokenizer": {"tokens": {"x": {"source": {"kind": "zeros"}}}}},
            "tokenizer.tokens.x.source.kind: expected model_token or zero, found 'zeros'. Did you mean zero?",
        ),
        (
            {"tokenizer": {"tokens": {"x": {"source": {"kind": "model_token", "model": "./corp"}}}}},
            "tokenizer.tokens.x.source: expected either token or token_id, found neither",
        ),
        (
            {"tokenizer": {"tokens": {"x": {"source": {"kind": "model_token", "token": "y"}}}}},
            "tokenizer.tokens.x.source.model: missing. Write model",
        ),
        (
            {"tokenizer": {"tokens": {"": {}}}},
            "tokenizer.tokens.'': expected a token, found an empty token",
        ),
        (
            {"tokenizer": {"pad_to_multiple_of": 0}},
            "tokenizer.pad_to_multiple_of: expected a whole number from 1, found 0",
        ),
        (
            {"tokenizer": {"pad_to_multiple_of": 2**21}},
            "tokenizer.pad_to_multiple_of: expected a whole number up to 1048576, found 2097152",
        ),
    ],
)  # fmt: skip
def test_each_fault(fields, problem):
    assert refused(sdm_w(**fields)) == [problem]


@pytest.mark.parametrize("given", ["auto", "alpaca", "chatml", "exaone", "llama3", "mistral", "{{ x }}"])
def test_a_chat_template_may_be_a_word_or_itself(given):
    recipe = loaded(sdm_w(chat_template=given))
    assert recipe.chat_template == given
    assert loaded(recipe) == recipe
