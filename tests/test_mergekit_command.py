"""`sdmw mergekit-yaml`: what people paste from model cards."""

import os
from pathlib import Path

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import told
from sdmw.methods import all_methods
from sdmw.recipes.load import load

RECIPE = """
merge_method: dare_linear
base_model: base
models: [{model: a}, {model: b}]
parameters: {weight: 0.5, density: 0.5}
dtype: bfloat16
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    base = llama_like(rng)
    write_checkpoint("base", base)
    for name in "ab":
        write_checkpoint(name, fine_tuned(rng, base))
    Path("base/tokenizer.json").write_text("{}")
    Path("base/chat_template.jinja").write_text("x")
    Path("base/LICENSE").write_text("x")
    Path("mergekit_config.yml").write_text(RECIPE)
    return tmp_path


def bits(folder):
    return Path(folder, "model.safetensors").read_bytes()


def test_as_merge_with_the_words_of_mergekit(world, capsys, monkeypatch):
    said = told(
        capsys, monkeypatch, "mergekit-yaml", "mergekit_config.yml", "out", "--copy-tokenizer", "--lazy-unpickle",
        "--low-cpu-memory", "--cuda", "--allow-crimes", "--trust-remote-code", "--out-shard-size", "5B", "-j", "2",
        "--random-seed", "7", "-v", "-v", "--quiet", "--write-threads", "4", "--lora-merge-cache", "/tmp/x",
    )  # fmt: skip
    assert said.code == 0, said
    assert "note: --cuda: no effect: merging runs on the processor" in said.err
    assert "note: --allow-crimes: no effect: names and shapes decide what can be merged" in said.err
    assert said.err.count("note: ") == 7
    assert "random_seed: 7" in Path("out/sdmw_recipe.yaml").read_text()
    assert {"tokenizer.json", "chat_template.jinja", "LICENSE", "README.md"} <= set(os.listdir("out"))
    sdmw.merge("mergekit_config.yml", "seven", progress=False, random_seed=7)
    sdmw.merge("mergekit_config.yml", "zero", progress=False)
    assert bits("out") == bits("seven") != bits("zero")


def test_without_tokenizer_and_card(world, capsys, monkeypatch):
    said = told(
        capsys, monkeypatch, "mergekit-yaml", "mergekit_config.yml", "out", "--no-copy-tokenizer",
        "--no-write-model-card",
    )  # fmt: skip
    assert said.code == 0, said
    assert Path("out/mergekit_config.yml").read_text() == RECIPE
    files = set(os.listdir("out"))
    assert "LICENSE" in files
    assert not files & {"tokenizer.json", "chat_template.jinja", "README.md"}
    assert "not copied   2 files of the base: 'chat_template.jinja', 'tokenizer.json'" in said.out
    assert sdmw.verify("out", progress=False).problems == ()


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("--no-safe-serialization", "pickled weights run code when they are loaded"),
        ("--unsafe-truncate-embeddings", "rows of different vocabularies would be merged by their numbers"),
    ],
)
def test_what_is_not_done_is_refused(world, capsys, monkeypatch, flag, why):
    said = told(capsys, monkeypatch, "mergekit-yaml", "mergekit_config.yml", "out", flag)
    assert (said.code, said.out) == (2, "")
    assert said.errors[0].startswith(f"{flag}: {why}")
    assert not Path("out").exists()


def test_every_flag_of_mergekit_is_known(capsys, monkeypatch):
    run_yaml = pytest.importorskip("mergekit.scripts.run_yaml", reason="pip install 'sdmw[parity]'")
    from typer.main import get_command

    from sdmw.cli import app

    ours = get_command(app).commands["mergekit-yaml"]
    known = {flag for parameter in ours.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    theirs = {flag for parameter in run_yaml.main.params if parameter.param_type_name == "option"
              for flag in (*parameter.opts, *parameter.secondary_opts)}  # fmt: skip
    assert theirs - known == set()


class TestRandomSeed:
    def test_it_is_recorded_and_verified(self, world):
        report = sdmw.merge("mergekit_config.yml", "out", progress=False, random_seed=7)
        assert report.seed == 7
        assert "random_seed: 7" in Path("out/sdmw_recipe.yaml").read_text()
        assert sdmw.verify("out", progress=False).problems == ()

    def test_the_recipe_s_own_changes_nothing(self, world):
        Path("seeded.yaml").write_text(f"{RECIPE}random_seed: 7  # mine\n")
        sdmw.merge("seeded.yaml", "out", progress=False, random_seed=7)
        assert "# mine" in Path("out/sdmw_recipe.yaml").read_text()

    def test_of_merges_that_are_opened(self, world):
        sdmw.merge("mergekit_config.yml", "out", progress=False, random_seed=7)
        reader = sdmw.open("mergekit_config.yml", progress=False, random_seed=7)
        name = "model.layers.0.mlp.up_proj.weight"
        assert reader.get_tensor(name).tobytes() in bits("out")

    @pytest.mark.parametrize("seed", [-1, 1.5, True])
    def test_a_seed_is_a_whole_number(self, world, seed):
        with pytest.raises(sdmw.errors.RecipeError, match="random_seed: expected a whole number"):
            sdmw.plan("mergekit_config.yml", random_seed=seed)

    def test_the_option(self, world, capsys, monkeypatch):
        assert told(capsys, monkeypatch, "merge", "mergekit_config.yml", "out", "--random-seed", "7").code == 0
        sdmw.merge("mergekit_config.yml", "seven", progress=False, random_seed=7)
        assert bits("out") == bits("seven")
        assert told(capsys, monkeypatch, "plan", "mergekit_config.yml", "--random-seed", "7").code == 0


def test_what_is_left_out_is_known(world):
    with pytest.raises(sdmw.errors.UsageError, match="without: expected tokenizer, card, page, found 'config'"):
        sdmw.merge("mergekit_config.yml", "out", progress=False, without=["config"])


def test_what_only_other_methods_take_is_one_note_for_each_name(world):
    models = [{"model": name, "parameters": {"weight": 1, "density": 0.5}} for name in ("a", "b", "c", "d")]
    recipe = load({"merge_method": "karcher", "models": models}, all_methods())
    assert recipe.notes == (
        "models.0.parameters.weight has no effect: karcher does not take it; the same in 3 more places",
        "models.0.parameters.density has no effect: karcher does not take it; the same in 3 more places",
    )
