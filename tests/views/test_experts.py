"""Forms of experts: which are known, which are left alone, and how long many of them take."""

import time

import pytest

from faults.worlds import ALL
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.tensors.dtype import DType
from sdmw.tensors.stored import Stored
from sdmw.views.expert_forms import experts_of
from sdmw.views.experts import reformed
from sdmw.views.renamed import renaming, under

AT = "model.layers.0.mlp.experts"
APART = {
    f"{AT}.{e}.{leaf}.weight": shape
    for e in range(3)
    for leaf, shape in (("gate_proj", (4, 5)), ("up_proj", (4, 5)), ("down_proj", (5, 4)))
}
FUSED = {f"{AT}.gate_up_proj": (3, 8, 5), f"{AT}.down_proj": (3, 5, 4)}


def checkpoint(shapes, dtype=DType.BF16, config=None):
    stored = {name: Stored(name, dtype, tuple(shape), "f", 0) for name, shape in shapes.items()}
    return Checkpoint("/x", (), stored, {"model_type": "qwen3_moe"} if config is None else config)


def form(shapes, *, alternate=False):
    return experts_of(checkpoint(shapes), alternate=alternate)[AT].form


def test_forms_by_names_and_shapes():
    assert form(APART).apart
    assert (form(FUSED).gate_up, form(FUSED).down) == ("egih", "ehi")
    transposed = {f"{AT}.gate_up_proj": (3, 5, 8), f"{AT}.down_proj": (3, 4, 5)}
    assert (form(transposed).gate_up, form(transposed).down) == ("ehgi", "eih")
    assert form(transposed, alternate=True).gate_up == "ehig"
    square = {f"{AT}.gate_up_proj": (3, 8, 8), f"{AT}.down_proj": (3, 8, 4)}
    assert form(square).gate_up == "egih"
    without_gate = {f"{AT}.up_proj": (3, 4, 5), f"{AT}.down_proj": (3, 5, 4)}
    assert form(without_gate).gate_up == "egih"
    assert form({f"{AT}.w13_weight": (3, 8, 5), f"{AT}.w2_weight": (3, 5, 4)}).gate_up == "eigh"


@pytest.mark.parametrize(
    "shapes",
    [
        {name: shape for name, shape in APART.items() if "1.up_proj" not in name},
        {name: shape for name, shape in APART.items() if ".1." not in name},
        {**APART, f"{AT}.1.up_proj.weight": (5, 4)},
        {**APART, f"{AT}.1.w1.weight": (4, 5)},
        {**APART, f"{AT}.1.router.weight": (4, 5)},
        {**APART, f"{AT}.0.up_proj.bias": (4,)},
        {**APART, **FUSED},
        {f"{AT}.gate_up_proj": (3, 8, 5)},
        {f"{AT}.down_proj": (3, 5, 4)},
        {**FUSED, f"{AT}.gate_up_proj": (3, 7, 5)},
        {**FUSED, f"{AT}.gate_up_proj": (4, 8, 5)},
        {**FUSED, f"{AT}.up_proj": (3, 4, 5)},
        {**FUSED, f"{AT}.gate_up_proj_bias": (3, 8)},
        {**FUSED, f"{AT}.gate_up_proj_bias": (3, 7), f"{AT}.down_proj_bias": (3, 5)},
        {f"{AT}.gate_up_proj": (8, 5), f"{AT}.down_proj": (5, 4)},
        {f"{AT}.0.gate_proj.weight": (4,), f"{AT}.0.up_proj.weight": (4,), f"{AT}.0.down_proj.weight": (4,)},
        {f"{AT}.999999.up_proj.weight": (4, 5), f"{AT}.0.up_proj.weight": (4, 5)},
    ],
)
def test_what_is_incomplete_or_odd_is_left_alone(shapes):
    assert experts_of(checkpoint(shapes), alternate=False) == {}
    model = checkpoint(shapes)
    for base in (APART, FUSED):
        assert reformed(checkpoint(base), model).model is model


def test_codes_are_left_alone():
    """Their scales would not follow."""
    model = checkpoint(APART, DType.F8_E4M3)
    assert reformed(checkpoint(FUSED), model).model is model


def test_layers_that_the_base_lacks_have_its_form_where_that_is_one():
    deeper = {name.replace("layers.0", f"layers.{n}"): shape for n in range(2) for name, shape in APART.items()}
    found = reformed(checkpoint(FUSED), checkpoint(deeper)).model.tensors
    assert found.keys() == {name.replace("layers.0", f"layers.{n}") for n in range(2) for name in FUSED}
    both = {**FUSED, **{name.replace("layers.0", "layers.1"): shape for name, shape in APART.items()}}
    third = {name.replace("layers.0", "layers.2"): shape for name, shape in APART.items()}
    assert reformed(checkpoint(both), checkpoint(third)).changes == {}


LONG = [("fused", "apart"), ("apart", "mixtral"), *([("apart", "fused")] if ALL else [])]


@pytest.mark.parametrize(("base", "model"), LONG)
def test_a_hundred_thousand_names_take_a_second_or_so(base, model):
    def grown(shapes, names):
        return checkpoint({
            name.replace("layers.0", f"layers.{layer}").replace("experts.0.", f"experts.{e}."): shape
            for layer in range(64)
            for e in range(names)
            for name, shape in shapes.items()
        })  # fmt: skip

    one = {name: shape for name, shape in APART.items() if ".0.gate" in name or ".0.up" in name or ".0.down" in name}
    mixtral = {
        name.replace("gate_proj", "w1").replace("up_proj", "w3").replace("down_proj", "w2"): shape
        for name, shape in one.items()
    }
    many = {name: (520, *shape[1:]) for name, shape in FUSED.items()}
    forms = {"apart": (one, 520), "mixtral": (mixtral, 520), "fused": (many, 1)}
    below, above = grown(*forms[base]), grown(*forms[model])
    assert max(len(below.tensors), len(above.tensors)) > 99_000
    times = []
    for _ in range(2):
        start = time.process_time()
        found = reformed(below, above)
        result = under(found.model, renaming(below, found.model).names)
        times.append(time.process_time() - start)
        assert result.tensors.keys() == below.tensors.keys()
    assert min(times) < 5, "0.5 to 1.5 seconds on a machine at rest"
