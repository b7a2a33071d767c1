"""Models with experts, fused or separate, and what lies beside them; the problems of many tensors are few lines."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import write_checkpoint
from sdmw.errors import PlanError
from sdmw.tensors.joined import Joined
from sdmw.tensors.part import Part

pytestmark = pytest.mark.usefixtures("tiny_tiles")
CONFIG = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_hidden_layers": 2,
          "num_experts": 4, "tie_word_embeddings": False}  # fmt: skip
GPT_OSS = {**CONFIG, "model_type": "gpt_oss"}
INNER, HIDDEN = 6, 10


def apart(seed, *, experts=4, layers=2, inner=INNER, names=("gate_proj", "up_proj", "down_proj"), block="mlp"):
    """A small model whose experts have tensors of their own."""
    rng = np.random.default_rng(seed)
    found = {name: rng.normal(size=(40, HIDDEN)) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        found[f"{at}.{block}.gate.weight"] = rng.normal(size=(experts, HIDDEN))
        found[f"{at}.input_layernorm.weight"] = rng.normal(size=HIDDEN)
        for expert in range(experts):
            for name, shape in zip(names, ((inner, HIDDEN), (inner, HIDDEN), (HIDDEN, inner)), strict=True):
                found[f"{at}.{block}.experts.{expert}.{name}.weight"] = rng.normal(size=shape)
    return {name: value.astype(np.float32) for name, value in found.items()}


def fused(values, *, transposed=False, alternating=False, experts=4, layers=2):
    """The same model with its experts in two tensors a layer."""
    found = {name: value for name, value in values.items() if ".experts." not in name}
    for layer in range(layers):
        at = f"model.layers.{layer}.mlp.experts"
        each = [[values[f"{at}.{e}.{leaf}_proj.weight"] for leaf in ("gate", "up", "down")] for e in range(experts)]
        both = np.stack(
            [np.stack([gate, up], axis=1 if alternating else 0).reshape(-1, HIDDEN) for gate, up, _ in each]
        )
        down = np.stack([down for *_, down in each])
        found[f"{at}.gate_up_proj"] = both.transpose(0, 2, 1) if transposed else both
        found[f"{at}.down_proj"] = down.transpose(0, 2, 1) if transposed else down
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


FORMS = {
    "apart": (lambda values: values, CONFIG),
    "fused": (fused, CONFIG),
    "transposed": (lambda values: fused(values, transposed=True), {**CONFIG, "model_type": "qwen3_vl_moe"}),
    "alternating": (lambda values: fused(values, transposed=True, alternating=True), GPT_OSS),
    "alternating rows": (lambda values: fused(values, alternating=True), GPT_OSS),
}
PAIRS = [  # both of one kind: only names and shapes differ
    (base, model) for base in FORMS for model in FORMS
    if "apart" in (base, model) or ("alternating" in base) == ("alternating" in model)
]  # fmt: skip


def merged(base, *models, out, method="linear", **fields):
    recipe = {"merge_method": method, "base_model": base, "models": list(models), **fields}
    report = sdmw.merge(recipe, out, progress=False)
    assert sdmw.verify(out, sample=1, progress=False).problems == ()
    return load_file(f"{out}/model.safetensors"), report


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name].reshape(-1).view(np.uint8), tensor.reshape(-1).view(np.uint8), name)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Three models in every form, as `NUMBER-FORM`."""
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        for form, (change, config) in FORMS.items():
            write_checkpoint(f"{seed}-{form}", change(apart(seed)), config=config)


@pytest.mark.parametrize("method", ["linear", "sdm_w"])
@pytest.mark.parametrize(("base", "model"), PAIRS)
def test_any_form_merges_into_any_other(folders, base, model, method):
    """The bits are those of the models in the base's form."""
    expected, _ = merged(f"0-{base}", f"1-{base}", f"2-{base}", out="expected", method=method)
    found, report = merged(f"0-{base}", f"1-{model}", f"2-{base}", out="found", method=method)
    assert_same(found, expected)
    assert sum("experts of 2 layers are stored" in note for note in report.notes) == (base != model)


