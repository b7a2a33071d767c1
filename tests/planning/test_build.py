"""Plans that must not endanger an input, and dtypes that are the base's."""

import gc
import os

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from sdmw.planning import plan, prepared
from sdmw.planning.inputs import open_inputs


@pytest.fixture
def models(tmp_path):
    rng = np.random.default_rng(1)
    base = llama_like(rng)
    write_checkpoint(tmp_path / "base", base)
    return tmp_path, base, fine_tuned(rng, base)


def recipe(base, *tunes):
    return {"merge_method": "sdm_w", "base_model": str(base), "models": [{"model": str(tune)} for tune in tunes]}


def test_an_input_in_the_work_directory_is_not_removed(models):
    folder, _, tune = models
    inside = write_checkpoint(folder / ".out.sdmw" / "tune", tune)
    with pytest.raises(sdmw.errors.PlanError, match="work directory without inputs"):
        sdmw.merge(recipe(folder / "base", inside), folder / "out", progress=False)
    assert (inside / "model.safetensors").exists()


def test_what_the_links_of_a_snapshot_point_to_is_not_overwritten(models):
    folder, _, tune = models
    blobs = write_checkpoint(folder / "models--a--b" / "blobs", tune)
    snapshot = folder / "models--a--b" / "snapshots" / "r1"
    os.makedirs(snapshot)
    for name in ("model.safetensors", "config.json"):
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    with pytest.raises(sdmw.errors.PlanError, match="it is the input"):
        sdmw.merge(recipe(folder / "base", snapshot), blobs, progress=False, overwrite=True)
    assert (blobs / "model.safetensors").exists()


def test_what_an_overwriting_merge_removes_is_said_by_plan_and_merge(models):
    folder, _, tune = models
    write_checkpoint(folder / "tune", tune)
    asked, out = recipe(folder / "base", folder / "tune"), folder / "out"

    def said(warnings):
        return [warning for warning in warnings if "overwritten" in warning]

    assert said(sdmw.plan(asked, out, overwrite=True).warnings) == []
    sdmw.merge(asked, out, progress=False)
    assert said(sdmw.plan(asked, out, overwrite=True).warnings) == []
    (out / "mynotes.txt").write_text("x")
    assert said(sdmw.plan(asked, out).warnings) == []
    lost = "it is overwritten, and these files in it are lost: 'mynotes.txt'"
    assert said(sdmw.plan(asked, out, overwrite=True).warnings) == [f"{out}: {lost}"]
    assert said(sdmw.merge(asked, out, progress=False, overwrite=True).warnings) == [f"out: {lost}"]


def test_an_average_keeps_the_dtype_of_the_base_that_names_its_tensors(models):
    folder, base, tune = models
    wide = {name: tensor.astype(np.float32) for name, tensor in base.items()}
    write_checkpoint(folder / "wide", wide)
    write_checkpoint(folder / "tune", tune)
    sdmw.merge(recipe(folder / "wide", folder / "tune") | {"merge_method": "linear"}, folder / "out", progress=False)
    assert {tensor.dtype for tensor in load_file(folder / "out" / "model.safetensors").values()} == {
        np.dtype("float32")
    }


def test_the_time_is_that_of_reading_and_writing(models, monkeypatch):
    folder, _, tune = models
    write_checkpoint(folder / "tune", tune)
    planned = sdmw.plan(recipe(folder / "base", folder / "tune"))
    monkeypatch.setattr(plan, "RATE", 1000)
    assert planned.seconds == (planned.bytes_read + planned.bytes_written) / 1000
    assert planned.bytes_written > planned.bytes_read / 5


@pytest.mark.parametrize(
    ("method", "parameters", "looks"),
    [("sdm_w", {}, 2), ("sdm_w", {"k": 0, "weight": 1}, 1), ("task_arithmetic", {}, 1)],
)
def test_what_is_measured_is_read_twice(models, method, parameters, looks):
    folder, base, tune = models
    write_checkpoint(folder / "tune", tune)
    planned = sdmw.plan(
        recipe(folder / "base", folder / "tune") | {"merge_method": method, "parameters": parameters}
    )  # fmt: skip
    whole = 2 * sum(tensor.nbytes for tensor in base.values())
    assert (planned.bytes_read, planned.measured_bytes) == (looks * whole, (looks - 1) * whole)


def test_what_a_model_lacks_and_what_it_has_beside_are_counted(models):
    folder, base, tune = models
    norm = tune.pop("model.norm.weight")
    more = fine_tuned(np.random.default_rng(2), tune) | {"model.norm.weight": norm, "extra.b": norm}
    write_checkpoint(folder / "tune", tune | {"extra.a": norm, "extra.b": norm})
    write_checkpoint(folder / "more", more)
    write_checkpoint(folder / "same", base)
    names = [str(folder / name) for name in ("tune", "more", "same")]
    planned = sdmw.plan(recipe(folder / "base", *names) | {"missing": "base", "extra": "take"})
    assert planned.problems == ()
    assert planned.missing == ((names[0], 1),)
    assert planned.extra == ((names[0], 2),)  # of two models that have it, the first one's is taken


def test_weights_whose_sum_float32_does_not_hold_are_refused(models):
    folder, _, tune = models
    write_checkpoint(folder / "tune", tune)
    asked = recipe(folder / "base", folder / "base", folder / "tune")
    asked |= {"merge_method": "linear", "parameters": {"weight": 3e38}}
    (problem,) = sdmw.plan(asked).problems
    assert "more than float32 holds" in str(problem)


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_of_cycles_is_as_before(models, monkeypatch, collects):
    """Planning does without it, whether it succeeds or not."""
    folder, _, tune = models
    write_checkpoint(folder / "tune", tune)
    seen = []
    monkeypatch.setattr(prepared, "open_inputs", lambda *a, **k: seen.append(gc.isenabled()) or open_inputs(*a, **k))
    before = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        assert sdmw.plan(recipe(folder / "base", folder / "tune")).problems == ()
        assert gc.isenabled() == collects
        with pytest.raises(sdmw.errors.PlanError):
            sdmw.merge(recipe(folder / "base", folder / "none"), folder / "out", progress=False)
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()
    assert seen
    assert not any(seen)
