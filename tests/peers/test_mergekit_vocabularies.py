"""Unlike vocabularies against mergekit 0.1.5, token by token, at float32; and the results in transformers."""

import json
import platform
from pathlib import Path

import numpy as np
import pytest

EXTRA = "pip install 'sdmw[parity]'"
pytest.importorskip("torch", reason=EXTRA)
pytest.importorskip("mergekit", reason=EXTRA)
transformers = pytest.importorskip("transformers", reason=EXTRA)

from safetensors.numpy import load_file  # noqa: E402

import sdmw  # noqa: E402
from checkpoints_on_disk import write_checkpoint  # noqa: E402
from peers.mergekit_world import llama, run_mergekit, shapes  # noqa: E402
from vocabularies_on_disk import tokenizer, tokens_of  # noqa: E402

if platform.machine() != "x86_64":
    pytest.skip("elsewhere than on x86 torch fuses multiplication and addition", allow_module_level=True)

WORDS = [f"w{number}" for number in range(20)]
MODELS = {  # plain tokens, added ones
    "base": (WORDS, ["<s>", "</s>"]),
    "g": ([*WORDS[10:], *WORDS[:10], "g0", "both"], ["<s>", "</s>", "<im>"]),
    "h": ([*WORDS[::-1], "both", "h0"], ["</s>", "<s>", "<im>", "<end>"]),
}
LINEAR = """
merge_method: linear
base_model: base
models:
- {model: base, parameters: {weight: 0.2}}
- {model: g, parameters: {weight: 0.2}}
- {model: h, parameters: {weight: 0.6}}
dtype: float32
"""
ARITHMETIC = """
merge_method: task_arithmetic
base_model: base
models:
- {model: g, parameters: {weight: 0.5}}
- {model: h, parameters: {weight: 0.25}}
dtype: float32
"""
RECIPES = {
    "the-base": LINEAR + "tokenizer_source: base\n",
    "union": LINEAR + "tokenizer_source: union\n",
    "a-model": LINEAR + "tokenizer_source: h\n",
    "a-model-of-deltas": ARITHMETIC + "tokenizer_source: g\n",
    "union-of-deltas": ARITHMETIC + "tokenizer_source: union\n",
    "base-of-deltas": ARITHMETIC + "tokenizer: {source: base}\n",
    "padding": LINEAR + "tokenizer: {source: union, pad_to_multiple_of: 16}\n",
    "ties": ARITHMETIC.replace("task_arithmetic", "ties") + "tokenizer_source: union\n",
    "tokens": LINEAR + """
tokenizer:
  source: union
  tokens:
    <im>: {source: h, force: true}
    <end>: {source: {kind: zero}}
    both: {source: {kind: model_token, model: g, token: g0}}
    h0: {source: {kind: model_token, model: base, token_id: 3}, force: true}
    g0: {source: {kind: model_token, model: g, token: w3}, force: true}
""",
    "added": LINEAR + "tokenizer: {source: union, tokens: {<new>: {source: {kind: zero}}}}\n",
    "slerp": "merge_method: slerp\nbase_model: base\nmodels: [{model: g}]\nparameters: {t: 0.3}\ndtype: float32\n"
             "tokenizer_source: union\n",
    "stack": "merge_method: passthrough\nslices:\n- sources: [{model: g, layer_range: [0, 1]}]\n"
             "- sources: [{model: h, layer_range: [1, 2]}]\ndtype: float32\ntokenizer_source: union\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabularies")
    for seed, (name, (plain, added)) in enumerate(MODELS.items()):
        config = llama(2, bos_token_id=None, eos_token_id=None)
        config.vocab_size = len(plain) + len(added)
        rng = np.random.default_rng(seed)
        tensors = {key: rng.normal(0, 0.02, shape).astype(np.float32) for key, shape in shapes(config).items()}
        write_checkpoint(folder / name, tensors, config=config.to_dict())
        (folder / name / "tokenizer.json").write_text(json.dumps(tokenizer(plain, added)))
        said = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": plain[0]}
        (folder / name / "tokenizer_config.json").write_text(json.dumps(said))
    run_mergekit(folder, RECIPES)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_every_token_has_mergekit_s_row(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    sdmw.merge(f"{name}.yaml", name, progress=False, overwrite=True)
    ours, theirs = (load_file(f"{each}/model.safetensors") for each in (name, f"{name}-mergekit"))
    tokens, other = tokens_of(name), tokens_of(f"{name}-mergekit")
    assert tokens.keys() == other.keys()
    assert ours.keys() == theirs.keys()
    place = np.array([other[token] for token in tokens])
    for tensor, found in ours.items():
        wanted = theirs[tensor]
        assert found.shape == wanted.shape, tensor
        if tensor in ("model.embed_tokens.weight", "lm_head.weight"):
            padding = np.arange(len(tokens), len(found))
            found = found[[*tokens.values(), *padding]]
            wanted = wanted[[*place, *padding]]
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-8, err_msg=tensor)
    config, theirs = (json.loads(Path(each, "config.json").read_text()) for each in (name, f"{name}-mergekit"))
    assert config["vocab_size"] == theirs["vocab_size"]


@pytest.mark.parametrize("name", RECIPES)
def test_transformers_loads_it_and_has_every_token_as_one(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    sdmw.merge(f"{name}.yaml", name, progress=False, overwrite=True)
    words = transformers.AutoTokenizer.from_pretrained(name)
    for token, number in tokens_of(name).items():
        assert words(token, add_special_tokens=False).input_ids == [number], token
    model, info = transformers.AutoModelForCausalLM.from_pretrained(name, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    rows = load_file(f"{name}/model.safetensors")["model.embed_tokens.weight"]
    np.testing.assert_array_equal(model.get_input_embeddings().weight.detach().numpy(), rows)
