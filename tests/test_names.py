"""Models that call their tensors otherwise than the base: found by rule, said, and merged as if they did not."""

import json
from pathlib import Path

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
    "old gamma": (lambda name: name.replace("norm.weight", "norm.gamma"), "'weight' replaces 'gamma'"),
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
    assert "rename: 'lm_heat.*' matches no tensor of model 'two'" in plan.warnings


def test_two_tensors_of_one_name_are_told_once_for_each_rule(values):
    rules = [{"model": "two", "from": r"model\.layers\.\d+\.(.+)", "to": r"model.layers.0.\1"},
             {"model": "two", "from": r"lm_head\.weight", "to": "model.norm.weight"}]  # fmt: skip
    problems = sdmw.plan(recipe("plain", "two", rename=rules)).problems
    first = "model.layers.{}.input_layernorm.weight"
    said = "rename of model 'two': expected a different name for each tensor, found "
    assert sorted(map(str, problems)) == [
        f"{said}'{first.format(0)}' and '{first.format(1)}' both become '{first.format(0)}'; the same for 2 other "
        "tensors",
        f"{said}'model.norm.weight' and 'lm_head.weight' both become 'model.norm.weight'",
    ]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"model": "three", "from": "a", "to": "b"}, "rename.0.model: expected one of models, found 'three'"),
        ({"model": "tow", "from": "a", "to": "b"}, "found 'tow'. Did you mean two?"),
        ({"model": "base", "from": "a", "to": "b"}, "found the base, which names the output's tensors"),
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
    assert f"model 'text' is merged into '{prefix}': 3 tensors outside it are the base's" in report.notes
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
    assert str(problem).endswith("below 'model.language', found none. Write into: model.language_model")
    write_checkpoint("other", {"x.weight": eyes["two"]["model.norm.weight"]}, config=LANGUAGE)
    plan = sdmw.plan({"merge_method": "linear", "base_model": "base-old",
                      "models": ["base-old", {"model": "other", "into": "model.language"}]})  # fmt: skip
    assert plan.problems[0].mend == "Its layers are below 'model.language_model', 'model.vision_tower.encoder'"


def tower(prefix):
    """A part of `one` that sees, as a model of its own."""
    return {n.removeprefix(prefix): t + 1 for n, t in load_file("one-new/model.safetensors").items() if prefix in n}


@pytest.mark.parametrize("age", ["old", "new"])
@pytest.mark.parametrize("part", ["model.vision_tower", "model.multi_modal_projector"])
def test_what_is_merged_into_another_part_leaves_the_head_alone(eyes, age, part):
    """The head goes with the language model: it is not what a tower lacks."""
    write_checkpoint("tower", tower(f"{part}."), config={"model_type": "clip_vision_model"})
    base = load_file(f"base-{age}/model.safetensors")
    fields = {"merge_method": "linear", "base_model": f"base-{age}", "models": [{"model": "tower", "into": part}]}
    report = sdmw.merge(fields, "out", progress=False)
    found = load_file("out/model.safetensors")
    inside = {name for name in base if part.split(".")[-1] in name}
    assert_same({n: t for n, t in found.items() if n not in inside}, {n: base[n] for n in base.keys() - inside})
    assert sorted(found[name].tobytes() for name in inside) == sorted(t.tobytes() for t in tower(f"{part}.").values())
    assert report.missing == {}
    outside = f"{len(base) - len(inside)} tensors outside it are the base's"
    assert f"model 'tower' is merged into '{part}': {outside}" in report.notes


@pytest.mark.parametrize("age", ["old", "new"])
def test_a_tower_is_a_model_without_the_head(eyes, age):
    write_checkpoint("tower", tower("model.vision_tower."), config={"model_type": "clip_vision_model"})
    fields = {"merge_method": "linear", "base_model": "tower"}
    sdmw.merge({**fields, "models": [{"model": f"one-{age}", "part": "model.vision_tower"}]}, "out", progress=False)
    expected = {name: tensor - 1 for name, tensor in tower("model.vision_tower.").items()}
    found = load_file("out/model.safetensors")
    assert found.keys() == expected.keys()
    assert all(np.allclose(found[name], expected[name], atol=1e-6) for name in found)


TIED = {**CONFIG, "tie_word_embeddings": True}


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module."])
@pytest.mark.parametrize("fields", [{}, {"extra": "take"}, {"extra": "drop"}])
@pytest.mark.parametrize("differs", [False, True])
def test_a_head_within_a_wrapper_is_one_where_the_base_stores_none(values, prefix, fields, differs):
    embedding = values["one"]["model.embed_tokens.weight"]
    tied, head = values["one"].copy(), embedding + differs
    del tied["lm_head.weight"]
    write_checkpoint("tied", tied, config=TIED)
    for name, before in (("bare", ""), ("wrapped", prefix)):
        tensors = {before + n: t for n, t in {**tied, "lm_head.weight": head}.items()}
        write_checkpoint(name, tensors, config=UNTIED)
        sdmw.merge({"merge_method": "linear", "base_model": "tied", "models": [name], **fields}, f"of-{name}",
                   progress=False)  # fmt: skip
    found = load_file("of-wrapped/model.safetensors")
    assert_same(found, load_file("of-bare/model.safetensors"))
    assert found.keys() - tied.keys() == ({"lm_head.weight"} if differs else set())
    configs = [json.loads(Path(f"of-{name}/config.json").read_text()) for name in ("bare", "wrapped")]
    assert configs[0] == configs[1]


