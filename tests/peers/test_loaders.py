"""Results of merge, apply and revert in the loaders of each kind of model, with processor or tokenizer."""

import shutil
from pathlib import Path

import numpy as np
import pytest

EXTRA = "pip install 'sdmw[parity]'"
torch = pytest.importorskip("torch", reason=EXTRA)
transformers = pytest.importorskip("transformers", reason=EXTRA)
image = pytest.importorskip("PIL.Image", reason=EXTRA)

import sdmw  # noqa: E402

DATA = Path(__file__).parents[1] / "data"
TEXT = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3,
    "num_key_value_heads": 1,
}  # fmt: skip
# The pair of a model for its loader and of what prepares its inputs.
KINDS = {
    "language": (transformers.AutoModelForCausalLM, transformers.AutoTokenizer),
    "vision and language": (transformers.AutoModelForImageTextToText, transformers.AutoProcessor),
    "encoder": (transformers.AutoModelForMaskedLM, transformers.AutoTokenizer),
    "classifier": (transformers.AutoModelForSequenceClassification, transformers.AutoTokenizer),
    "encoder and decoder": (transformers.AutoModelForSeq2SeqLM, transformers.AutoTokenizer),
    "speech": (transformers.AutoModelForSpeechSeq2Seq, transformers.AutoProcessor),
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def tokens():
    tokenizer = transformers.AutoTokenizer.from_pretrained(DATA / "base")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"], "mask_token": "<mask>"})
    return tokenizer


def tiny(kind):
    """A model of a kind, and what prepares its inputs."""
    tokenizer = tokens()
    vocabulary, own = len(tokenizer), {"pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1}
    bert = transformers.BertConfig(vocab_size=vocabulary, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                   intermediate_size=24, max_position_embeddings=16, num_labels=3)  # fmt: skip
    if kind == "language":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=vocabulary, **TEXT, **own)), tokenizer
    if kind == "encoder":
        return transformers.BertForMaskedLM(bert), tokenizer
    if kind == "classifier":
        return transformers.BertForSequenceClassification(bert), tokenizer
    if kind == "encoder and decoder":
        config = transformers.T5Config(vocab_size=vocabulary, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
                                       decoder_start_token_id=2, **own)  # fmt: skip
        return transformers.T5ForConditionalGeneration(config), tokenizer
    if kind == "speech":
        config = transformers.WhisperConfig(
            vocab_size=vocabulary, num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
            max_source_positions=50, max_target_positions=16, decoder_start_token_id=0, **own,
        )  # fmt: skip
        hears = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
        return transformers.WhisperForConditionalGeneration(config), transformers.WhisperProcessor(hears, tokenizer)
    sees = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 8, "patch_size": 4, "projection_dim": 8}  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**sees),
        text_config=transformers.LlamaConfig(vocab_size=vocabulary, **TEXT, **own),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_seq_length=4,
    )  # fmt: skip
    looks = transformers.CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    processor = transformers.LlavaProcessor(
        looks, tokenizer, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        image_token="<image>",
    )  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config), processor


def inputs_of(kind, prepare):
    """What a model of a kind is asked."""
    if kind == "speech":
        sound = np.sin(np.arange(16_000) / 9).astype(np.float32)
        return {**prepare(sound, sampling_rate=16_000, return_tensors="pt"), "decoder_input_ids": torch.tensor([[0]])}
    if kind == "vision and language":
        picture = image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
        return prepare(text="<image> what is it", images=picture, return_tensors="pt")
    asked = prepare("def f(x):", return_tensors="pt")
    return {**asked, "decoder_input_ids": torch.tensor([[2, 5]])} if kind == "encoder and decoder" else asked


@pytest.fixture(params=KINDS)
def world(request, tmp_path):
    """A base and two fine-tunes of a kind."""
    torch.manual_seed(3)
    model, prepare = tiny(request.param)
    for name in ("base", "one", "two"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / name, max_shard_size="20KB" if name == "two" else "5GB")
        prepare.save_pretrained(tmp_path / name)
        (tmp_path / name / "README.md").write_text(f"# {name}\n")
    return request.param, tmp_path


def loaded(kind, folder):
    """The model, of which nothing is missing and nothing too much, and what it says of an input that it prepares."""
    auto, auto_prepare = KINDS[kind]
    model, info = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        said = model.eval()(**inputs_of(kind, auto_prepare.from_pretrained(folder))).logits
    return model, said


def test_a_merge_loads_and_says_what_its_twin_in_torch_says(world):
    kind, folder = world
    recipe = {
        "merge_method": "task_arithmetic", "base_model": str(folder / "base"),
        "models": [{"model": str(folder / name)} for name in ("one", "two")], "parameters": {"weight": 0.5},
    }  # fmt: skip
    report = sdmw.merge(recipe, folder / "out", progress=False)
    assert report.warnings == ()
    each = {name: loaded(kind, folder / name)[0] for name in ("base", "one", "two")}
    twin = each["base"]
    with torch.no_grad():
        for mine, one, two in zip(*(model.parameters() for model in each.values()), strict=True):
            mine += 0.5 * ((one - mine) + (two - mine))
    merged, said = loaded(kind, folder / "out")
    with torch.no_grad():
        expected = twin.eval()(**inputs_of(kind, KINDS[kind][1].from_pretrained(folder / "base"))).logits
    torch.testing.assert_close(said, expected, rtol=1e-4, atol=1e-4)
    assert merged.config.architectures == twin.config.architectures


def test_what_apply_and_revert_make_are_the_models(world):
    kind, folder = world
    sdmw.pack(folder / "base", folder / "two", folder / "archive", progress=False)
    there = sdmw.apply(folder / "base", folder / "archive", folder / "there", progress=False)
    back = sdmw.revert(folder / "two", folder / "archive", folder / "back", progress=False)
    assert (there.warnings, back.warnings) == ((), ())
    for made, of in (("there", "two"), ("back", "base")):
        (model, said), (twin, twin_said) = loaded(kind, folder / made), loaded(kind, folder / of)
        theirs = twin.state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
        # Not to the bit: mapped weights begin at other addresses, and BLAS chooses other instructions by them.
        assert torch.allclose(said, twin_said, atol=1e-5)
        for file in (folder / of).rglob("*"):
            if not file.name.endswith((".safetensors", ".index.json")):
                assert (folder / made / file.relative_to(folder / of)).read_bytes() == file.read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_is_put_on_a_result(tmp_path):
    """By peft, which finds in it the modules of the base."""
    peft = pytest.importorskip("peft", reason=EXTRA)
    for name in ("base", "corp"):
        shutil.copytree(DATA / name, tmp_path / name)
    recipe = {"merge_method": "sdm_w", "base_model": str(tmp_path / "base"), "models": [str(tmp_path / "corp")]}
    sdmw.merge(recipe, tmp_path / "out", progress=False)
    sdmw.pack(tmp_path / "base", tmp_path / "out", tmp_path / "archive", progress=False)
    sdmw.apply(tmp_path / "base", tmp_path / "archive", tmp_path / "there", progress=False)
    ids = torch.tensor([[1, 5, 7]])
    for result in ("out", "there"):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / result)
        alone = model(ids).logits
        on_it = peft.PeftModel.from_pretrained(model, DATA / "func-lora")
        assert any("lora" in name for name, _ in on_it.named_parameters())
        assert not torch.equal(on_it(ids).logits, alone)
        with on_it.disable_adapter():
            assert torch.equal(on_it(ids).logits, alone)
