"""Models read where they lie on the Hub: the bits of a merge of local files, of one commit, and no token anywhere."""

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
from sdmw.storage import remote, remote_folder
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
    with pytest.raises(CheckpointError, match=r"the Hub says: RepositoryNotFoundError.*needs a token"):
        locate(ModelRef.parse("hf://org/base"))


def test_a_revision_is_pinned_to_its_commit(there, world):
    there.put(world / "func", "org/base", "6" * 40)
    assert pinned("hf://org/base") == f"hf://org/base@{'6' * 40}"
    assert pinned(f"hf://org/base@{'6' * 40}/below/") == f"hf://org/base@{'6' * 40}/below"
    for wrong, said in (("hf://org/none", "RepositoryNotFoundError"), ("hf://org/base@v9", "RevisionNotFoundError")):
        with pytest.raises(CheckpointError, match=said):
            pinned(wrong)


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
    with pytest.raises(sdmw.SdmwError, match="was an input, and is none now"):
        sdmw.merge(recipe("hf://org"), tmp_path / "out", progress=False)


def test_an_adapter_on_a_model(there, world, tmp_path):
    names = [f"{place}/base+{place}/lora" for place in (world, "hf://org")]
    for name, out in zip(names, ("local", "out"), strict=True):
        asked = {"merge_method": "linear", "models": [{"model": name, "parameters": {"weight": 1.0}}]}
        sdmw.merge(asked, tmp_path / out, progress=False)
    assert tensors_in(tmp_path / "out") == tensors_in(tmp_path / "local")


def test_the_card_calls_it_by_its_id():
    assert public_name(ModelRef.parse("hf://org/name@v1+hf://org/lora")) == "org/name+org/lora"


def test_nothing_is_written_to_the_hub(there, tmp_path):
    with pytest.raises(PlanError, match="expected a store that takes objects, found a server of files"):
        sdmw.merge(recipe("hf://org"), "hf://org/merged", progress=False)


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sdmw\[hub,remote\]'"):
        locate(ModelRef.parse("hf://org/name"))
