"""Documents that others use are opened and not written: the bits are those of runs by hand, one after the other."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import CONFIG, fine_tuned, llama_like, write_checkpoint
from command_line import told
from sdmw.errors import PlanError, RecipeError
from sdmw.planning.build import kernels_of

pytestmark = pytest.mark.usefixtures("tiny_tiles")

FIRST = """
merge_method: ties
base_model: base
models: [{model: a}, {model: b}]
parameters: {weight: 0.5, density: 0.6}
dtype: bfloat16
"""
STACK = """
merge_method: passthrough
slices:
  - sources: [{model: FIRST, layer_range: [0, 2]}]
  - sources: [{model: a, layer_range: [1, 2]}]
"""
LAST = """
merge_method: slerp
base_model: STACK
models: [{model: OTHER}]
parameters: {t: 0.4}
"""
OTHER = """
merge_method: passthrough
slices:
  - sources: [{model: b, layer_range: [0, 2]}]
  - sources: [{model: base, layer_range: [0, 1]}]
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(9)
    base = llama_like(rng, "F32")
    write_checkpoint("base", base, config={**CONFIG, "num_hidden_layers": 2})
    for name in "ab":
        write_checkpoint(name, fine_tuned(rng, base), config={**CONFIG, "num_hidden_layers": 2})
    documents = [f"name: {name}\n{text.strip()}\n" for name, text in
                 (("STACK", STACK), ("FIRST", FIRST), ("OTHER", OTHER))]  # fmt: skip
    Path("r.yaml").write_text("---\n".join([LAST.strip() + "\n", *documents]))
    return tmp_path


def by_hand():
    for name, text in (("FIRST", FIRST), ("STACK", STACK), ("OTHER", OTHER), ("LAST", LAST)):
        Path("one.yaml").write_text(text)
        sdmw.merge("one.yaml", name, progress=False)
    return load_file("LAST/model.safetensors")


def test_the_same_as_by_hand(world):
    report = sdmw.merge("r.yaml", "out", progress=False)
    found, expected = load_file("out/model.safetensors"), by_hand()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name].view(np.uint8), tensor.view(np.uint8), err_msg=name)
    assert json.loads(Path("out/config.json").read_text()) == json.loads(Path("LAST/config.json").read_text())
    assert {each.model for each in report.inputs} == {"base", "a", "b"}
    assert sdmw.verify("out", sample=1, progress=False).problems == ()
    assert Path("out/sdmw_recipe.yaml").read_text() == Path("r.yaml").read_text()


def test_opened_planned_and_explained(world):
    name = "model.layers.2.mlp.up_proj.weight"
    expected = by_hand()[name]
    np.testing.assert_array_equal(sdmw.open("r.yaml", progress=False).get_tensor(name), expected)
    plan = sdmw.plan("r.yaml")
    assert plan.problems == ()
    assert plan.blocks == 3
    told_of = sdmw.explain("r.yaml", name)
    assert [model for model, _, _ in told_of.read_from] == ["STACK", "OTHER"]


def test_the_plan_counts_what_documents_read(world):
    """Every pass over a document reads its inputs: three of ties in bfloat16's place, one of float32."""
    last = sdmw.plan("r.yaml")
    inputs = sum(each.cost.read * each.elements for tensor in last.tensors for each in tensor.inputs)
    assert last.applied_bytes == inputs
    sizes = {tensor.name: tensor.inputs[0].cost.read for tensor in last.tensors}
    assert sizes["model.layers.0.mlp.up_proj.weight"] == 12
    assert sizes["model.layers.2.mlp.up_proj.weight"] == 4


def test_what_is_wrong_with_a_document_is_told_with_its_name(world):
    text = Path("r.yaml").read_text().replace("{model: b, layer_range: [0, 2]}", "{model: b, layer_range: [0, 9]}")
    Path("r.yaml").write_text(text)
    with pytest.raises(PlanError, match=r"document 'OTHER': recipe: layer_range of model 'b' in slices\.0"):
        sdmw.merge("r.yaml", "out", progress=False)


