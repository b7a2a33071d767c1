"""Which level of the recipe decides: the model's rules, then the top's, then the method's default."""

import pytest

from sdmw.methods import all_methods
from sdmw.planning.resolve import Asked, check_settings, resolve
from sdmw.recipes.load import load
from sdmw.recipes.recipe import Parameter

METHODS = all_methods()
MLP, NORM = "h.1.mlp.w", "h.1.norm.w"


def loaded(top=None, corp=None, func=None, method="sdm_w"):
    models = [{"model": "./corp", "parameters": corp or {}}, {"model": "./func", "parameters": func or {}}]
    recipe = {"merge_method": method, "base_model": "./base", "models": models, "parameters": top or {}}
    return load(recipe, METHODS)


def k_of(recipe, tensor=MLP, depth=0.0):
    return resolve(recipe, METHODS["sdm_w"], Asked(tensor, depth, (1,))).by_model["k"]


def rules(*pairs):
    return [{"value": value} if word is None else {"filter": word, "value": value} for word, value in pairs]


def test_the_default_then_the_top_then_the_model():
    assert k_of(loaded()) == (10, 10)
    assert k_of(loaded({"k": 20})) == (20, 20)
    assert k_of(loaded({"k": 20}, {"k": 30})) == (30, 20)
    assert k_of(loaded({}, {}, {"k": 0})) == (10, 0)


def test_where_no_rule_matches_the_next_level_decides():
    recipe = loaded({"k": rules(("norm", 20))}, {"k": rules(("mlp", 30))})
    assert k_of(recipe, MLP) == (30, 10)
    assert k_of(recipe, NORM) == (20, 20)
    assert k_of(recipe, "head") == (10, 10)


def test_the_first_rule_that_matches_counts():
    recipe = loaded({"k": rules(("h.1", 1), ("mlp", 2), ("*", 3), (None, 4))})
    assert [k_of(recipe, name)[0] for name in (MLP, "h.2.mlp.w", "head")] == [1, 2, 3]
    assert k_of(loaded({"k": rules((None, 4), ("mlp", 2))}))[0] == 4


def test_a_gradient_is_linear_between_its_values():
    recipe = loaded({"k": [0, 40, 20]}, {"k": {"filter": "mlp", "value": [100, 0]}})
    assert [k_of(recipe, NORM, depth)[0] for depth in (0, 0.25, 0.5, 0.75, 1)] == [0, 20, 40, 30, 20]
    assert k_of(recipe, MLP, 0.25) == (75, 20)
    assert k_of(loaded({"k": [50]}), MLP, 0.3) == (50, 50)


def test_rounding_does_not_lead_out_of_the_range():
    recipe = loaded({"k": [100, 100]}, {"k": [0, 0, 0]})
    found = {k_of(recipe, MLP, i / 1000) for i in range(1001)}
    assert found == {(0.0, 100.0), (0.0, 99.99999999999999)}  # and no 100.00000000000001


def test_what_stands_at_the_top_only():
    values = resolve(
        loaded({"lambda": rules(("mlp", 0.5)), "normalization": {"power": 3}}), METHODS["sdm_w"], Asked(MLP, 0, (1,))
    )
    assert values.top == {"normalization": {"power": 3}, "granularity": "tensor", "percentile": "exact", "lambda": 0.5}
    assert values.by_model == {"k": (10, 10), "weight": (None, None)}
    flags = loaded({"normalize": rules(("mlp", False))}, method="linear")
    assert [resolve(flags, METHODS["linear"], Asked(name, 0, (1,))).top["normalize"] for name in (MLP, NORM)] == [
        False,
        True,
    ]


def checked(recipe, layers, depths=None):
    method = METHODS[recipe.merge_method]
    values = {
        name: resolve(recipe, method, Asked(name, (depths or {}).get(name, 0), (1,)))
        for names in layers.values()
        for name in names
    }
    return [str(problem) for problem in check_settings(recipe, method, layers, values)]


def test_one_k_in_a_layer():
    one_layer, two_layers = {"h.1": [MLP, NORM]}, {"mlp": [MLP], "norm": [NORM]}
    recipe = loaded({}, {}, {"k": rules(("norm", 25))})
    assert checked(recipe, two_layers) == []
    assert checked(recipe, one_layer) == [
        "recipe: k of model './func' in layer 'h.1': expected one value, 10 as for 'h.1.mlp.w', found 25 for "
        "'h.1.norm.w'. Let filters and gradients follow the layers, or choose a finer granularity"
    ]
    gradient = loaded({"k": [0, 100]})
    assert checked(gradient, one_layer, {MLP: 0.5, NORM: 0.5}) == []
    assert len(checked(gradient, one_layer, {MLP: 0.5, NORM: 1})) == 2
    assert checked(loaded({"lambda": rules(("norm", 2))}), one_layer) == []


@pytest.mark.parametrize(
    ("parameter", "setting", "said"),
    [
        (Parameter("soft", "number", 0.5, varies=True, same_within_layer=True), 2, "0.5 as for 'h.1.mlp.w', found 2"),
        (Parameter("soft", "number", None, varies=True, same_within_layer=True), 2, "none as for 'h.1.mlp.w', found 2"),
        (
            Parameter("soft", "flag", False, varies=True, same_within_layer=True),
            True,
            "false as for 'h.1.mlp.w', found true",
        ),
    ],
)
def test_one_value_in_a_layer_of_what_stands_at_the_top_only(monkeypatch, parameter, setting, said):
    monkeypatch.setattr(type(METHODS["linear"]), "parameters", (*METHODS["linear"].parameters, parameter))
    recipe = loaded({"soft": rules(("norm", setting))}, method="linear")
    assert checked(recipe, {"mlp": [MLP], "norm": [NORM]}) == []
    (found,) = checked(recipe, {"h.1": [MLP, NORM]})
    assert found.startswith(f"recipe: soft in layer 'h.1': expected one value, {said} for 'h.1.norm.w'")


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_weights_may_differ_where_they_have_a_default(method):
    assert checked(loaded({"weight": rules(("norm", 2))}, method=method), {"h.1": [MLP, NORM]}) == []


def test_weights_that_replace_computed_ones_are_for_all_or_none():
    layers = {"mlp": [MLP], "norm": [NORM]}
    assert checked(loaded({"weight": rules(("norm", 2), (None, 1))}), layers) == []
    assert checked(loaded({"weight": rules(("head", 2))}), layers) == []
    (found,) = checked(loaded({"weight": rules(("norm", 2))}), layers)
    assert "found none for tensor 'h.1.mlp.w' of model './corp', some for others" in found
