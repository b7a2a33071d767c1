"""Merges of models with unlike vocabularies: `tokenizer_source`, `tokenizer`. METHODS.md, section 8."""

import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from reference.linear import linear
from reference.vocabulary import aligned
from sdmw.errors import PlanError
from vocabularies_on_disk import EMBEDDING, HEAD, NORM, Q, added_token, tokens_of, write_model

LINEAR = "merge_method: linear\nbase_model: base\nmodels:\n- {model: base}\n- {model: a}\n- {model: b}\n"
ARITHMETIC = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n- {model: a}\n- {model: b}\n"
UNION = ["<unk>", "x", "y", "<s>", "z", "w", "<im>", "<end>"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A base and two models: their own orders, tokens that one alone has, one that both have and the base has not."""
    monkeypatch.chdir(tmp_path)
    return {
        "base": write_model("base", ["<unk>", "x", "y"], ["<s>"], seed=1, config={"eos_token_id": 3}),
        "a": write_model("a", ["<unk>", "y", "x", "z"], ["<s>", "<im>"], seed=2, config={"eos_token_id": 4}),
        "b": write_model("b", ["<unk>", "x", "w", "z"], ["<im>", "<end>"], seed=3),
    }


def rewritten(name, *arguments, **options):
    """A model in the place of another."""
    shutil.rmtree(name)
    return write_model(name, *arguments, **options)


def merged(recipe, out="out", **options):
    Path(f"{out}.yaml").write_text(recipe)
    sdmw.merge(f"{out}.yaml", out, progress=False, overwrite=True, **options)
    assert sdmw.verify(out, progress=False).problems == ()
    return load_file(f"{out}/model.safetensors")


def problems_of(recipe):
    Path("r.yaml").write_text(recipe)
    return [str(problem) for problem in sdmw.plan("r.yaml").problems]


def expected(world, output, *, names=("base", "a", "b"), tensor=EMBEDDING, **options):
    return aligned({name: (tokens_of(name), world[name][tensor]) for name in names}, output, **options)


def mean_of(rows):
    return linear(list(rows.values()), [1, 1, 1], normalize=True)


def config(out="out"):
    return json.loads(Path(out, "config.json").read_text())


class TestSources:
    @pytest.mark.parametrize("tensor", [EMBEDDING, HEAD])
    def test_union(self, world, tensor):
        out = merged(LINEAR + "tokenizer_source: union\n")
        rows = expected(world, UNION, tensor=tensor, base="base")
        np.testing.assert_allclose(out[tensor], mean_of(rows), rtol=1e-6)
        assert config()["vocab_size"] == 8
        assert tokens_of("out") == {token: number for number, token in enumerate(UNION)}

    @pytest.mark.parametrize("source", ["base", "a", "b"])
    def test_a_model_s(self, world, source):
        out = merged(LINEAR + f"tokenizer_source: {source}\n")
        order = sorted(tokens_of(source), key=tokens_of(source).get)
        np.testing.assert_allclose(out[EMBEDDING], mean_of(expected(world, order, base="base")), rtol=1e-6)
        assert config()["vocab_size"] == len(order)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            assert Path("out", name).read_bytes() == Path(source, name).read_bytes()

    def test_deltas_from_the_base(self, world):
        out = merged(ARITHMETIC + "parameters: {weight: 0.5}\ntokenizer_source: union\n")
        rows = expected(world, UNION, base="base")
        half = np.float32(0.5)
        total = (rows["a"] - rows["base"]) * half + (rows["b"] - rows["base"]) * half
        np.testing.assert_allclose(out[EMBEDDING], rows["base"] + total, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(out[EMBEDDING][7], world["b"][EMBEDDING][5])  # b alone has it

    def test_other_tensors_are_what_they_were(self, world):
        out = merged(LINEAR + "tokenizer_source: union\n")
        for name in (NORM, Q):
            np.testing.assert_allclose(out[name], mean_of({each: world[each][name] for each in world}), rtol=1e-6)

    def test_a_model_that_is_not_merged_and_has_tokens_of_its_own(self, world):
        write_model("other", ["<unk>", "q", "y"], ["<q>", "<s>"], seed=9)
        Path("other/model.safetensors").unlink()
        out = merged(LINEAR + "tokenizer_source: other\n")
        rows = expected(world, ["<unk>", "q", "y", "<q>", "<s>"], base="base")
        np.testing.assert_allclose(out[EMBEDDING], mean_of(rows), rtol=1e-6)
        assert not out[EMBEDDING][[1, 3]].any()
        (warning,) = [each for each in sdmw.plan("out.yaml").warnings if "zero" in each]
        assert warning == ("2 rows of the vocabulary have no token, or one that no model has: they are zero")

    def test_the_unlike_dtypes_of_models(self, world):
        write_model("h", ["<unk>", "x", "v"], seed=5, dtype="F16")
        write_model("g", ["<unk>", "y", "v"], seed=6, dtype="BF16")
        world |= {name: load_file(f"{name}/model.safetensors") for name in ("h", "g")}
        recipe = LINEAR.replace("{model: a}", "{model: h}").replace("{model: b}", "{model: g}")
        out = merged(recipe + "tokenizer_source: union\n")
        rows = expected(world, ["<unk>", "x", "y", "<s>", "v"], names=("base", "h", "g"), base="base")
        np.testing.assert_allclose(out[EMBEDDING], mean_of(rows), rtol=1e-6)

    def test_tied_heads(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        world = {
            "base": write_model("base", ["<unk>", "x"], seed=1, head=False),
            "a": write_model("a", ["<unk>", "x", "y"], seed=2),
        }
        recipe = (
            "merge_method: linear\nbase_model: base\nmodels: [{model: base}, {model: a}]\ntokenizer_source: union\n"
        )
        out = merged(recipe)
        assert config()["tie_word_embeddings"] is False
        rows = aligned({"base": (tokens_of("base"), world["base"][EMBEDDING]), "a": (tokens_of("a"), world["a"][HEAD])},
                       ["<unk>", "x", "y"], base="base")  # fmt: skip
        np.testing.assert_allclose(out[HEAD], (rows["base"] + rows["a"]) / 2, rtol=1e-6)

    def test_slices_take_rows_of_their_own_sources(self, world):
        out = merged(
            "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 1]}]\n"
            "- sources: [{model: b, layer_range: [0, 1]}]\nbase_model: base\ntokenizer_source: union\n"
        )
        a = expected(world, UNION, names=("a",))["a"]
        b = expected(world, UNION, names=("b",), tensor=HEAD)["b"]
        np.testing.assert_array_equal(out[EMBEDDING], a)
        np.testing.assert_array_equal(out[HEAD], b)

    def test_opened_and_explained(self, world):
        written = merged(LINEAR + "tokenizer_source: union\n")
        reader = sdmw.open("out.yaml", progress=False)
        np.testing.assert_array_equal(reader.get_slice(EMBEDDING)[3:7], written[EMBEDDING][3:7])
        told = sdmw.explain("out.yaml", EMBEDDING)
        assert told.shape == (8, 6)


class TestRows:
    def test_the_same_tokens_in_the_same_order_are_the_plain_merge(self, world):
        write_model("c", ["<unk>", "x", "y"], ["<s>"], seed=4)
        recipe = LINEAR.replace("- {model: a}\n- {model: b}\n", "- {model: c}\n")
        plain = merged(recipe, "plain")
        for source in ("base", "union", "c"):
            Path("r.yaml").write_text(recipe + f"tokenizer_source: {source}\n")
            plan = sdmw.plan("r.yaml")
            assert {type(each).__name__ for tensor in plan.tensors for each in tensor.inputs} == {"Stored"}
            assert plan.config_changes == {}
            out = merged(recipe + f"tokenizer_source: {source}\n", source + "-out")
            np.testing.assert_array_equal(out[EMBEDDING], plain[EMBEDDING])

    def test_spare_rows_are_kept_where_all_have_them(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        world = {
            "base": write_model("base", ["<unk>", "x", "y"], rows=8, seed=1),
            "a": write_model("a", ["<unk>", "y", "x"], rows=8, seed=2),
        }
        out = merged(
            "merge_method: linear\nbase_model: base\nmodels: [{model: base}, {model: a}]\ntokenizer_source: base\n"
        )
        a = world["a"][EMBEDDING][[0, 2, 1, 3, 4, 5, 6, 7]]
        np.testing.assert_allclose(out[EMBEDDING], (world["base"][EMBEDDING] + a) / 2, rtol=1e-6)
        assert config()["vocab_size"] == 8
        assert (
            "tokenizer: all inputs have 5 rows after the tokens; these rows are kept and merged like others"
            in sdmw.plan("out.yaml").notes
        )
        assert merged(
            "merge_method: linear\nbase_model: base\nmodels: [{model: base}, {model: a}]\ntokenizer_source: a\n", "cut"
        )[EMBEDDING].shape == (3, 6)

    def test_padding(self, world):
        out = merged(LINEAR + "tokenizer: {source: union, pad_to_multiple_of: 5}\n")
        rows = expected(world, UNION, base="base", padding=2)
        np.testing.assert_allclose(out[EMBEDDING], mean_of(rows), rtol=1e-5, atol=1e-7)
        assert config()["vocab_size"] == 10
        np.testing.assert_array_equal(out[EMBEDDING][8], out[EMBEDDING][9])

    def test_numbers_of_tokens_follow(self, world):
        Path("base/generation_config.json").write_text('{"eos_token_id": [3, 2], "bos_token_id": 3}')
        merged(LINEAR + "tokenizer_source: a\n")
        assert config()["eos_token_id"] == 4
        said = json.loads(Path("out/generation_config.json").read_text())
        assert said == {"eos_token_id": [4, 1], "bos_token_id": 4}
        merged(LINEAR + "tokenizer_source: union\n", "same")
        assert config("same")["eos_token_id"] == 3
        assert Path("same/generation_config.json").read_text() == Path("base/generation_config.json").read_text()

    def test_where_rows_come_from_is_noted(self, world):
        Path("r.yaml").write_text(ARITHMETIC + "tokenizer: {source: union, pad_to_multiple_of: 5}\n")
        notes = sdmw.plan("r.yaml").notes
        assert "tokenizer: 4 tokens are added to those of the base" in notes
        assert (
            "model 'a': rows of its vocabulary: 6 its own, 2 from other models, 2 the mean of all, as padding" in notes
        )
        assert (
            "the base: rows of its vocabulary: 4 its own, 2 from other models, 2 means of other models, "
            "2 the mean of all, as padding" in notes
        )


TOKENS = """
tokenizer:
  source: union
  tokens:
    z: {source: a}
    <im>: {source: {kind: zero}}
    x: {source: b, force: true}
    y: {source: {kind: model_token, model: base, token: <s>}}
    w: {source: {kind: model_token, model: a, token_id: 2}}
    <new>: {source: {kind: model_token, model: b, token: w}}
    <void>: {}
"""


class TestTokens:
    def test_each_kind_of_source(self, world):
        out = merged(LINEAR + TOKENS)
        sources = {"z": ("a", "z"), "<im>": None, "x": ("b", "x"), "y": ("base", "<s>"), "w": ("a", "x"),
                   "<new>": ("b", "w")}  # fmt: skip
        rows = expected(world, [*UNION, "<new>", "<void>"], base="base", sources=sources, force=("x",))
        np.testing.assert_allclose(out[EMBEDDING], mean_of(rows), rtol=1e-6)
        assert not out[EMBEDDING][9].any()

    def test_tokens_that_the_source_lacks_are_added(self, world):
        out = merged(LINEAR + "tokenizer: {source: base, tokens: {<im>: {source: a}, <end>: {}}}\n")
        rows = expected(
            world, ["<unk>", "x", "y", "<s>", "<im>", "<end>"], base="base", sources={"<im>": ("a", "<im>")}
        )
        np.testing.assert_allclose(out[EMBEDDING], mean_of(rows), rtol=1e-6)
        decoder = json.loads(Path("out/tokenizer_config.json").read_text())["added_tokens_decoder"]
        assert list(decoder) == ["3", "4", "5"]
        assert decoder["4"] == {k: v for k, v in added_token(4, "<im>").items() if k != "id"}

    def test_force_without_a_source_is_what_others_would_have(self, world):
        out = merged(LINEAR + "tokenizer: {source: base, tokens: {x: {force: true}}}\n")
        rows = expected(world, ["<unk>", "x", "y", "<s>"], base="base", force=("x",))
        np.testing.assert_allclose(out[EMBEDDING], mean_of(rows), rtol=1e-6)


class TestFiles:
    def test_all_but_the_list_of_added_tokens_stays_as_it_is_written(self, world):
        before = Path("base/tokenizer.json").read_text()
        merged(LINEAR + "tokenizer_source: union\n")
        after = Path("out/tokenizer.json").read_text()
        end = before.index('],\n  "normalizer"')
        assert after.startswith(before[:end].rstrip())
        assert after.endswith(before[end:])
        assert json.loads(after)["added_tokens"][:1] == json.loads(before)["added_tokens"]

    def test_every_added_token_is_one_for_the_library(self, world):
        tokenizers = pytest.importorskip("tokenizers", reason="pip install 'sdmw[parity]'")
        merged(LINEAR + TOKENS)
        library = tokenizers.Tokenizer.from_file("out/tokenizer.json")
        for number, token in enumerate([*UNION, "<new>", "<void>"]):
            assert library.encode(token, add_special_tokens=False).ids == [number]

    def test_tokens_that_only_the_config_adds_come_into_the_file(self, world):
        said = json.loads(Path("base/tokenizer.json").read_text())
        said["added_tokens"] = []
        Path("base/tokenizer.json").write_text(json.dumps(said))
        merged(LINEAR + "tokenizer_source: union\n")
        assert tokens_of("out") == {token: number for number, token in enumerate(UNION)}

    def test_a_tokenizer_without_a_list_of_added_tokens(self, world):
        said = json.loads(Path("base/tokenizer.json").read_text())
        del said["added_tokens"]
        said["model"]["vocab"]["<s>"] = 3
        Path("base/tokenizer.json").write_text(json.dumps(said))
        Path("base/tokenizer_config.json").unlink()
        merged(LINEAR + "tokenizer_source: union\n")
        assert tokens_of("out") == {token: number for number, token in enumerate(UNION)}
        assert not Path("out/tokenizer_config.json").exists()

    def test_another_model_s_template_comes_with_its_tokenizer(self, world):
        Path("base/chat_template.jinja").write_text("base")
        Path("a/chat_template.jinja").write_text("a")
        merged(LINEAR + "tokenizer_source: a\n")
        assert Path("out/chat_template.jinja").read_text() == "a"
        merged(LINEAR + "tokenizer_source: b\n", "other")
        assert not Path("other/chat_template.jinja").exists()

    def test_without_the_tokenizer(self, world):
        merged(LINEAR + "tokenizer_source: union\n", without=["tokenizer"])
        assert not [path.name for path in Path("out").glob("tokenizer*")]


class TestFaults:
    def test_unlike_vocabularies_say_which_lines_mend_it(self, world):
        found = problems_of(LINEAR)
        assert len(found) == 4
        assert all("rows as in the base" in each and "tokenizer_source: union" in each for each in found)

    @pytest.mark.parametrize("source", ["base", "union", "a"])
    def test_a_base_without_a_tokenizer(self, world, source):
        Path("base/tokenizer.json").unlink()
        (problem,) = problems_of(LINEAR + f"tokenizer_source: {source}\n")
        assert "base/tokenizer.json: expected a tokenizer, as the recipe aligns vocabularies, found none" in problem

    def test_another_form_of_tokenizer(self, world):
        Path("a/tokenizer.json").rename("a/tokenizer.model")
        (problem,) = problems_of(LINEAR + "tokenizer_source: union\n")
        assert (
            "a/tokenizer.json: expected a file with the tokens and their numbers, found only a tokenizer in another"
            in problem
        )

    def test_a_model_without_a_tokenizer_has_the_base_s(self, world):
        write_model("c", ["<unk>", "x", "y"], ["<s>"], seed=4)
        Path("c/tokenizer.json").unlink()
        recipe = ARITHMETIC.replace("{model: b}", "{model: c}") + "tokenizer_source: union\n"
        assert problems_of(recipe) == []
        assert "model 'c' has no tokenizer; the base's is assumed" in sdmw.plan("r.yaml").notes

    @pytest.mark.parametrize(
        ("source", "found"),
        [("a", "a token of model 'a', found no '<q>' among its tokens"),
         ("{kind: model_token, model: b, token: nil}", "a token of model 'b', found no 'nil' among its tokens"),
         ("{kind: model_token, model: b, token_id: 6}", "a token of model 'b', found number 6, which has no row "
         "in that model"),
         ("{kind: model_token, model: base, token: nil}", "a token of model 'base', found no 'nil' among its")],
    )  # fmt: skip
    def test_a_token_map_that_names_no_token(self, world, source, found):
        (problem,) = problems_of(LINEAR + f"tokenizer: {{tokens: {{<q>: {{source: {source}}}}}}}\n")
        assert f"recipe: tokenizer: tokens: '<q>': expected {found}" in problem

    def test_a_source_that_is_not_there(self, world):
        (problem,) = problems_of(LINEAR + "tokenizer_source: ./nowhere\n")
        assert "r.yaml:7:19: tokenizer_source: './nowhere'" in problem

    def test_merges_raise_them(self, world):
        with pytest.raises(PlanError, match="tokenizer_source: union"):
            merged(LINEAR)


class TestTemplates:
    @pytest.fixture
    def plain(self, world):
        """Three models with the base's tokens."""
        for name, text in (("c", "{{ c }}"), ("d", "{{ d }}"), ("e", "{{ d }}")):
            write_model(name, ["<unk>", "x", "y"], ["<s>"], seed=4)
            Path(name, "chat_template.jinja").write_text(text)

    def template(self, recipe, out="out"):
        models = "merge_method: linear\nbase_model: base\nmodels: [{model: c}, {model: d}, {model: e}]\n"
        merged(models + recipe, out)
        return Path(out, "chat_template.jinja").read_text()

    def test_what_most_models_have(self, plain):
        assert self.template("chat_template: auto\n") == "{{ d }}"
        Path("e/chat_template.jinja").write_text("{{ e }}")
        assert self.template("chat_template: auto\n", "first") == "{{ c }}"

    def test_none_has_one(self, world):
        (problem,) = problems_of(ARITHMETIC + "chat_template: auto\ntokenizer_source: base\n")
        assert problem.endswith(
            "chat_template: expected a model with a chat template, found none. Name a format, as chat_template: chatml"
        )

    def test_a_format_and_a_text(self, plain):
        assert "<|im_start|>" in self.template("chat_template: chatml\n")
        assert self.template("chat_template: '{{ mine }}'\n", "mine") == "{{ mine }}"

    def test_where_the_tokenizer_keeps_its_own(self, plain):
        said = json.loads(Path("base/tokenizer_config.json").read_text())
        Path("base/tokenizer_config.json").write_text(json.dumps({**said, "chat_template": "{{ base }}"}))
        merged(LINEAR + "tokenizer_source: union\nchat_template: '{{ mine }}'\n")
        said = json.loads(Path("out/tokenizer_config.json").read_text())
        assert said["chat_template"] == "{{ mine }}"
        assert said["added_tokens_decoder"].keys() == {"3", "4", "5", "6", "7"}
        assert not Path("out/chat_template.jinja").exists()


class TestDocuments:
    RECIPE = """
name: both
merge_method: linear
base_model: base
models: [{model: base}, {model: a}, {model: b}]
tokenizer_source: %s
---
merge_method: linear
base_model: base
models: [{model: both}, {model: b}]
tokenizer_source: %s
"""

    @pytest.mark.parametrize("source", ["union", "a"])
    @pytest.mark.parametrize("then", ["both", "base", "union"])
    def test_what_is_not_written_has_its_own_tokens(self, world, source, then):
        recipe = self.RECIPE % (source, then)
        out = merged(recipe, "at-once")
        written = merged(recipe, "by-turns", intermediate_dir="parts")
        by_hand = merged(recipe.partition("---")[2].replace("both", "parts/both"), "by-hand")
        for each in (written, by_hand):
            np.testing.assert_array_equal(out[EMBEDDING], each[EMBEDDING])
        files = {path.name: path.read_bytes() for path in Path("at-once").glob("*.json") if "report" not in path.name}
        for folder in ("by-turns", "by-hand"):
            assert {name: Path(folder, name).read_bytes() for name in files} == files
        assert tokens_of("at-once") == tokens_of("by-hand")

    def test_the_base_is_a_document(self, world):
        recipe = self.RECIPE % ("union", "base")
        recipe = recipe.replace("base_model: base\nmodels: [{model: both}", "base_model: both\nmodels: [{model: both}")
        out = merged(recipe)
        written = merged(recipe, "by-turns", intermediate_dir="parts")
        np.testing.assert_array_equal(out[EMBEDDING], written[EMBEDDING])
        assert tokens_of("out") == {token: number for number, token in enumerate(UNION)}
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
            assert Path("out", name).read_bytes() == Path("by-turns", name).read_bytes()


class TestOddTokenizers:
    def test_tokens_of_the_base_without_rows_keep_their_numbers(self, world):
        """They would be those of new tokens else."""
        said = json.loads(Path("base/tokenizer.json").read_text())
        said["added_tokens"].append(added_token(4, "<late>"))
        Path("base/tokenizer.json").write_text(json.dumps(said))
        out = merged(LINEAR + "tokenizer_source: union\n")
        assert tokens_of("out")["<late>"] == 4
        assert len(set(tokens_of("out").values())) == len(tokens_of("out")) == 9
        assert not out[EMBEDDING][4].any()
        assert merged(LINEAR + "tokenizer_source: base\n", "plain")[EMBEDDING].shape[0] == 4

    def test_a_token_without_a_row_that_the_recipe_asks_for(self, world):
        """The output has more rows than any input then, so none is spare."""
        for name in ("base", "a", "b"):
            rewritten(name, ["<unk>", "x", "y"], ["<s>", "<late>"], rows=4, seed=len(name))
        recipe = LINEAR + "tokenizer: {source: base, tokens: {<late>: {source: {kind: zero}}}}\n"
        out = merged(recipe)
        assert (out[EMBEDDING].shape[0], out[HEAD].shape[0], config()["vocab_size"]) == (5, 5, 5)
        assert not out[EMBEDDING][4].any()

    def test_numbers_that_no_token_has_are_zero(self, world):
        write_model("base2", {"<unk>": 0, "x": 1, "y": 3}, [(5, "<s>")], rows=6, seed=1)
        world["base2"] = load_file("base2/model.safetensors")
        out = merged(LINEAR.replace("base}", "base2}").replace(": base\n", ": base2\n") + "tokenizer_source: base\n")
        rows = expected(world, ["<unk>", "x", "y", "<s>"], names=("base2", "a", "b"), base="base2")
        np.testing.assert_allclose(out[EMBEDDING][[0, 1, 3, 5]], mean_of(rows), rtol=1e-6)
        assert not out[EMBEDDING][[2, 4]].any()

    def test_adapters_have_their_model_s_tokens_or_their_own(self, world):
        tensors = adapter_of(np.random.default_rng(3), world["a"], modules=("embed_tokens", "q_proj"))
        write_adapter("lora", tensors)
        (plan,) = [sdmw.plan({
            "merge_method": "task_arithmetic", "base_model": "base", "models": ["a+lora"], "tokenizer_source": "union",
        })]  # fmt: skip
        assert plan.problems == ()
        merged("merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: a+lora}]\ntokenizer_source: union\n")
        merged("merge_method: linear\nmodels: [{model: a+lora}]\n", "whole")
        alone = load_file("whole/model.safetensors")[EMBEDDING]
        out = load_file("out/model.safetensors")[EMBEDDING]
        order = [tokens_of("a").get(token) for token in sorted(tokens_of("out"), key=tokens_of("out").get)]
        np.testing.assert_allclose(out, alone[order], rtol=1e-5, atol=1e-6)

    def test_an_adapter_on_the_base_is_aligned_as_the_sum(self, world):
        write_adapter("lora", adapter_of(np.random.default_rng(3), world["base"], modules=("embed_tokens", "q_proj")))
        merged("merge_method: linear\nmodels: [{model: base+lora}]\n", "whole")
        whole = load_file("whole/model.safetensors")
        recipe = "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: M}, {model: b}]\n"
        out = merged(recipe.replace("M", "lora") + "tokenizer_source: union\n")
        Path("whole/tokenizer.json").write_bytes(Path("base/tokenizer.json").read_bytes())
        other = merged(recipe.replace("M", "whole") + "tokenizer_source: union\n", "other")
        assert whole[EMBEDDING].shape[0] < out[EMBEDDING].shape[0]
        np.testing.assert_allclose(out[EMBEDDING], other[EMBEDDING], rtol=1e-5, atol=1e-6)

    def test_any_executor_and_budget_gives_the_same_bits(self, world):
        recipe = LINEAR + "tokenizer: {source: union, pad_to_multiple_of: 7}\n"
        out = merged(recipe)
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            other = merged(recipe, "other", executor=pool, threads=2)
        for name, array in out.items():
            np.testing.assert_array_equal(array, other[name])

    def test_a_number_beyond_all_vocabularies_is_refused(self, world):
        write_model("far", {"<unk>": 0, "x": 2**30}, rows=2, seed=1)
        Path("far/config.json").unlink()
        Path("far/model.safetensors").unlink()
        (problem,) = problems_of(LINEAR + "tokenizer_source: far\n")
        assert "far/tokenizer.json: expected token numbers below 16,777,216, found 1,073,741,824" in problem


class TestNumbersOfAddedTokens:
    """What tokenizer.json says must be what the `tokenizers` library makes of it: that numbers added tokens itself."""

    @pytest.mark.parametrize(
        ("plain", "added", "said"),
        [
            ({"<unk>": 0, "x": 1, "y": 5}, (), "5 as the largest, but 3 comes next"),
            ({"<unk>": 0, "x": 1, "y": 2}, [(7, "<s>")], "7 as the largest, but 4 comes next"),
            ({"<unk>": 0, "x": 1, "y": 1}, (), "1 as the largest, but 3 comes next"),
        ],
        ids=["a gap", "an added token behind a gap", "two of one number"],
    )
    def test_a_source_whose_numbers_have_gaps_takes_no_more(self, world, plain, added, said):
        rewritten("base", plain, added, rows=8)
        (problem,) = problems_of(LINEAR + "tokenizer_source: union\n")
        assert said in problem
        assert problem.endswith("Choose another source of the tokenizer")
        assert problems_of(LINEAR + "tokenizer_source: a\n") == []

    def test_what_is_written_is_what_the_library_reads(self, world):
        tokenizers = pytest.importorskip("tokenizers")
        rewritten("a", ["<unk>", "y", "", "z"], ["<s>", "y", "<im>"])  # of which one is plain too, and one is empty
        merged(LINEAR + "tokenizer_source: union\n")
        read = tokenizers.Tokenizer.from_file("out/tokenizer.json")
        assert {token: read.token_to_id(token) for token in tokens_of("out")} == tokens_of("out")
        assert "" not in tokens_of("out")


class TestConfigsThatNameTokens:
    NAMED: ClassVar = {
        "eos_token_id": [3, 1], "suppress_tokens": [1, 2], "begin_suppress_tokens": [2],
        "bad_words_ids": [[1, 2], [0]], "forced_decoder_ids": [[1, 2], [2, None]], "lang_to_id": {"<x>": 1},
        "decoder_start_token_id": 99,
    }  # fmt: skip

    def test_all_get_the_new_numbers(self, world):
        Path("base/generation_config.json").write_text(json.dumps(self.NAMED))
        merged(LINEAR + "tokenizer_source: a\n")  # <unk> y x z <s> <im>
        assert json.loads(Path("out/generation_config.json").read_text()) == {
            "eos_token_id": [4, 2], "suppress_tokens": [2, 1], "begin_suppress_tokens": [1],
            "bad_words_ids": [[2, 1], [0]], "forced_decoder_ids": [[1, 1], [2, None]], "lang_to_id": {"<x>": 2},
            "decoder_start_token_id": 99,
        }  # fmt: skip

    def test_tokens_that_are_gone_are_named_no_more(self, world):
        said = {**self.NAMED, "pad_token_id": 2, "eos_token_id": 3}
        Path("base/generation_config.json").write_text(json.dumps(said))
        merged(LINEAR + "tokenizer_source: b\n")  # <unk> x w z <im> <end>
        found = json.loads(Path("out/generation_config.json").read_text())
        assert found == {
            "eos_token_id": None, "suppress_tokens": [1], "begin_suppress_tokens": [], "bad_words_ids": [[0]],
            "forced_decoder_ids": [[2, None]], "lang_to_id": {"<x>": 1}, "decoder_start_token_id": 99,
            "pad_token_id": None,
        }  # fmt: skip
        warnings = sdmw.plan("out.yaml").warnings
        assert (
            "generation_config.json: eos_token_id, pad_token_id: the output lacks these tokens, so these keys name none"
            in warnings
        )
        assert "config.json: eos_token_id: the output lacks these tokens, so these keys name none" in warnings

    def test_a_token_that_the_model_cannot_do_without_is_asked_for(self, world):
        rewritten("base", ["<unk>", "x", "y"], ["<s>", "<image>"], config={"image_token_index": 4})
        (problem,) = problems_of(LINEAR + "tokenizer_source: b\n")
        added = 'tokens: {"<image>": {"source": "base"}}'
        assert problem == (
            f"{Path('base').resolve()}/config.json: image_token_index: expected a token of the output, "
            "found '<image>', which the output lacks. Add it in the recipe, under tokenizer, beside its source: "
            f"{added}"
        )
        merged(LINEAR + f"tokenizer: {{source: b, {added}}}\n")
        assert config()["image_token_index"] == tokens_of("out")["<image>"] == 6


class TestOtherTensorsOfTokens:
    def more(self, name, tensors, **config):
        """A model with further tensors, saved again."""
        path = Path(name, "model.safetensors")
        save_file({**load_file(path), **tensors}, path)
        before = json.loads(Path(name, "config.json").read_text())
        Path(name, "config.json").write_text(json.dumps({**before, **config}))

    @pytest.mark.parametrize(
        ("tensor", "shape"),
        [("final_logits_bias", (1, 4)), ("model.embed_tokens_per_layer.weight", (4, 8))],
    )
    def test_what_cannot_be_aligned_is_refused(self, world, tensor, shape):
        for name in world:
            self.more(name, {tensor: np.ones(shape, np.float32)})
        (problem,) = problems_of(LINEAR + "tokenizer_source: union\n")
        assert f"{tensor}': expected only embeddings, heads and their biases for each token" in problem
        for name in ("a", "b"):
            Path(name, "tokenizer.json").write_bytes(Path("base/tokenizer.json").read_bytes())
            rewritten(name, ["<unk>", "x", "y"], ["<s>"], seed=4)
            self.more(name, {tensor: np.ones(shape, np.float32)})
        merged(LINEAR + "tokenizer_source: union\n")  # where nothing moves, nothing need be aligned

    def test_the_head_of_a_layer_for_drafting(self, world):
        """DeepSeek-V3."""
        name = "model.layers.1.shared_head.head.weight"
        for model in world:
            self.more(model, {name: world[model][HEAD] * np.float32(2)})
            world[model][name] = world[model][HEAD] * np.float32(2)
        out = merged(LINEAR + "tokenizer_source: union\n")
        np.testing.assert_allclose(out[name], mean_of(expected(world, UNION, tensor=name, base="base")), rtol=1e-6)

    def test_an_embedding_with_more_rows_than_the_head_has_tokens(self, world):
        """Llama 3.2 Vision: eight rows of the embedding are of tokens that are only read."""
        for name in ("base", "a", "b"):
            rewritten(name, ["<unk>", "x", "y"], ["<image>"], rows=3, seed=len(name), config={"image_token_index": 3})
            self.more(name, {EMBEDDING: np.full((11, 6), len(name), np.float32)}, vocab_size=3)
        Path("a/tokenizer_config.json").write_text("{}")  # so that files tell nothing
        for source in ("base", "union"):
            out = merged(LINEAR + f"tokenizer_source: {source}\n")
            assert (out[EMBEDDING].shape, out[HEAD].shape) == ((11, 6), (3, 6))
            assert (config()["vocab_size"], config()["image_token_index"]) == (3, 3)
        rewritten("b", ["<unk>", "x", "y", "z"], ["<image>"], rows=4, config={"image_token_index": 4})
        self.more("b", {EMBEDDING: np.ones((12, 6), np.float32)}, vocab_size=4)
        (problem, *_) = problems_of(LINEAR + "tokenizer_source: union\n")
        assert "expected the same number of rows in all tensors of its vocabulary" in problem

    def test_zeros_of_any_tensor_are_said(self, world):
        """The head comes from another slice than the embedding, and one of both lacks a token."""
        world = {name: rewritten(name, ["<unk>", "x"], more, seed=2) for name, more in (("a", ()), ("b", ["<im>"]))}
        for name in world:
            self.more(name, {Q.replace(".0.", ".1."): np.ones((6, 6), np.float32)}, num_hidden_layers=2)
        for first, last, zero in (("a", "b", EMBEDDING), ("b", "a", HEAD)):
            recipe = (
                "merge_method: passthrough\nbase_model: base\ntokenizer_source: union\nslices:\n"
                f"- sources: [{{model: {first}, layer_range: [0, 1]}}]\n"
                f"- sources: [{{model: {last}, layer_range: [1, 2]}}]\n"
            )
            out = merged(recipe)
            place = tokens_of("out")["<im>"]
            assert not out[zero][place].any()
            assert any(
                each.startswith("3 rows of the vocabulary have no token") for each in sdmw.plan("out.yaml").warnings
            )