def test_a_model_of_a_document_that_is_not_there(world):
    Path("r.yaml").write_text(Path("r.yaml").read_text().replace("{model: a}, {model: b}", "{model: a}, {model: ./c}"))
    (problem,) = sdmw.plan("r.yaml").problems
    assert "./c" in problem.where
    sdmw.merge({"merge_method": "linear", "models": ["./a"], "parameters": {"weight": 1}}, "c", progress=False)
    assert sdmw.plan("r.yaml").problems == ()


def test_an_interrupted_run_is_resumed(world):
    class StopError(Exception):
        pass

    def stop(event):
        if type(event).__name__ == "Progress" and event.stage == "apply":
            raise StopError

    with pytest.raises(StopError):
        sdmw.merge("r.yaml", "out", progress=stop)
    sdmw.merge("r.yaml", "out", progress=False)
    expected = by_hand()
    for name, tensor in load_file("out/model.safetensors").items():
        np.testing.assert_array_equal(tensor, expected[name])


def test_the_kernels_of_documents_are_loaded_with_the_run_s(world):
    """Whatever their parameters are: a kernel that is compiled in the middle of a run breaks the plan's bound."""
    stock = (
        "name: FIRST\nmerge_method: model_stock\nbase_model: base\nmodels: [a, b]\nparameters: {filter_wise: true}\n"
    )
    last = "merge_method: ties\nbase_model: base\nmodels: [FIRST]\nparameters: {weight: 1, density: 0.5}\n"
    Path("two.yaml").write_text(f"{stock}---\n{last}")
    assert set(kernels_of(sdmw.plan("two.yaml"))) == {"cuts", "dots", "vectors"}


def test_the_command(world, capsys, monkeypatch):
    said = told(capsys, monkeypatch, "merge", "r.yaml", "out", "--quiet")
    assert said.code == 0, said
    assert "note: document 'FIRST' is not written: it is computed each time it is read" in said.err
    assert told(capsys, monkeypatch, "verify", "out", "--quiet").code == 0


def as_models(folder):
    return {path.name: load_file(path / "model.safetensors") for path in Path(folder).iterdir()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name].view(np.uint8), tensor.view(np.uint8), err_msg=name)


def test_documents_are_written_where_it_is_asked_for_and_used_again(world):
    report = sdmw.merge("r.yaml", "out", intermediate_dir="parts", progress=False)
    assert "document 'FIRST' is written to './parts/FIRST', and read from there" in report.notes
    expected = by_hand()
    assert_same(load_file("out/model.safetensors"), expected)
    written = as_models("parts")
    assert written.keys() == {"FIRST", "STACK", "OTHER"}
    for name, model in written.items():
        assert_same(model, load_file(f"{name}/model.safetensors"))
        assert sdmw.verify(f"parts/{name}", sample=1, progress=False).problems == ()
    assert sdmw.verify("out", sample=1, progress=False).problems == ()

    times = {name: Path("parts", name, "sdmw_report.json").stat().st_mtime_ns for name in written}
    Path("r.yaml").write_text(Path("r.yaml").read_text().replace("model: b, layer_range", "model: a, layer_range"))
    with pytest.raises(PlanError, match="parts/OTHER: it exists"):
        sdmw.merge("r.yaml", "again", intermediate_dir="parts", progress=False)
    sdmw.merge("r.yaml", "again", intermediate_dir="parts", overwrite=True, progress=False)
    assert {name: Path("parts", name, "sdmw_report.json").stat().st_mtime_ns == times[name] for name in written} == {
        "FIRST": True, "STACK": True, "OTHER": False,
    }  # fmt: skip


def test_one_whose_inputs_changed_is_made_again(world):
    sdmw.merge("r.yaml", "out", intermediate_dir="parts", progress=False)
    shutil.rmtree("a")
    write_checkpoint("a", fine_tuned(np.random.default_rng(3), load_file("base/model.safetensors")),
                     config={**CONFIG, "num_hidden_layers": 2})  # fmt: skip
    sdmw.merge("r.yaml", "again", intermediate_dir="parts", overwrite=True, progress=False)
    assert_same(load_file("again/model.safetensors"), by_hand())


