"""Models that call their tensors otherwise than the base: found by rule, said, and merged as if they did not."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import CONFIG, fine_tuned, llama_like, write_checkpoint
from sdmw.errors import PlanError, RecipeError

pytestmark = pytest.mark.usefixtures("tiny_tiles")
UNTIED = {**CONFIG, "tie_word_embeddings": False}


@pytest.fixture
def values(tmp_path, monkeypatch):
    """A base and two fine-tunes; the base and `two` are written, and `plain` is `one` under the base's names."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    base = llama_like(rng, "F32")
    found = {"base": base, "one": fine_tuned(rng, base), "two": fine_tuned(rng, base)}
    for name, folder in (("base", "base"), ("two", "two"), ("one", "plain")):
        write_checkpoint(folder, found[name], config=UNTIED)
    return found


def recipe(*models, method="linear", **fields):
    return {"merge_method": method, "base_model": "base", "models": list(models), **fields}


def merged(*models, out="out", **fields):
    report = sdmw.merge(recipe(*models, **fields), out, progress=False)
    assert sdmw.verify(out, sample=1, progress=False).problems == ()
    return load_file(f"{out}/model.safetensors"), report


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name].view(np.uint8), tensor.view(np.uint8), err_msg=name)


SPELLINGS = {
    "a prefix more": (lambda name: f"module.{name}", "all 9 names agree once 'module.' is left out"),
    "a prefix that nobody knows": (lambda name: f"student.inner.{name}", "once 'student.inner.' is left out"),
    "a prefix less": (lambda name: name.removeprefix("model."), "8 of 9 names agree once 'model.' is put before them"),
    "compiled parts": (lambda name: name.replace(".mlp.", "._orig_mod.mlp."), "once '_orig_mod.' is left out"),
    "old gamma": (lambda name: name.replace("norm.weight", "norm.gamma"), "'weight.' is written for 'gamma.'"),
}


@pytest.mark.parametrize("method", ["linear", "sdm_w"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_same_bits_as_under_the_base_s_names(values, spelling, method):
    rename, said = SPELLINGS[spelling]
    write_checkpoint("one", {rename(name): t for name, t in values["one"].items()}, config=UNTIED)
    expected, _ = merged("plain", "two", method=method, out="expected")
    found, report = merged("one", "two", method=method)
    assert_same(found, expected)
    (note,) = [note for note in report.notes if "names agree" in note]
    assert note.startswith("model 'one': ")
    assert said in note


@pytest.mark.parametrize("fields", [{}, {"missing": "base"}, {"extra": "take"}, {"missing": "base", "extra": "drop"}])
def test_no_field_lets_a_tensor_under_another_name_through(values, fields):
    write_checkpoint("one", {f"module.{name}": t for name, t in values["one"].items()}, config=UNTIED)
    found, report = merged("one", "two", **fields)
    assert_same(found, merged("plain", "two", out="expected")[0])
    assert report.missing == {}
    assert report.extra == {}


def test_in_slices_too_beyond_the_base_s_layers(values):
    deep = llama_like(np.random.default_rng(6), "F32", blocks=3)
    write_checkpoint(
        "deep", {f"module.{name}": t for name, t in deep.items()}, config={**UNTIED, "num_hidden_layers": 3}
    )
    write_checkpoint("same", deep, config={**UNTIED, "num_hidden_layers": 3})

    def stacked(model):
        slices = [{"sources": [{"model": "base", "layer_range": [0, 2]}]},
                  {"sources": [{"model": model, "layer_range": [1, 3]}]}]  # fmt: skip
        sdmw.merge({"merge_method": "passthrough", "slices": slices}, f"from-{model}", progress=False)
        return load_file(f"from-{model}/model.safetensors")

    assert_same(stacked("deep"), stacked("same"))


def test_the_recipe_s_rules_come_first(values):
    def odd(name):
        return name.replace("self_attn.q_proj", "attention.wq").replace("model.layers", "blocks")

    write_checkpoint("one", {odd(name): t for name, t in values["one"].items()}, config=UNTIED)
    rules = [
        {"model": "one", "from": r"blocks\.(\d+)\.attention\.wq\.weight",
         "to": r"model.layers.\1.self_attn.q_proj.weight"},
        {"model": "one", "from": r"blocks\.(.+)", "to": r"model.layers.\1"},
    ]  # fmt: skip
    with pytest.raises(PlanError, match="tensors named as in"):
        sdmw.merge(recipe("one", "two"), "out", progress=False)
    found, report = merged("one", "two", rename=rules)
    assert_same(found, merged("plain", "two", out="expected")[0])
    assert "model 'one': 6 tensors renamed as the recipe says" in report.notes
    told = sdmw.explain(recipe("one", "two", rename=rules), "model.layers.1.self_attn.q_proj.weight")
    assert [name for _, name, _ in told.read_from] == [
        "blocks.1.attention.wq.weight", "model.layers.1.self_attn.q_proj.weight",
    ]  # fmt: skip


def test_a_rule_that_no_tensor_matches_is_a_warning(values):
    plan = sdmw.plan(recipe("plain", "two", rename=[{"model": "two", "from": "lm_heat.*", "to": "lm_head.weight"}]))
    assert plan.problems == ()
    assert "rename: 'lm_heat.*' is the name of no tensor of model 'two'" in plan.warnings


def test_two_tensors_of_one_name_are_told(values):
    rules = [{"model": "two", "from": r"model\.layers\.\d+\.(.+)", "to": r"model.layers.0.\1"}]
    problems = sdmw.plan(recipe("plain", "two", rename=rules)).problems
    assert [str(problem) for problem in problems] == [
        f"rename of model 'two': expected another name for each tensor, found 'model.layers.0.{part}.weight' and "
        f"'model.layers.1.{part}.weight' both become 'model.layers.0.{part}.weight'"
        for part in ("input_layernorm", "mlp.up_proj", "self_attn.q_proj")
    ]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"model": "three", "from": "a", "to": "b"}, "rename.0.model: expected one of models, found 'three'"),
        ({"model": "tow", "from": "a", "to": "b"}, "found 'tow'. Did you mean two?"),
        ({"model": "base", "from": "a", "to": "b"}, "found the base, whose names the output has"),
        (
            {"model": "two", "from": "(a", "to": "b"},
            "rename.0.from: expected a regular expression of Python, found '(a'",
        ),
        (
            {"model": "two", "from": "(a)", "to": r"\2"},
            r"rename.0.to: expected a name with groups of `from`, found '\\2'",
        ),
        (
            {"model": "two", "from": "a" * 1001, "to": "b"},
            "rename.0.from: expected at most 1,000 characters, found 1,001",
        ),
        ({"model": "two", "form": "a", "to": "b"}, "rename.0.form: unknown field. Did you mean from?"),
        ({"model": "two", "from": "a"}, "rename.0.to: missing"),
        ({"from": "a", "to": "b"}, "rename.0.model: missing"),
        ("two", "rename.0: expected a mapping, found 'two'"),
    ],
)
def test_rules_that_are_none(values, rule, said):
    with pytest.raises(RecipeError) as caught:
        sdmw.plan(recipe("plain", "two", rename=[rule]))
    assert any(said in str(problem) for problem in caught.value.problems), caught.value.problems