def test_what_is_taken_lies_in_no_wrapper(values):
    """A tensor that nothing in the base is like: a loader looks for it by the name that it has in memory."""
    more = {"module.score.weight": np.ones(3, np.float32)}
    write_checkpoint("one", {**{f"module.{n}": t for n, t in values["one"].items()}, **more}, config=UNTIED)
    found, _ = merged("one", "two", extra="take")
    assert "score.weight" in found
    assert not any("module" in name for name in found)


def test_two_rules_at_once(values):
    """Another prefix and the spelling of an older version."""
    write_checkpoint(
        "one", {f"inner.{n.replace('norm.weight', 'norm.gamma')}": t for n, t in values["one"].items()}, config=UNTIED
    )
    found, report = merged("one", "two")
    assert_same(found, merged("plain", "two", out="expected")[0])
    said = "all 9 names agree: 6 once 'inner.' is left out, 3 once 'inner.' is left out and 'weight' replaces"
    assert any(said in note for note in report.notes)


def bert(prefix, *more):
    rng = np.random.default_rng(9)
    names = [f"{prefix}encoder.layer.{n}.{part}.weight" for n in range(3) for part in ("query", "dense", "LayerNorm")]
    return {name: rng.normal(size=(4, 4)).astype(np.float32) for name in (*names, *more)}


@pytest.mark.parametrize("rules", [[], [{"model": "inner", "from": r"pooler\.(.+)", "to": r"bert.pooler.\1"}]])
def test_two_tensors_that_end_alike_are_no_evidence(tmp_path, monkeypatch, rules):
    """The pooler of one model and the transform of the other's head are two modules, and the recipe's words hold."""
    monkeypatch.chdir(tmp_path)
    parts = ("weight", "bias")
    head, pooler = (tuple(f"{at}.dense.{part}" for part in parts) for at in ("cls.predictions.transform", "pooler"))
    write_checkpoint("whole", whole := bert("bert.", *head), config={"model_type": "bert"})
    write_checkpoint("inner", {n: t + 1 for n, t in bert("", *pooler).items()}, config={"model_type": "bert"})
    fields = {"merge_method": "linear", "base_model": "whole", "models": ["inner"], "rename": rules}
    problems = sdmw.plan(fields).problems
    assert [each.mend.split("`")[1] for each in problems] == ["missing: base"] * 2 + ["extra: take"] * 2
    sdmw.merge({**fields, "missing": "base", "extra": "drop"}, "out", progress=False)
    assert_same(load_file("out/model.safetensors"), {n: t if n in head else t + 1 for n, t in whole.items()})


def within(language, prefix):
    return {name.replace("model.", prefix): tensor for name, tensor in language.items()}


@pytest.mark.parametrize("prefix", ["model.", "model.language_model."])
@pytest.mark.parametrize("fields", [{}, {"missing": "base"}])
def test_a_language_model_alone_is_told_where_it_belongs(values, prefix, fields):
    config = {"model_type": "qwen2_vl", "tie_word_embeddings": False}
    eyes = within(values["base"], prefix)
    eyes |= {
        f"visual.blocks.{n}.norm.weight": np.full(3, n, np.float32) for n in range(12)
    }  # more than there are below
    write_checkpoint("eyes", eyes, config=config)
    asked = {"merge_method": "linear", "base_model": "eyes", **fields}
    (problem,) = sdmw.plan({**asked, "models": ["two"]}).problems
    assert problem.mend == "Write into: model.language_model"
    for into in dict.fromkeys(("model.language_model", prefix)):  # as it is in memory, as it is stored
        sdmw.merge({**asked, "models": [{"model": "two", "into": into}]}, f"out-{into}", progress=False)
        assert_same(load_file(f"out-{into}/model.safetensors"), {**eyes, **within(values["two"], prefix)})


def test_many_kinds_of_tensors_are_one_line(values):
    more = {f"{letter}.weight": np.ones(3, np.float32) for letter in "abcdefg"}
    write_checkpoint("one", {**values["one"], **more}, config=UNTIED)
    (problem,) = sdmw.plan(recipe("one")).problems
    names = ", ".join(f"'{letter}.weight'" for letter in "abcde")
    assert problem.found == f"7 tensors such as {names} and 2 more are not in the base"
    write_checkpoint("more", {**values["base"], **more}, config=UNTIED)
    (problem,) = sdmw.plan({**recipe("plain"), "base_model": "more"}).problems
    assert problem.expected == f"7 tensors such as {names} and 2 more"


def test_without_saying_where_a_language_model_is_no_model_that_sees(eyes):
    problems = sdmw.plan({"merge_method": "linear", "base_model": "base-new", "models": ["base-new", "text"]}).problems
    assert {problem.mend for problem in problems} == {"Write `missing: base` in the recipe to take the base's values"}
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
    assert "model 'old-one': 4 tensors that loaders compute are stored or left out as in the base" in report.notes
    write_checkpoint("old-base", {**values["base"], **computed(1)}, config=UNTIED)
    fields = {"merge_method": "linear", "base_model": "old-base", "models": ["plain", "two"]}
    report = sdmw.merge(fields, "old", progress=False)
    assert_same(load_file("old/model.safetensors"), {**load_file("expected/model.safetensors"), **computed(1)})
    assert report.missing == {}


def test_one_tensor_that_loaders_compute_is_told_as_one(values):
    write_checkpoint("old-one", {**values["one"], PLACES: np.arange(4)}, config=UNTIED)
    _, report = merged("old-one", "two")
    assert "model 'old-one': 1 tensor that loaders compute is stored or left out as in the base" in report.notes


def test_a_bias_is_no_mask(values):
    write_checkpoint("biased", {**values["one"], "h.0.attn.bias": np.ones(4, np.float32)}, config=UNTIED)
    (problem,) = sdmw.plan(recipe("biased", "two")).problems
    assert "'h.0.attn.bias' is not in the base" in str(problem)
