"""Recipes in the shapes that people publish, held against mergekit 0.1.5 on the same files, at float32."""

import json
import platform
import re
from pathlib import Path

import numpy as np
import pytest

EXTRA = "pip install 'sdmw[parity]'"
pytest.importorskip("torch", reason=EXTRA)
pytest.importorskip("mergekit", reason=EXTRA)
transformers = pytest.importorskip("transformers", reason=EXTRA)
tokenizers = pytest.importorskip("tokenizers", reason=EXTRA)

from safetensors.numpy import load_file  # noqa: E402

import sdmw  # noqa: E402
from adapters_on_disk import adapter_of, write_adapter  # noqa: E402
from peers.mergekit_world import llama, run_mergekit, write_family  # noqa: E402

if platform.machine() != "x86_64":
    pytest.skip("elsewhere than on x86 torch fuses multiplication and addition", allow_module_level=True)

SHAPES = {
    path.stem: path.read_text() for path in sorted((Path(__file__).parents[1] / "data" / "recipes").glob("*.yml"))
}
NOT_THERE = {
    "base-gives-the-config": "refused there: the base that is not listed would need a weight",
    "model-by-revision": "the Hub is asked there for its list of files, which needs the network",
}
TALL = {name: text for name, text in SHAPES.items() if name not in NOT_THERE}
LAYERS = 8
# Its divergences cancel: in float32, as there, a percent of the decisions is noise. Source: METHODS.md, section 3.
NOISY = {"arcee-fusion": ("chat", "code")}


def at_float32(name, text):
    """The same at float32, without what is left to chance: mergekit draws from torch's generator."""
    text = re.sub(r"^out_dtype:.*\n", "", text, flags=re.M)
    text = re.sub(r"^(['\"]?dtype['\"]? *):.*$", r"\1: float32", text, flags=re.M)
    if re.search("merge_method: *(dare|della)", text):
        text = re.sub(r"density: *(\[.*?\]|[\d.]+)", "density: 1", text)
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_family(folder, ["base", "chat", "code", "math", "story"], llama(LAYERS))
    base = load_file(folder / "base" / "model.safetensors")
    adapter = adapter_of(np.random.default_rng(5), base, modules=("q_proj", "down_proj"))
    write_adapter(folder / "poet-lora", adapter, target_modules=["q_proj", "down_proj"])
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{n}": n for n in range(48)}, "w0"))
    words.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    for name in ("base", "chat", "code", "math", "story"):
        made = transformers.PreTrainedTokenizerFast(tokenizer_object=words, chat_template="{{ messages }}")
        made.save_pretrained(folder / name)
    run_mergekit(folder, {name: at_float32(name, text) for name, text in TALL.items()})
    return folder


@pytest.mark.parametrize("name", TALL)
def test_it_is_mergekits(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    sdmw.merge(f"{name}.yaml", name, progress=False, overwrite=True)
    ours, theirs = (load_file(f"{each}/model.safetensors") for each in (name, f"{name}-mergekit"))
    assert ours.keys() == theirs.keys()
    for tensor, found in ours.items():
        if name in NOISY:
            base, model = (load_file(f"{each}/model.safetensors")[tensor] for each in NOISY[name])
            differs = np.abs(found - theirs[tensor]) > 2e-8
            assert differs.mean() < 0.03
            assert np.all((found[differs] == base[differs]) | (theirs[tensor][differs] == base[differs]))
            found, theirs[tensor] = (np.where(differs, model, each) for each in (found, theirs[tensor]))
        np.testing.assert_allclose(found, theirs[tensor], rtol=2e-6, atol=2e-8, err_msg=tensor)
    config, other = (json.loads(Path(each, "config.json").read_text()) for each in (name, f"{name}-mergekit"))
    assert config["num_hidden_layers"] == other["num_hidden_layers"]