def test_where_all_have_names_each_is_written_to_a_folder_called_so(world):
    Path("r.yaml").write_text(f"name: LAST\n{Path('r.yaml').read_text()}")
    assert sdmw.plan("r.yaml", "out").target == "out/LAST"
    report = sdmw.merge("r.yaml", "out", progress=False)
    assert report.path == "out/LAST"
    by_hand()
    for name, model in as_models("out").items():
        assert_same(model, load_file(f"{name}/model.safetensors"))
    assert len(as_models("out")) == 4


def test_what_is_wrong_is_told_before_anything_is_written(world):
    text = Path("r.yaml").read_text()
    Path("r.yaml").write_text(text.replace("model: OTHER", "model: ./absent"))
    with pytest.raises(PlanError, match="absent"):
        sdmw.merge("r.yaml", "out", intermediate_dir="parts", progress=False)
    Path("r.yaml").write_text(text.replace("FIRST", "up/../FIRST"))
    with pytest.raises(RecipeError, match=r"name: expected a valid folder name, found 'up/\.\./FIRST'"):
        sdmw.merge("r.yaml", "out", intermediate_dir="parts", progress=False)
    assert not Path("parts").exists()
    sdmw.merge("r.yaml", "out", progress=False)


def test_the_seed_is_that_of_all_documents(world):
    dare = FIRST.replace("ties", "dare_linear")
    Path("two.yaml").write_text(f"name: FIRST\n{dare}---\nmerge_method: linear\nmodels: [FIRST]\n")
    Path("one.yaml").write_text(dare)
    sdmw.merge("two.yaml", "out", random_seed=4, progress=False)
    sdmw.merge("one.yaml", "alone", random_seed=4, progress=False)
    assert_same(load_file("out/model.safetensors"), load_file("alone/model.safetensors"))


def test_the_command_writes_documents(world, capsys, monkeypatch):
    said = told(capsys, monkeypatch, "plan", "r.yaml", "out", "--intermediate-dir", "parts")
    assert said.code == 0, said
    assert "note: document 'OTHER' is written to './parts/OTHER', and read from there" in said.err
    assert told(capsys, monkeypatch, "merge", "r.yaml", "out", "--intermediate-dir", "parts", "--quiet").code == 0
    assert Path("parts/OTHER/model.safetensors").exists()


TWICE = """
name: one
merge_method: task_arithmetic
base_model: base
models: [{model: a, parameters: {weight: 0.5}}]
dtype: float32
---
name: two
merge_method: task_arithmetic
base_model: base
models: [{model: b, parameters: {weight: 0.3}}]
dtype: float32
---
"""
PAIRS = {
    "linear": "merge_method: linear\nmodels: [one, two]\n",
    "beside the base": "merge_method: linear\nbase_model: base\nmodels: [base, one]\n",
    "ties": "merge_method: ties\nbase_model: base\nmodels: [one, two]\nparameters: {weight: 0.5, density: 0.5}\n",
    "of a document": "merge_method: task_arithmetic\nbase_model: one\nmodels: [two, a]\nparameters: {weight: 0.5}\n",
    "an adapter on one": "merge_method: task_arithmetic\nbase_model: base\nmodels: [one+lora, two]\n"
    "parameters: {weight: 0.5}\n",
    "an adapter on the base of one": "merge_method: task_arithmetic\nbase_model: one\nmodels: [base+lora]\n"
    "parameters: {weight: 0.5}\n",
    "stacked": "merge_method: passthrough\nslices: [{sources: [{model: one, layer_range: [0, 1]}]}, "
    "{sources: [{model: two, layer_range: [1, 2]}]}]\n",
}


@pytest.mark.parametrize("pair", PAIRS)
def test_two_documents_of_one_base_are_two_models(world, pair):
    base = load_file("base/model.safetensors")
    write_adapter("lora", adapter_of(np.random.default_rng(2), base))
    Path("pair.yaml").write_text(TWICE + PAIRS[pair])
    sdmw.merge("pair.yaml", "out", progress=False)
    assert sdmw.verify("out", sample=1, progress=False).problems == ()
    sdmw.merge("pair.yaml", "written", intermediate_dir="parts", progress=False)
    assert_same(load_file("out/model.safetensors"), load_file("written/model.safetensors"))
