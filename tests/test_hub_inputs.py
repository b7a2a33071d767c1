"""Models read where they lie on the Hub: the bits of a merge of local files, of one commit, and no token anywhere."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import everything_in
from hub_on_loopback import COMMIT, SIGNATURE, TOKEN, hub
from sdmw.errors import CheckpointError, MissingExtraError, PlanError
from sdmw.recipes.model_ref import ModelRef
from sdmw.reporting.naming import public_name
from sdmw.running.events import Progress
from sdmw.storage import hub_address, remote, remote_folder
from sdmw.storage.hub_address import pinned
from sdmw.storage.locate import locate

MODELS = ("base", "corp", "func")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(9)
    base = llama_like(rng)
    for name in MODELS:
        write_checkpoint(folder / name, base if name == "base" else fine_tuned(rng, base))
    write_adapter(folder / "lora", adapter_of(rng, base), base_model_name_or_path="")
    return folder


@pytest.fixture
def there(world, monkeypatch):
    monkeypatch.setattr(remote, "BACKOFF", 0.001)
    remote_folder.forget()
    remote._stores.clear()
    hub_address._paths.cache_clear()  # each test has another model under the same commit
    with hub(monkeypatch) as found:
        for name in (*MODELS, "lora"):
            found.put(world / name, f"org/{name}")
        yield found
    remote_folder.forget()
    remote._stores.clear()


def recipe(place):
    return {
        "merge_method": "sdm_w",
        "base_model": f"{place}/base",
        "models": [f"{place}/corp", f"{place}/func"],
    }


def tensors_in(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.safetensors")}


def test_the_bits_of_local_files_and_the_commit_in_report_and_card(world, there, tmp_path):
    sdmw.merge(recipe(world), tmp_path / "local", progress=False)
    report = sdmw.merge(recipe("hf://org"), tmp_path / "out", progress=False)
    assert tensors_in(tmp_path / "out") == tensors_in(tmp_path / "local")
    assert [model.commit for model in report.models] == [COMMIT, COMMIT]
    assert [model.name for model in report.models] == ["hf://org/corp", "hf://org/func"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert '- "org/corp"' in card
    assert "hf://" not in card.partition("```yaml")[0]
    assert COMMIT in card
    assert {path for path, _ in there.asked if "resolve" in path} == {
        path for path, _ in there.asked if f"/resolve/{COMMIT}/" in path
    }


def test_a_token_goes_to_the_hub_alone_and_into_no_file(there, tmp_path, capsys):
    there.private = True
    sdmw.merge(recipe("hf://org"), tmp_path / "out")
    assert {told for _, told in there.asked} == {f"Bearer {TOKEN}"}
    assert there.told
    assert {told for _, told in there.told} == {None}
    said = f"{everything_in(tmp_path)} {capsys.readouterr()}"
    assert TOKEN not in said
    assert SIGNATURE not in said


def test_without_a_token_a_private_model_is_a_refusal_that_says_so(there, monkeypatch, tmp_path):
    there.private = True
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match=r"the Hub says: RepositoryNotFoundError.*[^.]\. Check.*needs a token"):
        locate(ModelRef.parse("hf://org/base"))


def test_a_revision_is_pinned_to_its_commit(there, world):
    there.put(world / "func", "org/base", "6" * 40)
    for revision in ("", "@main", "@feature%2Fx", "@refs/pr/1", "@refs%2Fpr%2F1"):
        assert pinned(f"hf://org/base{revision}", {}) == f"hf://org/base@{'6' * 40}"
    assert pinned(f"hf://org/base@{'6' * 40}/below/", {}) == f"hf://org/base@{'6' * 40}/below"
    assert pinned("hf://org/base@v9", {"hf://org/base@v9": COMMIT}) == f"hf://org/base@{COMMIT}"
    for wrong, said in (("hf://org/none", "RepositoryNotFoundError"), ("hf://org/base@v9", "RevisionNotFoundError")):
        with pytest.raises(CheckpointError, match=said):
            pinned(wrong, {})


@pytest.mark.parametrize("address", ["hf://org", "hf://org/", "hf:///name", "hf://org/na me"])
def test_what_is_no_address_of_a_model(address):
    with pytest.raises(CheckpointError, match=r"empty part|the address of a model on the Hub"):
        locate(ModelRef.parse(address))


def test_a_branch_that_moved_while_an_interrupted_merge_waited(there, world, tmp_path):
    """Its commit is in the plan: a run goes on with the files that it began with, or says that they are others."""

    def stop(event):
        if isinstance(event, Progress) and event.stage == "apply":
            there.put(world / "func", "org/corp", "6" * 40)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sdmw.merge(recipe("hf://org"), tmp_path / "out", progress=stop)
    with pytest.raises(sdmw.SdmwError, match="was an input, and no longer is one"):
        sdmw.merge(recipe("hf://org"), tmp_path / "out", progress=False)


def test_a_merge_is_verified_against_its_commits_whatever_branches_mean_now(there, world, tmp_path):
    recipes = {
        "deltas": recipe("hf://org"),
        "adapter": {"merge_method": "linear", "models": [{"model": "hf://org/base+hf://org/lora"}],
                    "parameters": {"weight": 1.0}},
    }  # fmt: skip
    for name, asked in recipes.items():
        sdmw.merge(asked, tmp_path / name, progress=False)
    for name in (*MODELS, "lora"):
        there.put(world / ("corp" if name == "base" else "base"), f"org/{name}", "6" * 40)
    for name in recipes:
        assert set(sdmw.Report.load(tmp_path / name).commits.values()) == {COMMIT}
        found = sdmw.verify(tmp_path / name, progress=False)
        assert (found.problems, found.not_found) == ((), ())
        assert found.recomputed == found.tiles


def test_a_commit_that_is_gone_is_no_reason_not_to_look(there, world, tmp_path):
    """A history that was made anew, with the same weights."""
    sdmw.merge(recipe("hf://org"), tmp_path / "out", progress=False)
    for web in (there.small, there.elsewhere):
        web.files.clear()
    hub_address._paths.cache_clear()
    for name in MODELS:
        there.put(world / name, f"org/{name}", "6" * 40)
    found = sdmw.verify(tmp_path / "out", progress=False)
    assert (found.problems, found.not_found) == ((), ())


def test_all_files_come_along_that_come_from_a_folder(there, world, tmp_path):
    """Code of a model's own, templates in folders: whatever it is called."""
    model = tmp_path / "odd"
    shutil.copytree(world / "base", model)
    for name in ("modeling_odd.py", "additional_chat_templates/tool.jinja", "1_Pooling/config.json", "empty.txt",
                 "onnx/model.onnx", "pytorch_model.bin", "trainer_state.json"):  # fmt: skip
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("{}" if name != "empty.txt" else "")
    there.put(model, "org/odd")
    made = []
    for base in (str(model), "hf://org/odd"):
        report = sdmw.merge({**recipe(world), "base_model": base}, tmp_path / "out", progress=False, overwrite=True)
        made.append((report.files.copied, tensors_in(tmp_path / "out")))
    assert made[0] == made[1]
    assert {"modeling_odd.py", "additional_chat_templates/tool.jinja", "1_Pooling/config.json", "empty.txt"} <= set(
        made[1][0]
    )
    assert not any(path.endswith((".bin", ".onnx", "_state.json")) for path, _ in there.asked)