def test_a_recipe_with_rules_is_written_and_read_as_it_is(values):
    rules = [{"model": "two", "from": r"module\.(.+)", "to": r"\1"}]
    sdmw.merge(recipe("plain", "two", rename=rules), "out", progress=False)
    assert (
        sdmw.plan("out/sdmw_recipe.yaml").recipe.rename == sdmw.plan(recipe("plain", "two", rename=rules)).recipe.rename
    )


LANGUAGE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False}
SEEING = {
    "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "tie_word_embeddings": False,
    "text_config": {"model_type": "llama", "tie_word_embeddings": False},
}  # fmt: skip


def seeing(language, *, old):
    """A vision-language model around a language model, as transformers 4 or 5 calls its tensors."""
    rng = np.random.default_rng(7)
    prefix = "" if old else "model."
    tower = {f"{prefix}vision_tower.{part}.layers.{n}.mlp.up_proj.weight": rng.normal(size=(4, 3)).astype(np.float32)
             for n in range(2) for part in (["vision_model.encoder"] if old else ["encoder"])}  # fmt: skip
    joint = {f"{prefix}multi_modal_projector.linear_1.weight": rng.normal(size=(4, 4)).astype(np.float32)}

    def called(name):
        if old:
            return f"language_model.{name}"
        return name.replace("model.", "model.language_model.") if name.startswith("model.") else name

    return {**tower, **joint, **{called(name): t for name, t in language.items()}}


@pytest.fixture
def eyes(values):
    """The base and `one` with the same eyes; `text` is the language model `two`."""
    for age in ("old", "new"):
        for name in ("base", "one"):
            write_checkpoint(f"{name}-{age}", seeing(values[name], old=age == "old"), config=SEEING)
    write_checkpoint("text", values["two"], config=LANGUAGE)
    return values


