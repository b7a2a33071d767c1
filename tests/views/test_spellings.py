import numpy as np
import pytest
from safetensors.numpy import save_file

import sdmw
from checkpoints_on_disk import write_checkpoint
from sdmw.checkpoints.formats import read
from sdmw.errors import PlanError
from sdmw.views.spellings import respelled, unmerged

NORM, BIAS, CONV = "bert.layer.0.LayerNorm.weight", "bert.layer.0.LayerNorm.bias", "encoder.conv"
NEW = f"{CONV}.parametrizations.weight.original"


def tensors(path, *names, size=4):
    write_checkpoint(str(path), {name: np.ones(size, np.float32) for name in names})
    return read(str(path)).tensors


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
def test_one_tensor_under_two_spellings(tmp_path, name, other):
    here, there = tensors(tmp_path / "here", name), tensors(tmp_path / "there", other, "more")
    assert respelled(here, there) == {name: other}
    assert respelled(there, here) == {other: name}


def test_others_are_other_tensors(tmp_path):
    here = tensors(tmp_path / "here", NORM, BIAS)
    assert respelled(here, tensors(tmp_path / "there", "bert.layer.1.LayerNorm.gamma")) == {}
    assert respelled(here, tensors(tmp_path / "shape", "bert.layer.0.LayerNorm.gamma", size=5)) == {}
    assert respelled({}, here) == respelled(here, {}) == {}


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
def test_no_field_of_the_recipe_lets_another_spelling_through(tmp_path, monkeypatch, fields):
    """It would leave the fine-tune's tensors out, or write two of one."""
    monkeypatch.chdir(tmp_path)
    values = {name: np.ones(3, np.float32) for name in ("a.weight", "b.weight", "c.weight")}
    write_checkpoint("base", {**values, "a.LayerNorm.gamma": values["a.weight"], "more": values["a.weight"]})
    write_checkpoint("tune", {**values, "a.LayerNorm.weight": values["a.weight"], "odd": values["a.weight"]})
    (problem, *others) = sdmw.plan(asked(**fields)).problems
    assert problem.found == "1 of them spelled otherwise, such as 'a.LayerNorm.weight' for 'a.LayerNorm.gamma'"
    assert {other.mend.split("`")[1] for other in others} == {"missing: base", "extra: take"} - {
        f"{name}: {value}".replace("drop", "take") for name, value in fields.items()
    }


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
    with pytest.raises(PlanError, match=r"a PEFT model whose adapter is not merged: 'a.lora_A.default.weight'"):
        sdmw.merge(asked(**fields), "out", progress=False)