def test_an_explanation_names_the_stored_tensors(folders):
    recipe = {"merge_method": "linear", "base_model": "0-apart", "models": ["1-fused", "2-apart"]}
    told = sdmw.explain(recipe, "model.layers.1.mlp.experts.2.up_proj.weight")
    assert [name for _, name, _ in told.read_from] == [
        "model.layers.1.mlp.experts.gate_up_proj", "model.layers.1.mlp.experts.2.up_proj.weight",
    ]  # fmt: skip
    recipe = {"merge_method": "linear", "base_model": "0-fused", "models": ["1-apart"]}
    told = sdmw.explain(recipe, "model.layers.1.mlp.experts.down_proj")
    assert told.read_from[0][1].startswith("'model.layers.1.mlp.experts.0.down_proj.weight', ")


def test_bytes_read_are_those_stored(folders):
    recipe = {"merge_method": "linear", "base_model": "0-alternating", "models": ["1-apart", "2-fused"]}
    plan, stored = sdmw.plan(recipe), sum(value.nbytes for value in apart(0).values())
    assert plan.bytes_read == 2 * stored
    kinds = {type(each) for tensor in plan.tensors for each in tensor.inputs if "experts" in tensor.name}
    assert kinds == {Part}
    recipe = {"merge_method": "linear", "base_model": "0-fused", "models": ["1-apart"]}
    kinds = {type(each) for tensor in sdmw.plan(recipe).tensors for each in tensor.inputs if "experts" in tensor.name}
    assert kinds == {Joined}


def test_mixtral_s_names_are_qwen_s_by_rule(folders):
    """Its module, its router and its experts."""
    values = apart(1, names=("w1", "w3", "w2"), block="block_sparse_moe")
    write_checkpoint("mixtral", values, config={**CONFIG, "model_type": "mixtral"})
    for base in ("0-apart", "0-fused"):
        expected, _ = merged(base, base.replace("0", "1"), out=f"expected-{base}")
        assert_same(merged(base, "mixtral", out=f"found-{base}")[0], expected)


def test_the_recipe_s_names_go_before(folders):
    values = {name.replace("mlp.experts", "ffn.each"): value for name, value in apart(1).items()}
    write_checkpoint("odd", values, config=CONFIG)
    with pytest.raises(PlanError):
        merged("0-fused", "odd", out="found")
    expected, _ = merged("0-fused", "1-fused", out="expected")
    rule = {"model": "odd", "from": r"(.+)\.ffn\.each\.(.+)", "to": r"\1.mlp.experts.\2"}
    found, report = merged("0-fused", "odd", out="found", rename=[rule])
    assert_same(found, expected)
    assert "model 'odd': 24 tensors renamed as the recipe says" in report.notes


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_an_adapter_of_single_experts_on_any_form(folders, form, method):
    """Alone on the base, and on a model of its own: as with the twin that stores experts apart.

    Fused, the adapter gives values and not a delta, so that it is rounded once more.
    """
    change, _ = FORMS[form]
    rng = np.random.default_rng(8)
    experts = {name: t for name, t in apart(0).items() if "experts.1." in name or "experts.3.up" in name}
    write_adapter("lora", adapter_of(rng, experts, modules=("_proj",)), base_model_name_or_path=f"0-{form}")
    write_adapter("plain", adapter_of(rng, experts, modules=("_proj",)), base_model_name_or_path="0-apart")
    shutil.copy("lora/adapter_model.safetensors", "plain/adapter_model.safetensors")
    found, _ = merged(f"0-{form}", "lora", f"1-{form}+lora", out="found", method=method)
    expected, _ = merged("0-apart", "plain", "1-apart+plain", out="expected", method=method)
    if method == "linear":
        assert_same(found, change(expected))
    for name, value in change(expected).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_an_adapter_of_experts_on_the_base_leaves_its_form(folders):
    adapter = adapter_of(
        np.random.default_rng(8), {n: t for n, t in apart(0).items() if ".experts." in n}, modules=("_proj",)
    )
    write_adapter("lora", adapter, base_model_name_or_path="0-fused")
    found, _ = merged("0-fused+lora", "1-apart", out="out", method="task_arithmetic", parameters={"weight": 0.0})
    assert found.keys() == fused(apart(0)).keys()


def test_experts_of_other_numbers_are_one_line(folders):
    write_checkpoint("more", fused(apart(1, experts=5), experts=5), config=CONFIG)
    write_checkpoint("wider", fused(apart(1, inner=7)), config=CONFIG)
    for name, said in (("more", "5 experts of 6 by 10"), ("wider", "4 experts of 7 by 10")):
        (problem,) = sdmw.plan({"merge_method": "linear", "base_model": "0-apart", "models": [name]}).problems
        assert str(problem) == (
            f"model '{name}': experts 'model.layers.0.mlp.experts': expected 4 experts of 6 by 10 as in the base, "
            f"found {said}; the same in 1 other layer. Merge models with the same experts"
        )


