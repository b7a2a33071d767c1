import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from recipes.asking import loaded, refused, sdm_w
from recipes.grammars import METHODS
from sdmw.errors import RecipeError
from sdmw.recipes.load import load
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import ModelEntry, Recipe, Rule

ALL_FIELDS = (
    "merge_method, name, models, slices, modules, base_model, parameters, dtype, out_dtype, nonfinite, missing, extra, "
    "integers, rename, tokenizer_source, tokenizer, chat_template, generation_config, random_seed"  # as listed
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


MISSING_MODELS = "models: missing. Write for instance models: [{model: ./corp}, {model: ./func}]"

SCALE = "a number, preserve_norm or {preserve_norm: model or layer}"
LAW = "linear, square or {power: a number, norm: 1 or 2, scope: model or layer}"


class TestGoodRecipes:
    def test_the_design_s_example(self, here):
        text = (
            "merge_method: sdm_w\nbase_model: ./base\nmodels:\n- model: ./corp\n  parameters: {weight: 1}\n"
            "- model: ./func\n  parameters: {weight: 1e-5, k: [10, 20]}\nparameters:\n"
            "  k: [{filter: mlp, value: 20}, {value: 10}]\n  normalization: {power: 5.5}\n  granularity: module\n"
            "  lambda: {filter: '*', value: [1, 0.5]}\ndtype: float32\nout_dtype: bfloat16\nnonfinite: pass\n"
            "missing: base\nextra: take\nintegers: base\nchat_template: ./func\ngeneration_config: ./corp\n"
        )
        (here / "my.yaml").write_text(text)
        assert loaded("./my.yaml") == Recipe(
            merge_method="sdm_w",
            models=(
                ModelEntry(ModelRef("./corp"), {"weight": (Rule(None, 1.0),)}),
                ModelEntry(ModelRef("./func"), {"weight": (Rule(None, 1e-5),), "k": (Rule(None, (10.0, 20.0)),)}),
            ),
            base_model=ModelRef("./base"),
            parameters={
                "k": (Rule("mlp", 20.0), Rule(None, 10.0)),
                "normalization": {"power": 5.5},
                "granularity": "module",
                "lambda": (Rule("*", (1.0, 0.5)),),
            },
            dtype="float32",
            out_dtype="bfloat16",
            nonfinite="pass",
            missing="base",
            extra="take",
            integers="base",
            chat_template="./func",
            generation_config="./corp",
            text=text,
            file="my.yaml",
        )

    @pytest.mark.parametrize("source", [Path("r.yaml"), "r.yaml"])
    def test_paths_of_every_kind(self, here, source):
        (here / "r.yaml").write_text("merge_method: linear\nmodels: [{model: a}]\n")
        assert loaded(source).file == "r.yaml"
        assert loaded(here / source).file == "r.yaml"

    def test_numbers_are_floats_even_where_ints_were_written(self):
        value = loaded(sdm_w(parameters={"k": 10})).parameters["k"][0].value
        assert isinstance(value, float)

    def test_numpy_scalars_and_paths_are_taken_from_python(self):
        recipe = loaded(sdm_w(base_model=Path("base"), parameters={"k": np.int64(3), "lambda": np.float32(0.5)}))
        assert (recipe.base_model, recipe.parameters) == (
            ModelRef("base"),
            {"k": (Rule(None, 3.0),), "lambda": (Rule(None, 0.5),)},
        )

    def test_any_mapping_and_tuples_will_do(self):
        assert loaded(MappingProxyType(sdm_w(models=({"model": "a"},)))).models == (ModelEntry(ModelRef("a")),)

    def test_empty_parameters(self):
        assert loaded(sdm_w(models=[{"model": "a", "parameters": None}])).models == (ModelEntry(ModelRef("a")),)

    def test_one_filter_alone_is_a_list_of_one(self):
        assert loaded(sdm_w(parameters={"k": {"filter": "mlp", "value": 3}})).parameters["k"] == (Rule("mlp", 3.0),)

    def test_flags_take_filters(self):
        flag = [{"filter": "mlp", "value": True}, {"value": False}]
        recipe = loaded(sdm_w(merge_method="task_arithmetic", parameters={"normalize": flag}))
        assert recipe.parameters["normalize"] == (Rule("mlp", True), Rule(None, False))

    def test_weights_beyond_one_and_below_zero(self):
        weights = [{"model": "a", "parameters": {"weight": -1}}, {"model": "b", "parameters": {"weight": 3e38}}]
        assert loaded(sdm_w(models=weights)).models[1].parameters["weight"] == (Rule(None, 3e38),)

    @pytest.mark.parametrize(("dtype", "out", "both"), [(None, None, None), ("float16", None, "float16")])
    def test_output_dtype(self, dtype, out, both):
        assert loaded(sdm_w(dtype=dtype, out_dtype=out)).output_dtype == both
        assert loaded(sdm_w(dtype=dtype, out_dtype="bfloat16")).output_dtype == "bfloat16"

    def test_a_loaded_recipe_can_be_pickled(self):
        recipe = loaded(sdm_w(parameters={"normalization": {"power": 2}}))
        assert pickle.loads(pickle.dumps(recipe)) == recipe

    def test_int8_mask_is_accepted_with_a_note(self):
        recipe = loaded(sdm_w(parameters={"int8_mask": True, "k": 1}))
        assert recipe.notes == ("int8_mask is accepted and changes nothing: masks take no memory here",)
        assert list(recipe.parameters) == ["k"]
        under_a_model = loaded(sdm_w(models=[{"model": "a", "parameters": {"int8_mask": True}}]))
        assert under_a_model.notes == recipe.notes


class TestByHandAndAgain:
    HAND = Recipe("sdm_w", models=[{"model": "./corp"}], base_model="./base", parameters={"k": 10})

    def test_by_hand_as_from_a_mapping(self):
        by_dict = loaded({"merge_method": "sdm_w", "base_model": "./base", "models": [{"model": "./corp"}],
                          "parameters": {"k": 10}})  # fmt: skip
        assert set(loaded(self.HAND).text.splitlines()) == set(by_dict.text.splitlines())
        assert replace(loaded(self.HAND), text="") == replace(by_dict, text="")
        assert loaded(self.HAND).models == (ModelEntry(ModelRef("./corp")),)

    def test_by_hand_with_our_own_types(self):
        hand = replace(self.HAND, models=(ModelEntry(ModelRef("a"), {"k": (Rule("mlp", (1, 2)), Rule(None, 3))}),))
        assert loaded(hand).models[0].parameters == {"k": (Rule("mlp", (1.0, 2.0)), Rule(None, 3.0))}

    def test_by_hand_is_checked(self):
        assert refused(replace(self.HAND, parameters={"k": 101}, dtype="fp32")) == [
            "dtype: expected float32, float16 or bfloat16, found 'fp32'. Did you mean float32?",
            "parameters.k: expected a number from 0 to 100, found 101",
        ]
        assert refused(Recipe(None, None)) == ["merge_method: missing. Write merge_method",
                                               MISSING_MODELS]  # fmt: skip

    def test_again_is_equal_and_keeps_text_and_file(self, here):
        (here / "r.yaml").write_text(
            "merge_method: sdm_w  # mine\nbase_model: base\n"
            "models: [{model: base, parameters: {weight: 1}}, {model: a}]\n"
            "parameters: {int8_mask: true, unknown: 3}\n"
        )
        once = loaded("r.yaml", ignore_unknown=True)
        assert loaded(once) == once
        assert "# mine" in once.text
        assert once.file == "r.yaml"
        assert len(once.notes) == 3

    def test_again_with_notes_that_come_again(self):
        once = loaded(sdm_w(merge_method="linear"))
        assert len(once.notes) == 1
        assert loaded(once) == once

    def test_a_changed_recipe_is_written_anew(self, here):
        (here / "r.yaml").write_text("merge_method: sdm_w  # mine\nbase_model: base\nmodels: [{model: a}]\n")
        changed = loaded(replace(loaded("r.yaml"), dtype="float16"))
        assert (changed.file, changed.text) == (
            "",
            "merge_method: sdm_w\nmodels:\n- model: a\nbase_model: base\ndtype: float16\n",
        )
        broken = loaded(replace(loaded("r.yaml"), text="[not yaml"))
        assert broken.text == "merge_method: sdm_w\nmodels:\n- model: a\nbase_model: base\n"

    def test_the_text_of_a_mapping_loads_again(self, here):
        once = loaded(sdm_w(parameters={"k": [{"filter": "mlp", "value": [1, 2]}], "lambda": 1e-5}))
        (here / "again.yaml").write_text(once.text)
        assert loaded("again.yaml") == replace(once, file="again.yaml")

    def test_what_would_be_too_large_to_read_again(self):
        assert refused(sdm_w(models=[{"model": f"{i}" + "x" * 4_000} for i in range(70)])) == [
            "recipe: larger than 262144 bytes when written. Is this a recipe?"
        ]

    def test_no_recipe_at_all(self):
        assert refused(3) == ["recipe: expected a path, a mapping or a Recipe, found int"]
        assert refused({}) == ["merge_method: missing. Write merge_method", MISSING_MODELS]


class TestFields:
    def test_every_problem_at_once_in_the_order_of_the_file(self, here):
        (here / "recipe.yaml").write_text(
            "merge_method: sdm_w\nbase_model: ./base\nmodels:\n  - model: ./corp\n    parameters: {weight: 1}\n"
            "    wieght: 0.6\n  - model: ./corp/\nparametres: {}\nparameters:\n  k: 120\n  granularity: modul\n"
            "dtype: 3\n"
        )
        assert refused("./recipe.yaml") == [
            "./recipe.yaml:4:3: models: expected weights for all fine-tunes or none, found none for './corp/'",
            "./recipe.yaml:6:5: models.0.wieght: unknown field. Did you mean weight?",
            "./recipe.yaml:7:12: models.1.model: expected each model once, found './corp/'. It is also models.0",
            "./recipe.yaml:8:1: parametres: unknown field. Did you mean parameters?",
            "./recipe.yaml:10:6: parameters.k: expected a number from 0 to 100, found 120",
            "./recipe.yaml:11:16: parameters.granularity: expected tensor, module, block, component or model, "
            "found 'modul'. Did you mean module?",
            "./recipe.yaml:12:8: dtype: expected float32, float16 or bfloat16, found 3",
        ]

    def test_what_is_missing_stands_where_it_should_be(self, here):
        (here / "r.yaml").write_text("base_model: b\nmodels:\n  - parameters: {}\n")
        assert refused("r.yaml") == [
            "r.yaml:1:1: merge_method: missing. Write merge_method",
            "r.yaml:3:5: models.0.model: missing. Write model",
        ]

    def test_a_fault_of_a_model_hides_none_of_its_parameters(self, here):
        (here / "r.yaml").write_text(
            "merge_method: sdm_w\nbase_model: b\nmodels:\n  - modl: c\n    parameters: {wieght: 1}\n"
        )
        assert refused("r.yaml") == [
            "r.yaml:4:5: models.0.model: missing. Write model",
            "r.yaml:4:5: models.0.modl: unknown field. Did you mean model?",
            "r.yaml:5:18: models.0.parameters.wieght: unknown parameter of sdm_w. Did you mean weight?",
        ]

    def test_unknown_fields(self):
        assert refused(sdm_w(zzz=1)) == [f"zzz: unknown field. Known: {ALL_FIELDS}"]
        assert refused(sdm_w(models=[{"model": "a", "weight": 1}])) == [
            "models.0.weight: unknown field. Write it under parameters"
        ]
        assert refused(sdm_w(k=1)) == ["k: unknown field. Write it under parameters"]
        assert refused(sdm_w(parameters={"k": {"value": 1, "fliter": "mlp"}})) == [
            "parameters.k.fliter: unknown field. Did you mean filter?"
        ]

    @pytest.mark.parametrize(
        ("fields", "problem"),
        [
            ({"models": []}, "models: expected at least one model, found an empty list"),
            ({"models": {"model": "a"}}, "models: expected a list, found a mapping"),
            ({"models": [3]}, "models.0: expected a mapping, found 3"),
            ({"models": [{"model": 7}]}, "models.0.model: expected text, found 7. Put it in quotes"),
            ({"models": [{"model": ""}]}, "models.0.model: expected text, found ''"),
            ({"models": [{"model": "a", "parameters": 1}]}, "models.0.parameters: expected a mapping, found 1"),
            ({"parameters": [1]}, "parameters: expected a mapping, found a list"),
            ({"base_model": True}, "base_model: expected text, found true. Put it in quotes"),
            ({"dtype": "float64"}, "dtype: float64 is not supported yet. Write float32, float16 or bfloat16"),
            ({"dtype": "bf16"}, "dtype: expected float32, float16 or bfloat16, found 'bf16'. Did you mean bfloat16?"),
            ({"out_dtype": "x"}, "out_dtype: expected float32, float16 or bfloat16, found 'x'"),
            ({"nonfinite": "base"}, "nonfinite: expected error or pass, found 'base'"),
            ({"missing": "take"}, "missing: expected error or base, found 'take'"),
            ({"extra": "tak"}, "extra: expected error, take or drop, found 'tak'. Did you mean take?"),
            ({"integers": "take"}, "integers: expected error or base, found 'take'"),
            ({"chat_template": "chatmll"}, "chat_template: expected base, one of models, auto, alpaca, chatml, "
                                           "exaone, llama3, mistral, or a template, "
                                           "found 'chatmll'. Did you mean chatml?"),
            ({"random_seed": -1}, "random_seed: expected a whole number from 0, found -1"),
            ({"generation_config": 3}, "generation_config: expected text, found 3. Put it in quotes"),
            ({"models": [{"model": "a\0"}]}, r"models.0.model: expected a path or a Hub name, found 'a\x00'"),
            ({"base_model": "a\ud800"}, r"base_model: expected text that can be written as UTF-8, found 'a\ud800'"),
            ({"base_model": b"a"}, "base_model: expected text, a number, true, false, a list or a mapping, "
                                   "found bytes"),
            ({"parameters": {3: 1}}, "parameters.'3': expected a name, found 3"),
            ({"parameters": {"k": 10**400}}, "parameters.k: expected a number, found int too large for a float"),
        ],
    )  # fmt: skip
    def test_each_fault_of_shape(self, fields, problem):
        assert refused(sdm_w(**fields)) == [problem]

    def test_methods(self):
        assert refused(sdm_w(merge_method="sdmw")) == ["merge_method: unknown merge method 'sdmw'. Did you mean sdm_w?"]
        assert refused(sdm_w(merge_method="SDM_W")) == [
            "merge_method: unknown merge method 'SDM_W'. Did you mean sdm_w?"
        ]
        assert refused(sdm_w(merge_method=3)) == ["merge_method: expected text, found 3. Put it in quotes"]

    def test_a_method_that_is_not_known_hides_nothing_else(self):
        assert len(refused(sdm_w(merge_method="x", models=[{"model": "a"}, {"model": "a"}], zzz=1))) == 3

    def test_the_most_problems(self):
        problems = refused({f"x{i}": 1 for i in range(100)})
        assert len(problems) == 53
        assert problems[-1] == "recipe: and 50 more problems of this kind"


class TestIgnoreUnknown:
    def test_each_is_said_at_its_place(self, here):
        (here / "r.yaml").write_text(
            "merge_method: sdm_w\nbase_model: b\nmodels:\n- model: a\n  wieght: 1\nzzz: 3\nchat_template: autos\n"
            "parameters:\n  density: 3\n  k: {value: 3, zz: 1}\n"
        )
        recipe = loaded("r.yaml", ignore_unknown=True)
        assert recipe.notes == (
            "ignored: unknown field models.0.wieght at r.yaml:5:3",
            "ignored: unknown field zzz at r.yaml:6:1",
            "ignored: unsupported value of chat_template at r.yaml:7:1",
            "ignored: unknown parameter parameters.density at r.yaml:9:3",
            "ignored: unknown field parameters.k.zz at r.yaml:10:17",
        )
        assert recipe.parameters == {"k": (Rule(None, 3.0),)}
        assert len(refused("r.yaml")) == 5

    def test_of_a_mapping_the_text_leaves_them_out(self, here):
        recipe = loaded(sdm_w(zzz=1, parameters={"density": 3, "k": 1}), ignore_unknown=True)
        assert recipe.notes == ("ignored: unknown field zzz", "ignored: unknown parameter parameters.density")
        (here / "r.yaml").write_text(recipe.text)
        assert loaded("r.yaml").parameters == {"k": (Rule(None, 1.0),)}

    def test_faults_stay_faults(self):
        assert len(refused(sdm_w(zzz=1, parameters={"k": 101}), ignore_unknown=True)) == 1


class TestModels:
    def test_the_base_among_models_is_taken_out_with_a_note(self, here):
        (here / "link").symlink_to("base")
        for spelling in ("./base", "base/", str(here / "base"), "x/../base", "link"):
            recipe = loaded(
                sdm_w(models=[{"model": spelling, "parameters": {"weight": 1, "density": 1}}, {"model": "a"}])
            )
            assert recipe.models == (ModelEntry(ModelRef("a")),)
            assert recipe.notes == (
                f"'{spelling}' among models is base_model: its weight and other parameters are ignored",
            )

    def test_for_linear_it_is_a_model(self):
        recipe = loaded(sdm_w(merge_method="linear", models=[{"model": "./base"}, {"model": "a"}]))
        assert (len(recipe.models), recipe.notes) == (2, ())

    def test_for_linear_a_base_beside_the_models_is_noted(self):
        assert loaded(sdm_w(merge_method="linear")).notes == (
            "base_model './base' is not among models: it gives config, tokenizer and names and is not merged",
        )
        assert loaded(sdm_w(merge_method="linear", base_model=None)).notes == ()

    def test_the_base_is_compulsory_where_deltas_are_taken(self):
        assert refused(sdm_w(base_model=None)) == [
            "base_model: missing. Write base_model: sdm_w merges the changes to it"
        ]

    def test_only_the_base(self):
        assert refused(sdm_w(models=[{"model": "base"}])) == [
            "models: expected at least one fine-tune, found only the base"
        ]

    def test_twice(self, here, monkeypatch):
        monkeypatch.setenv("HOME", str(here))
        assert refused(sdm_w(models=[{"model": "./a"}, {"model": "b"}, {"model": "~/x/../a"}])) == [
            "models.2.model: expected each model once, found '~/x/../a'. It is also models.0"
        ]
        assert len(refused(sdm_w(models=[{"model": "o/m@v1"}, {"model": "o/m@v1"}]))) == 1
        assert len(loaded(sdm_w(models=[{"model": "o/m@v1"}, {"model": "o/m@v2"}])).models) == 2

    def test_without_a_working_directory(self, here, monkeypatch):
        (here / "gone").mkdir()
        monkeypatch.chdir(here / "gone")
        (here / "gone").rmdir()
        assert len(refused(sdm_w(models=[{"model": "a"}, {"model": "a"}]))) == 1

    def test_an_at_in_a_directory_s_name(self, here):
        for name in ("m@1", "m@2"):
            (here / name).mkdir()
        assert len(loaded(sdm_w(models=[{"model": "m@1"}, {"model": "m@2"}])).models) == 2

    def test_adapters(self, here):
        names = ["a+x", "a@r+y/z@s", "a+z"]
        assert [str(entry.model) for entry in loaded(sdm_w(models=[{"model": name} for name in names])).models] == names
        (here / "c++").mkdir()
        assert loaded(sdm_w(models=[{"model": "c++"}, {"model": "c++@main"}])).models[0].model == ModelRef("c++")
        assert refused(sdm_w(base_model="+x", models=[{"model": "a+"}, {"model": "a+b"}, {"model": "./a+b/"}])) == [
            "base_model: expected model+adapter, found '+x'",
            "models.0.model: expected model+adapter, found 'a+'",
            "models.2.model: expected each model once, found './a+b/'. It is also models.1",
        ]

    def test_mergekit_s_long_form(self):
        models = [
            {"model": {"model": {"path": "a", "revision": "r"}, "lora": None}},
            {"model": {"model": "b", "lora": "c"}},
        ]
        recipe = loaded(sdm_w(base_model={"model": {"path": "base"}}, models=models))
        assert recipe.base_model == ModelRef("base")
        assert [entry.model for entry in recipe.models] == [ModelRef("a", "r"), ModelRef("b", adapter=ModelRef("c"))]
        long = {"model": {"path": "a"}, "lora": {"path": "x", "revision": "v2"}}
        assert loaded(sdm_w(models=[{"model": long}])).models[0].model == ModelRef("a", adapter=ModelRef("x", "v2"))

    def test_what_mergekit_s_forms_say_in_vain_is_a_note(self):
        long = {"model": {"path": "a"}, "override_architecture": "LlamaForCausalLM"}
        slices = [{"sources": [{"model": long, "layer_range": [0, 1], "residual_weight": 0.5}]}]
        recipe = loaded({"merge_method": "linear", "slices": slices, "dtype": "torch.bfloat16"})
        assert recipe.dtype == "bfloat16"
        assert recipe.notes == (
            "slices.0.sources.0.model.override_architecture has no effect: names decide what can be merged",
            "slices.0.sources.0.residual_weight has no effect, as in mergekit",
        )

    def test_mergekit_s_long_form_at_fault(self):
        long = {"model": {"path": "a"}, "lora": {"path": 3}, "override_architecture": "X"}
        assert refused(sdm_w(models=[{"model": long}])) == [
            "models.0.model.lora.path: expected text, found 3. Put it in quotes",
        ]
        assert refused(sdm_w(models=[{"model": {"model": {"path": 3}, "lara": 1}}, {"model": {"path": "a"}}])) == [
            "models.0.model.model.path: expected text, found 3. Put it in quotes",
            "models.0.model.lara: unknown field. Did you mean lora?",
            "models.1.model.model: missing. Write model",
            "models.1.model.path: unknown field. Known: model, lora, override_architecture",
        ]

    def test_weights_are_for_all_or_none(self):
        weighed = [{"model": "a", "parameters": {"weight": 1}}, {"model": "b"}, {"model": "c", "parameters": {"k": 1}}]
        assert refused(sdm_w(models=weighed)) == [
            "models: expected weights for all fine-tunes or none, found none for 'b', 'c'"
        ]
        assert loaded(sdm_w(models=weighed, parameters={"weight": 1})).parameters == {"weight": (Rule(None, 1.0),)}
        assert loaded(sdm_w(models=[{"model": "base"}, weighed[0]])).models[0].model == ModelRef("a")
        many = refused(sdm_w(models=[weighed[0], *({"model": f"m{i}"} for i in range(12))]))
        assert many[0].endswith("'m9' and 2 more")


class TestParameters:
    @pytest.mark.parametrize(
        ("given", "problem"),
        [
            ({"k": None}, "parameters.k: expected a number from 0 to 100, found nothing"),
            ({"k": "1e3"}, "parameters.k: expected a number from 0 to 100, found '1e3'"),
            ({"k": "ten"}, "parameters.k: expected a number from 0 to 100, found 'ten'"),
            ({"k": -0.1}, "parameters.k: expected a number from 0 to 100, found -0.1"),
            ({"k": {"value": []}}, "parameters.k.value: expected a number from 0 to 100, found an empty list"),
            ({"k": {"value": 1, "exclude": 3}}, "parameters.k.exclude: expected a list, found 3"),
            ({"k": [1, [2]]}, "parameters.k.1: expected a number from 0 to 100, found a list"),
            ({"k": [1, {"value": 2}]}, "parameters.k.0: expected {filter, value}, found 1. "
                                       "A list holds only numbers, or only {filter, value}"),
            ({"k": {"filter": "mlp"}}, "parameters.k.value: missing. Write value"),
            ({"k": {"filter": 3, "value": 1}}, "parameters.k.filter: expected text, found 3. Put it in quotes"),
            ({"k": {"value": {"value": 1}}}, "parameters.k.value: expected a number from 0 to 100, found a mapping"),
            ({"lambda": float("nan")}, "parameters.lambda: expected a number that is finite as float32, found nan"),
            ({"lambda": float("inf")}, "parameters.lambda: expected a number that is finite as float32, found inf"),
            ({"lambda": "preserve_nrom"}, f"parameters.lambda: expected {SCALE}, found 'preserve_nrom'. "
                                          "Did you mean preserve_norm?"),
            ({"lambda": {"preserve_norm": "tensor"}},
             "parameters.lambda.preserve_norm: expected model or layer, found 'tensor'"),
            ({"lambda": {"preserve_norm": "layer", "value": 1}},
             f"parameters.lambda: expected {SCALE}, found a mapping. lambda takes neither filter nor gradient"),
            ({"weight": 3.41e38}, "parameters.weight: expected a number that is finite as float32, found 3.41e+38"),
            ({"weight": 10**300}, "parameters.weight: expected a number that is finite as float32, "
                                  f"found 1{'0' * 199}…0"),
            ({"density": 0.9}, "parameters.density: unknown parameter of sdm_w. "
                               "Write k: 10, the percentage that is dropped"),
            ({"density": [1]}, "parameters.density: unknown parameter of sdm_w. "
                               "Write k, the percentage that is dropped"),
            ({"densities": 1}, "parameters.densities: unknown parameter of sdm_w. "
                             "Known: k, weight, normalization, granularity, percentile, lambda"),
            ({"lamda": 1}, "parameters.lamda: unknown parameter of sdm_w. Did you mean lambda?"),
            ({"percentile": "exakt"}, "parameters.percentile: expected exact or approximate, found 'exakt'. "
                                      "Did you mean exact?"),
            ({"percentile": {"power": 1}}, "parameters.percentile: expected exact or approximate, found a mapping"),
            ({"normalization": 2}, f"parameters.normalization: expected {LAW}, found 2"),
            ({"normalization": {"value": "linear"}},
             f"parameters.normalization: expected {LAW}, found a mapping. "
             "normalization takes neither filter nor gradient"),
            ({"normalization": {"power": 1, "x": 2}},
             f"parameters.normalization: expected {LAW}, found a mapping"),
            ({"normalization": {"norm": 2}},
             f"parameters.normalization: expected {LAW}, found a mapping"),
            ({"normalization": {"power": 1, "norm": 3}}, "parameters.normalization.norm: expected 1 or 2, found 3"),
            ({"normalization": {"power": 1, "norm": True}},
             "parameters.normalization.norm: expected 1 or 2, found true"),
            ({"normalization": {"power": 1, "scope": "layers"}},
             "parameters.normalization.scope: expected model or layer, found 'layers'. Did you mean layer?"),
            ({"normalization": {"power": 1, "scope": ["layer"]}},
             "parameters.normalization.scope: expected model or layer, found a list"),
            ({"weight": 1, "normalization": {"power": 1, "scope": "layer"}},
             "parameters.normalization.scope: layer, although weight is given: parameters.weight. "
             "Leave out scope, or weight everywhere"),
            ({"normalization": {"power": True}},
             "parameters.normalization.power: expected a finite number, found true"),
            ({"normalization": {"power": "two"}},
             "parameters.normalization.power: expected a finite number, found 'two'"),
            ({"normalization": {"power": float("inf")}},
             "parameters.normalization.power: expected a finite number, found inf"),
        ],
    )  # fmt: skip
    def test_each_fault(self, given, problem):
        assert refused(sdm_w(parameters=given)) == [problem]

    @pytest.mark.parametrize(
        ("given", "problem"),
        [
            ({"normalize": 2}, "parameters.normalize: expected true or false, found 2"),
            ({"normalize": 0.5}, "parameters.normalize: expected true or false, found 0.5"),
            ({"normalize": "maybe"}, "parameters.normalize: expected true or false, found 'maybe'"),
            ({"normalize": [True, 0.5]}, "parameters.normalize.1: expected true or false, found 0.5"),
        ],
    )
    def test_each_fault_of_a_flag(self, given, problem):
        assert refused(sdm_w(merge_method="task_arithmetic", parameters=given)) == [problem]

    @pytest.mark.parametrize(
        ("given", "value"), [("1e-4", 1e-4), (True, 1.0), (False, 0.0), ("3", 3.0), ([0, "0.5"], (0.0, 0.5))]
    )
    def test_numbers_that_yaml_1_1_takes_for_something_else(self, given, value):
        assert loaded(sdm_w(parameters={"lambda": given})).parameters["lambda"] == (Rule(None, value),)

    @pytest.mark.parametrize(
        ("given", "value"),
        [("yes", True), ("On", True), (1, True), ("1", True), ("no", False), ("OFF", False), (0, False), ("y", True),
         ("F", False), (1.0, True), (0.0, False), ([True, "no"], (True, False))],
    )  # fmt: skip
    def test_flags_in_all_words(self, given, value):
        recipe = loaded(sdm_w(merge_method="task_arithmetic", parameters={"normalize": given}))
        assert recipe.parameters["normalize"] == (Rule(None, value),)

    def test_nothing_in_mergekit_s_fields_is_no_field(self):
        nothing = dict.fromkeys(("chat_template", "tokenizer", "tokenizer_source", "slices", "modules", "out_dtype"))
        assert replace(loaded({**sdm_w(), **nothing}), text="") == replace(loaded(sdm_w()), text="")

    def test_an_empty_list_says_nothing(self):
        assert loaded(sdm_w(parameters={"k": []})).parameters["k"] == ()

    @pytest.mark.parametrize(("exclude", "words"), [("mlp", ("mlp",)), (["mlp", "norm"], ("mlp", "norm"))])
    def test_what_a_rule_does_not_speak_of(self, exclude, words):
        rule = {"filter": "layers", "exclude": exclude, "value": 3}
        once = loaded(sdm_w(parameters={"k": rule}))
        assert once.parameters["k"] == (Rule("layers", 3.0, words),)
        assert loaded(once) == once

    def test_what_does_not_vary(self):
        recipe = {"merge_method": "odd", "models": [{"model": "a"}]}
        assert refused({**recipe, "parameters": {"low": [1, 2], "high": {"value": 1}}}) == [
            "parameters.low: expected a number of at least 1, found a list; low takes neither filter nor gradient",
            "parameters.high: expected a number of at most 2, found a mapping; high takes neither filter nor gradient",
        ]
        assert refused({**recipe, "parameters": {"low": 0, "high": 3}}) == [
            "parameters.low: expected a number of at least 1, found 0",
            "parameters.high: expected a number of at most 2, found 3",
        ]
        once = loaded({**recipe, "parameters": {"low": 1}})
        assert loaded(once) == once

    @pytest.mark.parametrize("given", ["preserve_norm", {"preserve_norm": "layer"}])
    def test_a_word_for_a_number(self, given):
        once = loaded(sdm_w(parameters={"lambda": given}))
        assert once.parameters["lambda"] == given
        assert loaded(once) == once

    def test_a_word_for_a_number_stands_at_the_top_and_alone(self):
        sources = [{"model": name, "layer_range": [0, 1]} for name in "ab"]
        parts = [{"sources": sources, "parameters": {"lambda": given}} for given in ("preserve_norm", 0.5)]
        recipe = {
            "merge_method": "sdm_w",
            "base_model": "b",
            "slices": parts,
            "parameters": {"lambda": "preserve_norm"},
        }
        assert refused(recipe) == [
            "slices.0.parameters.lambda: lambda belongs at the top level only. Move it to the top level's parameters",
            "slices.1.parameters.lambda: a number, but the top level's lambda is not one. "
            "Leave it out here, or write numbers everywhere",
        ]

    def test_what_stands_at_the_top_only(self):
        models = [{"model": "a", "parameters": {"normalization": "linear"}}]
        assert refused(sdm_w(models=models)) == [
            "models.0.parameters.normalization: normalization belongs at the top level only. "
            "Move it to the top level's parameters"
        ]

    @pytest.mark.parametrize("k", [0, 100, 0.0, 1e-5, [0, 100], [50]])
    def test_the_range_is_closed(self, k):
        assert loaded(sdm_w(parameters={"k": k}))

    def test_the_largest_float32(self):
        largest = float(np.finfo(np.float32).max)
        assert loaded(sdm_w(parameters={"lambda": largest})).parameters["lambda"] == (Rule(None, largest),)
        with pytest.raises(RecipeError):
            load(sdm_w(parameters={"lambda": largest * (1 + 2**-24)}), METHODS)


def test_the_recipe_s_types_are_light():
    code = "import sys, sdmw.recipes.recipe; print(sorted({'pydantic', 'ruamel', 'numpy'} & set(sys.modules)))"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


class TestWhatPeopleWrite:
    @pytest.mark.parametrize(
        ("recipe", "problem"),
        [
            ({"base_model": "a", "gate_mode": "hidden", "experts": [{"source_model": "b"}]},
             "experts: expected a merge, found a mixture of experts, which sdmw does not build. "
             "Build it with mergekit-moe; its experts can be merged"),
            ({"genome": {"models": ["a"]}, "tasks": []},
             "genome: expected a merge, found a search for a recipe, which sdmw does not do. "
             "Search with mergekit-evolve; its result is a recipe"),
        ],
    )  # fmt: skip
    def test_what_is_no_recipe_of_a_merge(self, recipe, problem):
        assert refused(recipe) == [problem]
        assert len(refused({**recipe, "merge_method": "linear", "models": ["a"]})) > 1

    def test_a_name_alone_is_a_model(self):
        assert (
            loaded(sdm_w(models=["./a", {"model": "./b"}])).models
            == loaded(sdm_w(models=[{"model": "./a"}, {"model": "./b"}])).models
        )

    def test_ranges_among_models_and_a_mask_at_the_top_change_nothing(self):
        models = [{"model": "./corp", "layer_range": [0, 32]}, {"model": "./func", "layer_range": None}]
        recipe = loaded(sdm_w(models=models, int8_mask=True))
        assert recipe.models == loaded(sdm_w()).models
        assert recipe.notes == (
            "models.0.layer_range has no effect: models are merged with all their layers. Write it under slices",
            "int8_mask is accepted and changes nothing: masks take no memory here",
        )
        assert loaded(recipe) == recipe

    @pytest.mark.parametrize("k", [0.1, [0.5, 20], [{"filter": "mlp", "value": 0.2}, {"value": 10}]])
    def test_a_percentage_below_one_is_noted(self, k):
        (note,) = loaded(sdm_w(parameters={"k": k})).notes
        assert re.fullmatch(r"k: (0\.\d) is \1 %, not \d+ %", note)
        assert loaded(sdm_w(parameters={"k": 0})).notes == ()

    def test_an_unknown_method_hides_no_other_fault(self):
        parameters = {"k": 101, "densities": 1, "weight": 1}
        told = refused(sdm_w(merge_method="sdmw", zzz=1, parameters=parameters))
        assert [each.split(": ")[0] for each in told] == ["merge_method", "zzz", "parameters.k", "parameters.densities"]