def test_versions_of_transformers_merge_with_each_other(eyes):
    def average(base, one):
        sdmw.merge(
            {"merge_method": "linear", "base_model": base, "models": [base, one]}, f"{base}+{one}", progress=False
        )
        return load_file(f"{base}+{one}/model.safetensors")

    new = average("base-new", "one-new")
    assert_same(average("base-new", "one-old"), new)
    old = average("base-old", "one-old")
    assert_same(average("base-old", "one-new"), old)
    assert sorted(map(bytes, new.values())) == sorted(map(bytes, old.values()))


@pytest.mark.parametrize("age", ["old", "new"])
def test_a_language_model_is_merged_into_one_that_sees(eyes, age):
    base = f"base-{age}"
    prefix = "language_model" if age == "old" else "model.language_model"
    fields = {"merge_method": "task_arithmetic", "base_model": base, "parameters": {"weight": 0.5}}
    report = sdmw.merge({**fields, "models": [{"model": "text", "into": prefix}]}, "out", progress=False)
    assert sdmw.verify("out", sample=1, progress=False).problems == ()
    whole = seeing(eyes["two"], old=age == "old")
    write_checkpoint("whole", whole, config=SEEING)
    sdmw.merge({**fields, "models": ["whole"]}, "expected", progress=False)
    assert_same(load_file("out/model.safetensors"), load_file("expected/model.safetensors"))
    assert f"model 'text' is merged into '{prefix}': 3 tensors outside are the base's" in report.notes
    assert report.missing == {}


@pytest.mark.parametrize("age", ["old", "new"])
def test_the_language_part_of_one_that_sees_is_a_model(eyes, age):
    fields = {"merge_method": "task_arithmetic", "base_model": "base", "parameters": {"weight": 0.5}}
    entry = {"model": f"one-{age}", "part": "model.language_model"}  # as it is in memory, whatever the file says
    report = sdmw.merge({**fields, "models": [entry]}, "out", progress=False)
    assert sdmw.verify("out", sample=1, progress=False).problems == ()
    sdmw.merge({**fields, "models": ["plain"]}, "expected", progress=False)
    assert_same(load_file("out/model.safetensors"), load_file("expected/model.safetensors"))
    said = f"model 'one-{age}': 3 tensors outside of 'model.language_model' left out, as the recipe says"
    assert said in report.notes


def test_parts_that_are_none_are_told_with_those_that_are(eyes):
    plan = sdmw.plan({"merge_method": "linear", "base_model": "base-new",
                      "models": ["base-new", {"model": "text", "into": "model.language"}]})  # fmt: skip
    (problem,) = plan.problems
    assert "into of model 'text': expected tensors of" in str(problem)
    assert "below 'model.language', found none. Its layers lie below" in str(problem)
    assert "'model.language_model'" in str(problem)


def test_without_saying_where_a_language_model_is_no_model_that_sees(eyes):
    problems = sdmw.plan({"merge_method": "linear", "base_model": "base-new", "models": ["base-new", "text"]}).problems
    assert {problem.mend for problem in problems} == {"Recipe field `missing: base` takes the base's values"}
    assert all("vision_tower" in str(each) or "multi_modal" in str(each) for each in problems)


FREQUENCIES, MASK, PLACES = "model.layers.{}.self_attn.rotary_emb.inv_freq", "h.0.attn.bias", "embeddings.position_ids"


def computed(value):
    """Tensors that older versions stored and loaders compute anew."""
    more = {FREQUENCIES.format(n): np.full(8, value, np.float32) for n in range(2)}
    return {**more, MASK: np.full((1, 1, 4, 4), value, np.float32), PLACES: np.arange(4)}


def test_what_loaders_compute_is_as_in_the_base(values):
    write_checkpoint("old-one", {**values["one"], **computed(1)}, config=UNTIED)
    found, report = merged("old-one", "two")
    assert_same(found, merged("plain", "two", out="expected")[0])
    assert "model 'old-one': 4 tensors that loaders compute are as in the base" in report.notes
    write_checkpoint("old-base", {**values["base"], **computed(1)}, config=UNTIED)
    fields = {"merge_method": "linear", "base_model": "old-base", "models": ["plain", "two"]}
    report = sdmw.merge(fields, "old", progress=False)
    assert_same(load_file("old/model.safetensors"), {**load_file("expected/model.safetensors"), **computed(1)})
    assert report.missing == {}


def test_a_bias_is_no_mask(values):
    write_checkpoint("biased", {**values["one"], "h.0.attn.bias": np.ones(4, np.float32)}, config=UNTIED)
    (problem,) = sdmw.plan(recipe("biased", "two")).problems
    assert "'h.0.attn.bias' is not in the base" in str(problem)
