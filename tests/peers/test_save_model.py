"""Models that safetensors' `save_model` wrote, which stores a shared tensor once: merged, they load as they were."""

import copy
from pathlib import Path

import pytest

EXTRA = "pip install 'sdmw[parity]'"
torch = pytest.importorskip("torch", reason=EXTRA)
transformers = pytest.importorskip("transformers", reason=EXTRA)

from safetensors.torch import save_model  # noqa: E402

import sdmw  # noqa: E402

SIZES = {"vocab_size": 40, "pad_token_id": 0}
KINDS = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(
        **SIZES, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=True)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
        **SIZES, n_embd=16, n_layer=2, n_head=2, n_positions=8)),
    "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(
        **SIZES, d_model=16, d_ff=24, d_kv=8, num_layers=1, num_heads=2, decoder_start_token_id=0)),
    "bart": lambda: transformers.BartForConditionalGeneration(transformers.BartConfig(
        **SIZES, d_model=16, encoder_ffn_dim=24, decoder_ffn_dim=24, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=8)),
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(
        **SIZES, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def save(model, folder, *, aliases):
    model.save_pretrained(folder)
    if aliases:
        Path(folder, "model.safetensors").unlink()
        save_model(model, f"{folder}/model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("of", [("tune",), ("base",), ("base", "tune")])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_merged_loads_as_the_fine_tune(kind, of):
    torch.manual_seed(1)
    base = KINDS[kind]().eval()
    tune = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in tune.parameters():
            parameter.add_(torch.randn_like(parameter) / 16)
    save(base, "base", aliases="base" in of)
    save(tune, "tune", aliases="tune" in of)
    recipe = {"merge_method": "linear", "base_model": "base", "models": [{"model": "tune"}]}
    sdmw.merge(recipe, "out", progress=False)
    found, loading = type(base).from_pretrained("out", output_loading_info=True)
    assert not any(loading.values())
    for name, tensor in tune.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
