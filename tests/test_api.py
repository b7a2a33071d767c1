"""The public functions: what they take, what they leave on disk, what they tell."""

import dataclasses
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import sdmw
from checkpoints_on_disk import CONFIG, fine_tuned, llama_like, write_checkpoint
from sdmw.running.events import Planned, Progress, Published

TENSORS = llama_like(np.random.default_rng(5))


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A base with a tokenizer and two fine-tunes, in the working directory."""
    rng = np.random.default_rng(6)
    monkeypatch.chdir(tmp_path)
    write_checkpoint("base", TENSORS)
    write_checkpoint("corp", fine_tuned(rng, TENSORS))
    write_checkpoint("func", fine_tuned(rng, TENSORS))
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja", "LICENSE"):
        Path("base", name).write_text(f"{name} of the base")
    Path("base/additional_chat_templates").mkdir()
    Path("base/additional_chat_templates/tool.jinja").write_text("tool")
    for name in ("pytorch_model.bin", "README.md", ".gitattributes", "optimizer.pt", "sdmw_report.json"):
        Path("base", name).write_text("left out")
    return tmp_path


RECIPE = {
    "merge_method": "sdm_w", "base_model": "base", "models": [{"model": "corp"}, {"model": "func"}],
    "parameters": {"k": 25}, "out_dtype": "float16",
}  # fmt: skip


def files_of(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in Path(folder).rglob("*") if f.is_file()}


def weights_of(folder):
    return {name: data for name, data in files_of(folder).items() if name.endswith((".safetensors", "index.json"))}


def test_a_recipe_by_hand_a_mapping_and_a_file_are_one(world):
    text = "# by hand\nmerge_method: sdm_w\nbase_model: base\nmodels:\n- model: corp\n- model: func\n"
    text += "parameters: {k: 25}\nout_dtype: float16\n"
    Path("r.yaml").write_text(text)
    by_hand = sdmw.Recipe(**RECIPE)
    reports = [
        sdmw.merge(recipe, f"out{number}", progress=False)
        for number, recipe in enumerate([by_hand, RECIPE, "r.yaml", Path("r.yaml"), by_hand])
    ]
    outputs = [files_of(f"out{number}") for number in range(5)]
    for output in outputs:  # both tell of the time
        del output["sdmw_report.json"], output["sdmw_report.html"]
    assert outputs[2]["sdmw_recipe.yaml"] == text.encode()
    assert outputs[2] == outputs[3]
    assert outputs[0] == outputs[4]
    for output in outputs:  # written anew, a recipe has its fields in another order, and the card shows it
        del output["sdmw_recipe.yaml"], output["README.md"]
    assert all(output == outputs[0] for output in outputs)
    assert all(report.models == reports[0].models for report in reports)
    again = sdmw.plan("out0/sdmw_recipe.yaml").recipe
    assert dataclasses.replace(again, file="", text="") == dataclasses.replace(sdmw.plan(by_hand).recipe, text="")


def test_the_same_merge_gives_the_same_files(world):
    sdmw.merge(RECIPE, "out", progress=False)
    first = files_of("out")
    sdmw.merge(RECIPE, world / "out", progress=False, overwrite=True, threads=3, budget="8GiB")
    second = files_of("out")
    for name in ("sdmw_report.json", "sdmw_report.html"):
        assert first.pop(name) != second.pop(name)
    assert first == second


def test_what_is_in_the_output(world):
    report = sdmw.merge(RECIPE, "out", progress=False)
    copied = {"tokenizer.json", "generation_config.json", "chat_template.jinja", "LICENSE",
              "additional_chat_templates/tool.jinja"}  # fmt: skip
    own = {"model.safetensors", "config.json", "README.md", "sdmw_recipe.yaml", "sdmw_report.json", "sdmw_report.html"}
    output = files_of("out")
    assert output.keys() == own | copied
    for name in copied:
        assert output[name] == Path("base", name).read_bytes()
    assert set(report.files.copied) == copied
    assert report.files.skipped.keys() == {
        "README.md", ".gitattributes", "model.safetensors", "optimizer.pt", "pytorch_model.bin", "sdmw_report.json"
    }  # fmt: skip
    assert json.loads(output["config.json"]) == {**CONFIG, "torch_dtype": "float16"}
    assert b"base_model_relation: merge" in output["README.md"]
    assert str(world).encode() not in output["README.md"]
    with safe_open("out/model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == TENSORS.keys()


def test_mergekit_s_recipe_keeps_its_name(world):
    Path("mergekit_config.yml").write_text(json.dumps(RECIPE))
    sdmw.merge("mergekit_config.yml", "out", progress=False)
    assert Path("out/mergekit_config.yml").read_text() == json.dumps(RECIPE)
    assert not Path("out/sdmw_recipe.yaml").exists()


def test_the_report_is_the_file(world):
    report = sdmw.merge(RECIPE, "out", progress=False)
    told = json.loads(Path("out/sdmw_report.json").read_text())
    assert told == report.to_dict() == json.loads(report.to_json())
    assert sdmw.Report.load("out") == report
    assert told.keys() >= {"version", "method", "models", "layers", "facts", "schema", "run", "files"}
    assert (told["version"], told["method"], report.path) == (sdmw.__version__, "sdm_w", "out")
    for model, name in zip(told["models"], ("corp", "func"), strict=True):
        facts = model["facts"]
        assert (model["name"], model["commit"]) == (name, None)
        assert facts.keys() >= {"weight", "magnitude", "nonzero", "kept", "magnitude_by_component"}
        assert sum(facts["magnitude_by_component"].values()) == pytest.approx(facts["magnitude"])
    assert sum(model["facts"]["weight"] for model in told["models"]) == pytest.approx(1)
    assert [layer["name"] for layer in told["layers"]] == [layer["tensors"][0] for layer in told["layers"]]
    for layer in told["layers"]:
        assert layer.keys() == {"name", "tensors", "facts", "decision"}
        assert all(facts.keys() == {"threshold", "nonzero", "kept", "magnitude"} for facts in layer["facts"])
    assert told["facts"].keys() == {"percentile", "rank_error", "rank_error_share"}
    assert told["inputs"][0].keys() == {"model", "file", "size", "header", "sample"}
    assert told["files"]["written"].keys() >= {"config.json", "README.md", "sdmw_recipe.yaml"}
    run = told["run"]
    assert run.keys() >= {"wall_s", "cpu_s", "bytes_read", "bytes_read_again", "bytes_written", "peak_rss",
                          "peak_anonymous"}  # fmt: skip
    assert run["bytes_written"] == os.path.getsize("out/model.safetensors")
    assert run["bytes_read"] - run["bytes_read_again"] == sdmw.plan(RECIPE).bytes_read
    assert 0 < run["peak_anonymous"] <= run["peak_rss"]


def test_shards_are_split_in_the_base_s_order(world):
    sdmw.merge({**RECIPE, "out_dtype": None}, "out", progress=False, max_shard_size=1500)
    names = sorted(f.name for f in Path("out").glob("*.safetensors"))
    assert names == [f"model-{n:05d}-of-{len(names):05d}.safetensors" for n in range(1, len(names) + 1)]
    assert len(names) > 3
    index = json.loads(Path("out/model.safetensors.index.json").read_text())
    sizes = {name: tensor.nbytes for name, tensor in TENSORS.items()}
    assert index["metadata"] == {
        "total_parameters": sum(tensor.size for tensor in TENSORS.values()), "total_size": sum(sizes.values())
    }  # fmt: skip
    held = {}
    for name in names:
        with safe_open(f"out/{name}", "np") as file:
            held.update(dict.fromkeys(file.keys(), name))
            assert len(file.keys()) == 1 or sum(sizes[tensor] for tensor in file.keys()) <= 1500  # noqa: SIM118
    assert index["weight_map"] == held
    assert [held[name] for name in sdmw.plan(RECIPE).base.tensors] == sorted(held.values())
    sdmw.merge({**RECIPE, "out_dtype": None}, "whole", progress=False)
    assert sdmw.inspect("whole").components == sdmw.inspect("out").components


def test_a_tilde_is_the_home_folder_for_an_output_too(world, monkeypatch):
    monkeypatch.setenv("HOME", str(world / "home"))
    Path("home").mkdir()
    sdmw.merge(RECIPE, "~/out", progress=False)
    assert (world / "home/out/model.safetensors").exists()
    assert not Path("~").exists()
    assert "it exists" in str(sdmw.plan(RECIPE, Path("~/out")).problems[0])
    assert sdmw.verify("~/out", inputs="~/..", progress=False).problems == ()
    sdmw.pack("base", "corp", "~/archive", k=100, progress=False)
    sdmw.apply("base", "~/archive", "~/corp", progress=False)
    assert {path.name for path in Path("home").iterdir()} == {"out", "archive", "corp"}


def test_overwriting_leaves_nothing_of_the_old(world):
    sdmw.merge(RECIPE, "out", progress=False, max_shard_size=1500)
    Path("out/of-the-old").write_text("x")
    with pytest.raises(sdmw.errors.PlanError, match="it exists"):
        sdmw.merge(RECIPE, "out", progress=False)
    assert Path("out/of-the-old").exists()
    sdmw.merge(RECIPE, "out", progress=False, overwrite=True)
    sdmw.merge(RECIPE, "new", progress=False)
    assert weights_of("out") == weights_of("new")
    assert files_of("out").keys() == files_of("new").keys()
    assert not list(world.glob(".*.sdmw"))


MIXED = {"parameters": {"weight": 1, "k": [{"filter": "mlp", "value": 10}, {"value": 0}]}}


@pytest.mark.parametrize(("recipe", "stages"), [
    ({}, ["measure", "apply"]), ({"parameters": {"weight": 1, "k": 0}}, ["apply"]), (MIXED, ["measure", "apply"]),
    ({"merge_method": "linear", "parameters": {}}, ["apply"]),
    ({"parameters": {"granularity": "model"}}, ["measure", "apply"]),
])  # fmt: skip
def test_events(world, recipe, stages):
    events = []
    report = sdmw.merge({**RECIPE, **recipe}, "out", progress=events.append)
    plan = events[0].plan
    assert isinstance(events[0], Planned)
    assert events[-1] == Published("out")
    assert isinstance(plan, sdmw.Plan)
    told = events[1:-1]
    assert all(isinstance(event, Progress) for event in told)
    assert list(dict.fromkeys(event.stage for event in told)) == stages
    for stage, total in (("measure", plan.measured_bytes), ("apply", plan.applied_bytes)):
        done = [event.done for event in told if event.stage == stage]
        assert done == sorted(done)
        assert {event.total for event in told if event.stage == stage} <= {total}
        assert done[-1:] == ([total] if total else [])
    assert report.run.bytes_read - report.run.bytes_read_again == plan.bytes_read


def test_a_receiver_that_fails_leaves_what_is_done(world):
    def broken(event):
        if isinstance(event, Progress):
            raise RuntimeError("mine")

    before = sorted(os.listdir(world))
    with pytest.raises(RuntimeError, match="mine") as caught:
        sdmw.merge(RECIPE, "out", progress=broken)
    kept = os.path.join(os.path.realpath(world), ".out.sdmw")
    assert caught.value.__notes__ == [f"finished work is kept in {kept}: the same command resumes it"]
    assert sorted(os.listdir(world)) == sorted([*before, ".out.sdmw"])
    sdmw.merge(RECIPE, "out", progress=False)
    assert sorted(os.listdir(world)) == sorted([*before, "out"])


def test_what_a_notebook_shows_is_one_line(world):
    plan = sdmw.plan(RECIPE, "out")
    report = sdmw.merge(RECIPE, "out", progress=False)
    refused = sdmw.plan(RECIPE, "out")
    things = [
        plan,
        refused,
        report,
        sdmw.open(RECIPE, progress=False),
        sdmw.inspect("corp"),
        sdmw.verify("out", progress=False),
        sdmw.extract("base", "corp", "lora", rank=2, progress=False),
        sdmw.pack("base", "corp", "packed", progress=False),
    ]
    for each in things:
        assert repr(each).startswith(f"{type(each).__name__}(")
        assert len(repr(each)) < 400
        assert "\n" not in repr(each)
    sweep = sdmw.sweep(sdmw.measure(RECIPE, "store", progress=False), k=[*range(30)])
    for each in [plan, refused, report, sweep, sdmw.compare("base", "corp", progress=False)]:
        assert "<script" not in each._repr_html_()
        assert len(each._repr_html_()) < 20_000
    assert "it exists" in refused._repr_html_()
    assert "and 10 more" in sweep._repr_html_()
    assert f"{report.models[0].facts['weight']:.4f}" in report._repr_html_()
    assert "2 models" in repr(plan)
    assert "no problem" in repr(plan)
    assert "1 problem: out: " in repr(refused)
    assert "0 warnings" in repr(report)


def test_plans_and_reports_can_be_sent_elsewhere(world):
    plan = sdmw.plan(RECIPE, "out")
    assert pickle.loads(pickle.dumps(plan)) == plan
    report = sdmw.merge(RECIPE, "out", progress=False)
    assert pickle.loads(pickle.dumps(report)) == report
    refused = sdmw.plan(RECIPE, "out")
    assert pickle.loads(pickle.dumps(refused)).problems == refused.problems
    with pytest.raises(sdmw.SdmwError) as caught:
        sdmw.merge(RECIPE, "out")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.problems) == (type(caught.value), caught.value.problems)


def test_a_plan_of_more_than_fits_anywhere_reads_headers_only(world):
    """Sparse files of 400 GB each."""
    elements = 10**11
    header = json.dumps({"t": {"dtype": "F32", "shape": [10**6, 10**5], "data_offsets": [0, 4 * elements]}}).encode()
    for name in ("a", "b"):
        os.mkdir(name)
        Path(name, "config.json").write_text("{}")
        with open(f"{name}/model.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 4 * elements)
    recipe = {"merge_method": "sdm_w", "base_model": "a", "models": [{"model": "b"}]}
    plan = sdmw.plan(recipe)
    assert plan.problems == ()
    assert plan.bytes_read == 2 * 2 * 4 * elements
    assert plan.bytes_written > 4 * elements
    assert plan.peak_bytes < 2 * 2**30
    (problem,) = sdmw.plan(recipe, "out").problems
    assert "of free disk" in str(problem)


def test_an_inspection(world):
    found = sdmw.inspect("corp")
    assert found.path == str(world / "corp")
    assert (found.architecture, found.blocks) == ("LlamaForCausalLM", 2)
    assert found.total.parameters == sum(tensor.size for tensor in TENSORS.values())
    assert found.components["model.layers.mlp.up_proj.weight"].tensors == 2
    assert {tensor.name: tuple(tensor.shape) for tensor in found.tensors} == {n: t.shape for n, t in TENSORS.items()}
    with pytest.raises(sdmw.errors.CheckpointError, match="no such directory"):
        sdmw.inspect("./nothing")


def test_the_public_names():
    assert set(dir(sdmw)) == set(sdmw.__all__)
    for name in sdmw.__all__:
        assert getattr(sdmw, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sdmw.nothing  # noqa: B018