def test_one_line_for_names_alike(folders):
    """A model with fewer experts, stored as the base's are: a line for them, and one for the routers."""
    write_checkpoint("less", apart(1, experts=3), config=CONFIG)
    routers, others = sdmw.plan({"merge_method": "linear", "base_model": "0-apart", "models": ["less"]}).problems
    assert "expected 4 rows as in the base, found 3 rows; the same for 1 other tensor with such names" in str(routers)
    assert routers.mend == "Merge fine-tunes of one base"  # no vocabulary, though rows alone differ
    assert others.expected == "6 tensors such as 'model.layers.0.mlp.experts.3.down_proj.weight'"
    assert others.found == "no such tensors"
    write_checkpoint("more", apart(1, experts=6), config=CONFIG)
    routers, others = sdmw.plan({"merge_method": "linear", "base_model": "0-apart", "models": ["more"]}).problems
    assert "12 tensors such as 'model.layers.0.mlp.experts.4.down_proj.weight' are not in the base" in str(others)


def test_layers_that_a_model_counts_are_for_no_drafting(folders):
    write_checkpoint("deep", with_more(apart(1), 1), config={**CONFIG, "num_hidden_layers": 3})
    plan = sdmw.plan({"merge_method": "linear", "base_model": "0-apart", "models": ["deep"], "extra": "take"})
    assert plan.problems == ()
    assert not any("drafting" in note for note in plan.notes)


def with_more(values, seed):
    """Layers for drafting behind the last, scales of the cache, and a bias of the router."""
    rng = np.random.default_rng(seed + 10)
    shapes = {f"model.layers.2.{part}.weight": (HIDDEN, HIDDEN) for part in ("eh_proj", "shared_head.head", "mlp.gate")}
    shapes |= {f"model.layers.{layer}.self_attn.{name}": () for layer in range(2) for name in ("k_scale", "v_scale")}
    shapes |= {f"model.layers.{layer}.mlp.gate.e_score_correction_bias": (4,) for layer in range(2)}
    return values | {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in shapes.items()}


def test_auxiliary_parts_are_merged_and_counted(folders):
    for seed in range(2):
        write_checkpoint(f"{seed}-all", with_more(apart(seed), seed), config=CONFIG)
    found, report = merged("0-all", "0-all", "1-all", out="out")
    one, two = with_more(apart(0), 0), with_more(apart(1), 1)
    assert found.keys() == one.keys()
    assert (
        "the output keeps 3 tensors of layers for drafting, 4 tensors of scales of the key-value cache, "
        "4 tensors of routers"
    ) in report.notes
    assert report.tally.copied_tensors == 0
    for name, value in found.items():
        np.testing.assert_allclose(value, (one[name] + two[name]) / 2, rtol=1e-6, atol=1e-7, err_msg=name)


def test_auxiliary_parts_that_only_the_base_has_are_kept_and_counted(folders):
    write_checkpoint("0-all", with_more(apart(0), 0), config=CONFIG)
    with pytest.raises(PlanError) as caught:
        merged("0-all", "1-fused", out="out")
    assert len(caught.value.problems) == 4  # the layer, both scales, the bias
    found, report = merged("0-all", "1-fused", out="out", missing="base", method="task_arithmetic",
                           parameters={"weight": 1.0})  # fmt: skip
    more = {name: value for name, value in with_more(apart(0), 0).items() if name not in apart(0)}
    assert_same({name: found[name] for name in more}, more)
    assert report.missing == {"1-fused": len(more)}


def test_a_filter_takes_routers_from_one_model(folders):
    def own(model, router):
        weight = [{"filter": "mlp.gate", "value": router}, {"value": 0.5}]
        return {"model": model, "parameters": {"weight": weight}}

    found, _ = merged("0-apart", own("1-fused", 1.0), own("2-apart", 0.0), out="out")
    one, two = apart(1), apart(2)
    for name, value in found.items():
        if name.endswith("mlp.gate.weight"):
            np.testing.assert_array_equal(value, one[name])
        else:
            np.testing.assert_allclose(value, (one[name] + two[name]) / 2, rtol=1e-6, atol=1e-7, err_msg=name)
