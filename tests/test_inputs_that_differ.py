"""Inputs that do not agree in everything, and what a recipe says of it."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sdmw
from sdmw.errors import CheckpointError, DisagreementError, PlanError
from sdmw.running.events import Progress


def model(folder, tensors, config=None, files=None):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    return str(folder)


def recipe(base, *models, **fields):
    return {"merge_method": "linear", "base_model": base, "models": [{"model": m} for m in models], **fields}


def values(*numbers):
    return np.array(numbers, np.float32)


@pytest.fixture
def differing(tmp_path):
    """Two models: the second has a vision tower, and other position indices."""
    ids = np.arange(4)
    one = model(tmp_path / "one", {"w": values(1, 2), "ids": ids})
    two = model(
        tmp_path / "two", {"w": values(3, 4), "ids": ids[::-1].copy(), "eyes.0": values(5), "eyes.1": values(6)}
    )
    return one, two


@pytest.mark.parametrize(("extra", "names"), [("take", {"w", "ids", "eyes.0", "eyes.1"}), ("drop", {"w", "ids"})])
def test_extra_tensors_are_taken_or_left_out(tmp_path, differing, extra, names):
    report = sdmw.merge(recipe(*differing[:1], *differing, extra=extra, integers="base"), tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == names
    said = [warning for warning in report.warnings if "left out" in warning]
    assert said == (
        ["model 'two': left out, since the base has none of this name: 'eyes.0' and 1 more"] if extra == "drop" else []
    )


def test_extra_tensors_are_an_error_that_names_both_choices(tmp_path, differing):
    with pytest.raises(PlanError) as caught:
        sdmw.merge(recipe(*differing[:1], *differing, integers="base"), tmp_path / "out")
    assert [problem.mend for problem in caught.value.problems] == [
        "Recipe field `extra: take` copies it into the output, `extra: drop` leaves it out"
    ] * 2


def test_integers_that_differ_are_found_before_anything_is_measured(tmp_path, differing):
    asked, events = recipe(differing[0], differing[1], extra="drop", merge_method="sdm_w"), []
    with pytest.raises(DisagreementError, match=r"element 0: expected 0 as in .*one.*, found 3\. .*`integers: base`"):
        sdmw.merge(asked, tmp_path / "out", progress=events.append)
    assert not any(isinstance(event, Progress) for event in events)
    assert not (tmp_path / "out").exists()


def test_integers_may_be_the_base_s(tmp_path, differing):
    sdmw.merge(recipe(*differing[:1], *differing, extra="drop", integers="base"), tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_array_equal(found["ids"], np.arange(4))
    np.testing.assert_array_equal(found["w"], values(2, 3))
    assert sdmw.verify(tmp_path / "out", sample=1, progress=False).problems == ()


def test_a_pointer_of_git_lfs_for_a_tokenizer_is_refused(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 17209961\n"
    base = model(tmp_path / "base", {"w": values(1)}, files={"tokenizer.json": pointer})
    with pytest.raises(
        PlanError, match=r"tokenizer\.json: expected the file, found a pointer of Git LFS.*git lfs pull"
    ):
        sdmw.merge(recipe(base, base), tmp_path / "out")


@pytest.mark.parametrize(
    ("tensors", "files", "said"),
    [
        ({"w": values(1)}, {"quantize_config.json": '{"bits": 4}'}, "quantize_config.json, as GPTQ and AWQ wrote it"),
        ({"a.qweight": np.zeros(4, np.int32), "a.scales": values(1)}, {}, "packed weights.*a.qweight"),
    ],
)
def test_weights_that_are_quantised_without_a_word_in_the_config_are_refused(tmp_path, tensors, files, said):
    base = model(tmp_path / "base", tensors, files=files)
    with pytest.raises((PlanError, CheckpointError), match=said):
        sdmw.merge(recipe(base, base), tmp_path / "out")


def test_weights_beside_a_model_come_along_and_are_named(tmp_path):
    base = model(tmp_path / "base", {"w": values(1)}, files={"spk_dict.pt": "voices"})
    report = sdmw.merge(recipe(base, base), tmp_path / "out")
    assert (tmp_path / "out" / "spk_dict.pt").read_text() == "voices"
    assert any("'spk_dict.pt' holds weights that are copied, not merged" in warning for warning in report.warnings)
