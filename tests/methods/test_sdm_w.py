"""What SDM-W decides from a few numbers; whole merges are in test_merge.py and contracts/test_methods.py."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmw.methods.sdm_w import SdmW, SdmWParams, Weights
from sdmw.methods.shares import Filter, Share
from sdmw.methods.weight_law import WeightLaw
from sdmw.statistics.percentile import ALL_KEPT, NOTHING_KEPT

METHOD = SdmW()
FILTER = Filter(k=(10.0, 10.0), exact=True, alone=True, small=0)
COMPUTED = SdmWParams(FILTER, weights=None, law=WeightLaw(2.0), scale=1.0)
GIVEN = SdmWParams(FILTER, weights=(0.5, 0.5), law=WeightLaw(1.0), scale=1.0)
KEPT = Share(0.5, 0x3F000000, nonzero=4, kept=3)
NOTHING = Share(None, NOTHING_KEPT, nonzero=0, kept=0)


def facts(threshold, nonzero, kept):
    return {"threshold": threshold, "nonzero": nonzero, "kept": kept}


LAYER = [facts(0.5, 4, 3), facts(None, 0, 0)]  # KEPT and NOTHING


@pytest.mark.parametrize(
    ("sums", "law", "weights"),
    [
        ([1.0, 3.0], WeightLaw(1.0), (0.25, 0.75)),
        ([1.0, 3.0], WeightLaw(2.0), (0.1, 0.9)),
        ([1.0, 9.0], WeightLaw(1.0, norm=2), (0.25, 0.75)),
        ([1e300, 3e300], WeightLaw(2.0), (0.1, 0.9)),  # though the squares are beyond float64
        ([1e-300, 3e-300], WeightLaw(-2.0), (0.9, 0.1)),  # and these below its smallest
        ([0.0, 1e-300, 1e300], WeightLaw(-2.0), (0.0, 1.0, 0.0)),
        ([0.0, 5.0], WeightLaw(0.0), (0.0, 1.0)),
        ([2.0, 5.0], WeightLaw(0.0, norm=2), (0.5, 0.5)),
        ([0.0, 0.0], WeightLaw(-1.0), (0.0, 0.0)),
    ],
)
def test_weights_by_what_is_kept(sums, law, weights):
    assert law.weights(sums) == pytest.approx(weights, abs=0, rel=1e-15)


LAWS = st.builds(WeightLaw, st.floats(-20, 20), st.sampled_from([1, 2]))
SUMS = st.lists(st.just(0.0) | st.floats(1e-90, 1e90), min_size=1, max_size=5)


@given(SUMS, LAWS)
def test_the_weights_of_what_changed_add_up_to_one(sums, law):
    found = law.weights(sums)
    assert sum(found) == pytest.approx(1.0 if any(sums) else 0.0)
    assert all(weight == 0 for weight, x in zip(found, sums, strict=True) if x == 0)
    order = sorted(range(len(sums)), key=lambda n: sums[n])
    ranked = [found[n] for n in order if sums[n]]
    assert ranked == sorted(ranked, reverse=law.power < 0)


def test_a_report_of_schema_1_leaves_out_a_model_without_magnitude():
    """As `decide_model` did: its weight of 0 would turn what is not finite into NaN."""
    models = [{"magnitude": 2.5, "weight": 1.0}, {"magnitude": 0.0, "weight": 0.0}]
    found = METHOD.decisions_of_schema_1([COMPUTED], [LAYER], models)
    assert found == ([(KEPT, NOTHING)], Weights((1.0, 0.0), (0,)))


def test_a_report_of_schema_1_whose_weights_are_the_recipe_s():
    models = [{"magnitude": 2.5, "weight": 0.5}, {"magnitude": 0.0, "weight": 0.5}]
    found = METHOD.decisions_of_schema_1([GIVEN], [LAYER], models)
    assert found == ([(KEPT, NOTHING)], Weights(None, (0, 1)))
    unmeasured = [facts(None, None, None)] * 2
    shares, _ = METHOD.decisions_of_schema_1([GIVEN], [unmeasured], models)
    assert shares == [(Share(None, ALL_KEPT),) * 2]


@pytest.mark.parametrize(
    ("layer", "models", "said"),
    [
        (LAYER[:1], [{"magnitude": 1.0, "weight": 0.5}] * 2, "a layer does not tell of 2 models"),
        (LAYER, [{"magnitude": None, "weight": 0.5}] * 2, "a model without a magnitude"),
        (LAYER, [{"magnitude": 1.0, "weight": 0.5 + 1e-9}] * 2, "where 0.5 follows from the magnitudes"),
        (LAYER, [{"magnitude": 1.0, "weight": None}] * 2, "a weight of None"),
        ([facts(0.0, 4, 3)] * 2, [{"magnitude": 1.0, "weight": 0.5}] * 2, "a threshold of 0.0"),
        ([facts(3.5e38, 4, 3)] * 2, [{"magnitude": 1.0, "weight": 0.5}] * 2, "a threshold of 3.5e"),
    ],
)
def test_a_report_of_schema_1_that_contradicts_itself(layer, models, said):
    with pytest.raises(ValueError, match=said):
        METHOD.decisions_of_schema_1([COMPUTED], [layer], models)


def test_a_model_without_a_kept_delta_in_a_layer_takes_no_part_there():
    """Where layers decide; of the whole model it is one that keeps nothing anywhere."""
    by_layer = replace(COMPUTED, law=WeightLaw(1.0, by_layer=True))
    one = (replace(KEPT, magnitude={"w": 3 << 149}, weight=1.0), replace(NOTHING, magnitude={"w": 0}, weight=0.0))
    assert METHOD.decide_model([(by_layer, one), (by_layer, one[::-1])]) == Weights(None, (0, 1))
    assert METHOD.decide_model([(by_layer, one)]) == Weights(None, (0,))
    facts_of_one, facts_of_other = METHOD.model_facts([by_layer], [one, one[::-1]], Weights(None, (0, 1)))
    assert (facts_of_one["weight"], facts_of_one["mean_weight"]) == (None, 0.5)
    assert next(METHOD.describe(facts_of_other)) == "mean weight 0.5"


def test_what_is_told_of_a_model():
    """Sums over the layers; nothing but the weight where one of them was not measured."""
    one, two = (
        Share(0.5, 0x3F000000, 4, 3, {"w": 3 << 149}),
        Share(0.5, 0x3F000000, 6, 2, {"w": 1 << 149, "b": 5 << 149}),
    )
    nothing = replace(NOTHING, magnitude={"w": 0})
    layers = [(one, nothing), (two, nothing)]
    of_model, of_nothing = METHOD.model_facts([COMPUTED], layers, Weights((1.0, 0.0), (0,)))
    assert of_model == {
        "weight": 1.0, "magnitude": 9.0, "nonzero": 10, "kept": 5, "kept_share": 0.5,
        "magnitude_by_component": {"w": 4.0, "b": 5.0},
    }  # fmt: skip
    assert (of_nothing["weight"], of_nothing["nonzero"], of_nothing["kept_share"]) == (0.0, 0, None)
    unmeasured = (Share(None, ALL_KEPT),) * 2
    for found in METHOD.model_facts([GIVEN], [*layers, unmeasured], Weights(None, (0, 1))):
        assert found["weight"] == 0.5
        assert {value for name, value in found.items() if name != "weight"} == {None}