def test_a_gated_model_says_how_it_is_had(there, monkeypatch):
    monkeypatch.setattr(there.small, "files", there.small.files | {f"/org/base/resolve/{COMMIT}/config.json": 403})
    with pytest.raises(CheckpointError, match=r"access is denied.*Accept the terms on the model's page"):
        sdmw.inspect("hf://org/base")


def test_a_file_that_is_listed_and_not_there(there):
    there.small.files[f"/org/base/resolve/{COMMIT}/gone.txt"] = None, 0
    with pytest.raises(CheckpointError, match=r"gone\.txt is listed but not there"):
        sdmw.inspect("hf://org/base")


def test_a_token_that_came_since_is_used(there, monkeypatch, tmp_path):
    """In a notebook people log in after the first refusal."""
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    sdmw.inspect("hf://org/base")
    there.private = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert sdmw.inspect("hf://org/base").tensors
    there.private = False
    monkeypatch.delenv("HF_TOKEN")
    there.asked.clear()
    sdmw.inspect("hf://org/base")
    assert {told for _, told in there.asked} == {None}


def test_a_hub_that_takes_no_more_requests_for_now_is_waited_for(there, monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    there.refusals = 40  # far more than are tried again at once
    assert sdmw.inspect("hf://org/base").tensors
    assert there.refusals == 0
    there.refusals = 10**6
    monkeypatch.setattr(remote, "LIMITED", 0.05)
    with pytest.raises(CheckpointError, match="the server says 429 Too Many Requests"):
        sdmw.inspect("hf://org/base")


def test_a_run_that_ends_does_not_wait_for_it(there):
    there.refusals = 10**6
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(remote.head, f"hf://org/base@{COMMIT}/config.json")
        while there.refusals > 10**6 - 5 or not asked.running():
            time.sleep(0.01)
        began = time.monotonic()
        while not asked.done():
            remote.hurry()
            time.sleep(0.01)
        assert time.monotonic() - began < remote.PAUSE / 2
        with pytest.raises(OSError, match="429"):
            asked.result()


def test_an_adapter_on_a_model(there, world, tmp_path):
    names = [f"{place}/base+{place}/lora" for place in (world, "hf://org")]
    for name, out in zip(names, ("local", "out"), strict=True):
        asked = {"merge_method": "linear", "models": [{"model": name, "parameters": {"weight": 1.0}}]}
        sdmw.merge(asked, tmp_path / out, progress=False)
    assert tensors_in(tmp_path / "out") == tensors_in(tmp_path / "local")


def test_the_card_calls_it_by_its_id():
    assert public_name(ModelRef.parse("hf://org/name@v1+hf://org/lora")) == "org/name+org/lora"


def test_nothing_is_written_to_the_hub(there, tmp_path):
    with pytest.raises(PlanError, match="expected an object store, found a file server"):
        sdmw.merge(recipe("hf://org"), "hf://org/merged", progress=False)


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sdmw\[hub,remote\]'"):
        locate(ModelRef.parse("hf://org/name"))
