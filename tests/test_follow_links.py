"""`follow_links`: models whose every file is a link to a store elsewhere, in all calls and commands that read them."""

import json
from pathlib import Path

import numpy as np
import pytest

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import everything_in, told
from sdmw.errors import CheckpointError, PlanError

RECIPE = {"merge_method": "task_arithmetic", "base_model": "base", "models": ["./tune", "./base+./lora"]}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Each model twice: of files in `store`, and of links to them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    base = llama_like(rng)
    names = list(base)
    write_checkpoint("store/base", base)
    write_checkpoint("store/tune", fine_tuned(rng, base), shards=[names[:4], names[4:]])
    write_adapter("store/lora", adapter_of(rng, base))
    for name in ("base", "tune", "lora"):
        Path("store", name, "README.md").write_text(f"---\nlicense: mit\n---\n{name}")
    Path("store/base/2_Dense").mkdir()
    for path in ("tokenizer.json", "modules.json", "2_Dense/model.safetensors"):
        Path("store/base", path).write_text('[{"path": "2_Dense"}]')
    for file in Path("store").rglob("*"):
        if file.is_file():
            link = file.relative_to("store")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.absolute())
    Path("recipe.yaml").write_text(json.dumps(RECIPE))
    return tmp_path


def without_times(folder):
    return {path: content for path, (_, _, content) in everything_in(folder).items() if "sdmw_report" not in path}


def by_files(call, *arguments, out, **options):
    """What the call makes in the store, where there are no links."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("store")
        call(*arguments, out, progress=False, **options)
    return without_times(Path("store", out))


def by_links(call, *arguments, out, **options):
    with pytest.raises((PlanError, CheckpointError), match="--follow-links"):
        call(*arguments, out, progress=False, **options)
    call(*arguments, out, progress=False, follow_links=True, **options)
    return without_times(Path(out))


def test_every_call_makes_of_links_what_it_makes_of_files(world):
    """Licences, tokenizers, modules and adapters among what is read."""
    for call, arguments, out in (
        (sdmw.merge, (RECIPE,), "out"), (sdmw.extract, ("base", "tune"), "adapter"),
        (sdmw.pack, ("base", "tune"), "archive"),
    ):  # fmt: skip
        assert by_links(call, *arguments, out=out) == by_files(call, *arguments, out=out), call
    for call, model, out in ((sdmw.apply, "base", "there"), (sdmw.revert, "tune", "back")):
        assert by_links(call, model, "archive", out=out) == by_files(call, model, "archive", out=out), call
    assert Path("out/2_Dense/model.safetensors").read_text() == '[{"path": "2_Dense"}]'
    assert not Path("out/tokenizer.json").is_symlink()
    assert 'license: "mit"' in Path("out/README.md").read_text()
    assert sdmw.verify("out", sample=1, progress=False, follow_links=True).problems == ()
    assert sdmw.plan(RECIPE, follow_links=True).problems == ()
    assert "--follow-links" in str(sdmw.plan(RECIPE).problems[0])
    assert set(sdmw.open(RECIPE, progress=False, follow_links=True).keys()) == set(llama_like(np.random.default_rng(3)))
    for name in ("tune", "lora"):
        assert sdmw.inspect(name, follow_links=True)


def test_a_combined_adapter(world):
    recipe = {"merge_method": "lora", "base_model": "base", "models": ["./lora"],
              "parameters": {"weight": 1, "combination_type": "cat", "output": "adapter"}}  # fmt: skip
    assert by_links(sdmw.merge, recipe, out="combined") == by_files(sdmw.merge, recipe, out="combined")


def test_the_commands(world, capsys, monkeypatch):
    for command in (
        ["plan", "recipe.yaml"], ["merge", "recipe.yaml", "out"], ["verify", "out"], ["inspect", "tune"],
        ["extract", "base", "tune", "adapter", "--rank", "1"], ["pack", "base", "tune", "archive"],
        ["apply", "base", "archive", "there"], ["revert", "tune", "archive", "back"],
    ):  # fmt: skip
        refused = told(capsys, monkeypatch, *command)
        assert refused.code == 1
        assert "--follow-links" in refused.err
        assert told(capsys, monkeypatch, *command, "--follow-links").code == 0


def test_an_output_may_lie_beside_the_files_but_not_take_their_place(tmp_path, monkeypatch):
    """A store holds many things; a directory that holds an input is not replaced."""
    monkeypatch.chdir(tmp_path)
    base = llama_like(np.random.default_rng(3))
    write_checkpoint("store/old", base)
    Path("store/old/model.safetensors").rename("store/weights")
    Path("store/old/model.safetensors").symlink_to(tmp_path / "store/weights")
    recipe = {"merge_method": "linear", "models": ["./store/old"], "parameters": {"weight": 1}}
    Path("files/model").mkdir(parents=True)
    Path("files/model/vocab.json").write_text("{}")
    Path("files/model/config.json").write_text("{}")
    Path("files/model/other.safetensors").touch()
    Path("store/old/vocab.json").symlink_to(tmp_path / "files/model/vocab.json")
    sdmw.merge(recipe, "store/new", progress=False, follow_links=True)
    with pytest.raises(PlanError, match="it contains the input"):
        sdmw.merge(recipe, "files/model", progress=False, follow_links=True, overwrite=True)
    with pytest.raises(PlanError, match="it contains the input"):
        sdmw.merge(recipe, "store", progress=False, follow_links=True, overwrite=True)
