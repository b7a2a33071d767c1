import numpy as np
import pytest
from safetensors.numpy import save_file

import sdmw
from checkpoints_on_disk import write_checkpoint
from sdmw.errors import PlanError
from sdmw.views.spellings import plainly_spelled, unmerged

NORM, BIAS, CONV = "bert.layer.0.LayerNorm.weight", "bert.layer.0.LayerNorm.bias", "encoder.conv"
NEW = f"{CONV}.parametrizations.weight.original"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        (NORM, "bert.layer.0.LayerNorm.gamma"),
        (BIAS, "bert.layer.0.LayerNorm.beta"),
        (f"{NEW}0", f"{CONV}.weight_g"),
        (f"{NEW}1", f"{CONV}.weight_v"),
        (NORM, "bert.layer.0._orig_mod.LayerNorm.weight"),
        (NORM, "_fsdp_wrapped_module.bert.layer.0._fsdp_wrapped_module._checkpoint_wrapped_module.LayerNorm.weight"),
        (NORM, "bert.module.layer.0.LayerNorm.gamma"),
    ],
)
def test_one_tensor_under_two_spellings(name, other):
    assert plainly_spelled(other) == plainly_spelled(name) == name


def test_others_are_other_tensors():
    assert plainly_spelled(NORM) != plainly_spelled("bert.layer.1.LayerNorm.gamma")


def test_tensors_of_an_adapter_that_is_not_merged():
    names = ["q.base_layer.weight", "q.lora_A.default.weight", "k.weight", "head.modules_to_save.default.weight"]
    assert unmerged(names, ["q.weight"]) == [names[0], names[1], names[3]]
    assert unmerged(names, names) == [names[1], names[3]]
    assert unmerged(["q.base_layer.weight", "q.lora_A.speech.weight"], ["q.base_layer.weight"]) == [
        "q.lora_A.speech.weight"
    ]


def asked(**fields):
    return {"merge_method": "linear", "base_model": "base", "models": ["tune"], **fields}


FIELDS = [{}, {"missing": "base"}, {"extra": "take"}, {"missing": "base", "extra": "drop"}]


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("of_base", [False, True])
def test_no_field_of_the_recipe_lets_a_peft_model_through(tmp_path, monkeypatch, fields, of_base):
    """Matrices are no weights that can be averaged, nor left out."""
    monkeypatch.chdir(tmp_path)
    values = {name: np.ones((3, 3), np.float32) for name in ("a.weight", "b.weight", "c.weight")}
    matrices = {f"a.lora_{side}.default.weight": np.ones((3, 3), np.float32) for side in "AB"}
    write_checkpoint("base", values | (matrices if of_base else {}))
    write_checkpoint("tune", values)
    save_file(values | matrices, "tune/model.safetensors")
    with pytest.raises(PlanError, match=r"a PEFT model with an adapter that is not merged: 'a.lora_A.default.weight'"):
        sdmw.merge(asked(**fields), "out", progress=False)
