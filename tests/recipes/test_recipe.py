import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sdmw.recipes.recipe import Rule, gradient_at, value_of

NUMBERS = st.floats(-1e30, 1e30)
DEPTHS = st.floats(0, 1)


@given(st.lists(NUMBERS, min_size=1, max_size=8), DEPTHS)
def test_a_gradient_is_read_as_numpy_interpolates(values, depth):
    expected = np.interp(depth, np.linspace(0, 1, len(values)), values)
    np.testing.assert_allclose(
        gradient_at(tuple(values), depth), expected, rtol=1e-9, atol=1e-9 * max(map(abs, values))
    )


@given(st.lists(NUMBERS, min_size=1, max_size=8), DEPTHS)
def test_a_gradient_stays_between_its_values(values, depth):
    room = 1e-15 * max(map(abs, values))  # two products and a sum round
    assert min(values) - room <= gradient_at(tuple(values), depth) <= max(values) + room


def test_a_gradient_is_not_clamped():
    """As mergekit has it, to the bit: (1 - f) * v + f * v."""
    steps = [i / 1000 for i in range(1001)]
    assert {gradient_at((100.0, 100.0), depth) for depth in steps} >= {100.0, 100.00000000000001}
    for depth in steps:
        place = depth * 2
        index = min(int(place), 1)
        expected = (1 - (place - index)) * (0.3, 0.9, 0.1)[index] + (place - index) * (0.3, 0.9, 0.1)[index + 1]
        assert gradient_at((0.3, 0.9, 0.1), depth) == (0.1 if depth == 1 else expected)


def test_a_gradient_of_flags_is_a_step():
    """METHODS_FACTS.md: [true, false] over five layers is true in layers 0 to 3."""
    assert [gradient_at((True, False), layer / 4) for layer in range(5)] == [True, True, True, True, False]


def test_a_rule_does_not_speak_of_what_it_excludes():
    rule = Rule("layers", 1.0, ("mlp", "norm"))
    assert rule.matches("layers.0.q")
    assert not rule.matches("layers.0.mlp.up")
    assert not rule.matches("layers.0.norm")
    assert not rule.matches("embed")
    assert not Rule(None, 1.0, ("*",)).matches("anything")


def test_the_ends_of_a_gradient():
    assert (gradient_at((1.0, 5.0, 2.0), 0.0), gradient_at((1.0, 5.0, 2.0), 0.5)) == (1.0, 5.0)
    assert (gradient_at((1.0, 5.0, 2.0), 1.0), gradient_at((3.0,), 0.7)) == (2.0, 3.0)


NAMES = st.sampled_from(["model.layers.3.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"])
RULES = st.lists(
    st.builds(
        Rule,
        st.sampled_from([None, "*", "mlp", "norm", "weight", "layers.3.", "x"]),
        NUMBERS | st.lists(NUMBERS, min_size=1, max_size=3).map(tuple),
    ),
    max_size=4,
).map(tuple)


@given(RULES | st.none(), RULES | st.none(), NUMBERS, NAMES, DEPTHS)
def test_the_first_rule_of_the_innermost_level_that_speaks_decides(model, top, default, name, depth):
    chain = [*(model or ()), *(top or ()), Rule(None, default)]
    first = next(rule for rule in chain if rule.filter in (None, "*") or rule.filter in name)
    expected = gradient_at(first.value, depth) if isinstance(first.value, tuple) else first.value
    said = [value_of(level, name, depth) for level in (model, top)]
    assert next((value for value in said if value is not None), default) == expected


def test_a_flag_that_is_false_is_not_silence():
    assert value_of((Rule("mlp", False), Rule(None, True)), "mlp.weight", 0) is False
