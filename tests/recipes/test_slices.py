"""Slices and modules as they are read: levels, ranges, the base among the sources."""

import pytest

from recipes.asking import loaded, refused
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import ModelEntry, Rule, Slice


def source(model, first, end, **more):
    return {"model": model, "layer_range": [first, end], **more}


def stacked(*slices, **fields):
    given = [{"sources": list(each)} if isinstance(each, tuple) else each for each in slices]
    return {"merge_method": "linear", "slices": given, **fields}


TWO = (source("a", 0, 2), source("b", 2, 4))


class TestGoodOnes:
    def test_sources_with_ranges(self):
        recipe = loaded(stacked(TWO, (source("c", 0, 1),)))
        assert recipe.slices == (
            Slice((ModelEntry(ModelRef("a"), {}, (0, 2)), ModelEntry(ModelRef("b"), {}, (2, 4)))),
            Slice((ModelEntry(ModelRef("c"), {}, (0, 1)),)),
        )
        assert [str(entry.model) for entry in recipe.models] == ["a", "b", "c"]

    def test_the_base_is_taken_out_of_the_sources_where_deltas_are_taken(self):
        recipe = loaded(stacked((source("base", 1, 3), source("a", 0, 2)), merge_method="sdm_w", base_model="base"))
        (part,) = recipe.slices
        assert part.base == ModelEntry(ModelRef("base"), {}, (1, 3))
        assert [str(entry.model) for entry in part.sources] == ["a"]
        assert recipe.models == (ModelEntry(ModelRef("a")),)

    def test_a_slice_s_own_base(self):
        given = {"sources": [source("x", 0, 2), source("a", 0, 2)], "base_model": "x"}
        recipe = loaded(stacked(given, merge_method="sdm_w", base_model="base"))
        assert recipe.slices[0].base_model == ModelRef("x")
        assert str(recipe.slices[0].base.model) == "x"

    def test_parameters_of_all_levels(self):
        part = {"sources": [source("a", 0, 2, parameters={"weight": 1})], "parameters": {"weight": 2}}
        module = {"slices": [part], "parameters": {"weight": 3}}
        recipe = loaded({"merge_method": "linear", "modules": {"default": module}, "parameters": {"weight": 4}})
        assert recipe.slices[0].sources[0].parameters == {"weight": (Rule(None, 1.0),)}
        assert recipe.slices[0].parameters == {"weight": (Rule(None, 2.0), Rule(None, 3.0))}
        assert recipe.parameters == {"weight": (Rule(None, 4.0),)}

    def test_a_module_of_models_is_the_whole_model(self):
        module = {"models": ["a", "b"], "base_model": "base", "parameters": {"k": {"filter": "mlp", "value": 3}}}
        recipe = loaded({"merge_method": "sdm_w", "modules": {"default": module}, "parameters": {"k": 5}})
        assert recipe.base_model == ModelRef("base")
        assert [str(entry.model) for entry in recipe.models] == ["a", "b"]
        assert recipe.parameters["k"] == (Rule("mlp", 3.0), Rule(None, 5.0))
        assert recipe.slices == ()

    def test_again_is_equal(self):
        for recipe in (
            stacked(TWO, (source("c", 0, 1),)),
            stacked((source("base", 1, 3), source("a", 0, 2)), merge_method="sdm_w", base_model="base"),
            {"merge_method": "linear", "modules": {"default": {"slices": [{"sources": list(TWO)}]}}},
        ):
            once = loaded(recipe)
            assert loaded(once) == once

    def test_one_model_spelled_in_two_ways_is_one(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a").mkdir()
        recipe = loaded(stacked((source("./a", 0, 1),), (source("a", 1, 2),)))
        assert [str(entry.model) for entry in recipe.models] == ["./a"]
        assert str(recipe.slices[1].sources[0].model) == "./a"

    @pytest.mark.parametrize("given", [["0", "2"], [0.0, 2.0], ["0", 2]])
    def test_a_range_in_text_or_floats(self, given):
        recipe = loaded(stacked(({"model": "a", "layer_range": given},)))
        assert recipe.slices[0].sources[0].layer_range == (0, 2)
        assert loaded(recipe) == recipe

    def test_what_mergekit_never_reads_is_a_note(self):
        part = {"sources": [source("a", 0, 2)], "residual_weight": 0.5}
        assert loaded(stacked(part)).notes == ("slices.0.residual_weight has no effect, as in mergekit",)


@pytest.mark.parametrize(
    ("recipe", "problems"),
    [
        (stacked((source("a", 4, 2),)),
         ["slices.0.sources.0.layer_range: expected a first layer of at least 0, and an end after it, found [4, 2]. "
          "Write [2, 4]"]),
        (stacked((source("a", -1, 3),)),
         ["slices.0.sources.0.layer_range: expected a first layer of at least 0, and an end after it, found [-1, 3]"]),
        (stacked((source("a", 2, 2),)),
         ["slices.0.sources.0.layer_range: expected a first layer of at least 0, and an end after it, found [2, 2]"]),
        (stacked((source("a", 0, 2), source("b", 0, 3))),
         ["slices.0.sources.1.layer_range: expected 2 layers, as the slice's source 0, found 3"]),
        (stacked(({"model": "a"},)),
         ["slices.0.sources.0: a source without layer_range. "
          "Write for instance layer_range: [0, 16], which are layers 0 to 15"]),
        (stacked(({"model": "a", "layer_range": [0, 1.5]},)),
         ["slices.0.sources.0.layer_range: expected two whole numbers, as [0, 16], found a list"]),
        (stacked(({"model": "a", "layer_range": ["0", "x"]},)),
         ["slices.0.sources.0.layer_range: expected two whole numbers, as [0, 16], found a list"]),
        (stacked(({"model": "a", "layer_range": [0, float("nan")]},)),
         ["slices.0.sources.0.layer_range: expected two whole numbers, as [0, 16], found a list"]),
        (stacked(({"model": "a", "layer_range": "0-2"},)),
         ["slices.0.sources.0.layer_range: expected two whole numbers, as [0, 16], found '0-2'"]),
        (stacked(({"model": "a", "layer_range": [False, True]},)),
         ["slices.0.sources.0.layer_range: expected two whole numbers, as [0, 16], found a list"]),
        (stacked(()), ["slices.0.sources: expected at least one source, found an empty list"]),
        (stacked(), ["slices: expected at least one slice, found an empty list"]),
        (stacked(TWO, models=["a"]),
         ["slices: expected one of models, slices and modules, found slices beside models"]),
        (stacked((source("a", 0, 2), source("a", 1, 3))),
         ["slices.0.sources.1.model: expected each model once, found 'a'. It is also slices.0.sources.0"]),
        (stacked((source("a", 0, 2),), merge_method="sdm_w", base_model="base"),
         ["slices.0.sources: no source of base_model 'base'. Add it to the sources, with its layer_range: "
          "sdm_w takes the base's layers from there"]),
        (stacked((source("a", 0, 2, wieght=1),)),
         ["slices.0.sources.0.wieght: unknown field. Did you mean weight?"]),
        ({"merge_method": "linear", "modules": {"x": {"models": ["a"]}, "y": {"models": ["b"]}}},
         ["modules: expected one module, found 2: 'x', 'y'. "
          "Merge them one after the other, or write one module, which is then the whole model"]),
        ({"merge_method": "linear", "modules": {"x": {"parameters": {}}}},
         ["modules.x: expected either models or slices, found neither"]),
        ({"merge_method": "linear", "modules": {}}, ["modules: expected at least one module, found an empty mapping"]),
    ],
)  # fmt: skip
def test_faults(recipe, problems):
    assert refused(recipe) == problems
