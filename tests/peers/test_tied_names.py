"""What transformers ties by name, in models where that is not one head and one embedding.

Of each: what the loaded inputs have is what is merged, whatever their files store; nothing is missing or unexpected.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

import sdmw
from documented import ROOT
from faults.worlds import ALL

torch = pytest.importorskip("torch", reason="needs the parity extra")
transformers = pytest.importorskip("transformers", reason="needs the parity extra")
from safetensors.torch import load_file, save_file  # noqa: E402

SMALL = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
POSITIONS = {"max_position_embeddings": 16, "pad_token_id": 0}
SEQUENCES = {
    "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2,
}  # fmt: skip


def bert(tie):
    return transformers.BertConfig(**SMALL, **POSITIONS, tie_word_embeddings=tie)


def encoder_decoder(tie):
    """Two embeddings: the head is the decoder's."""
    encoder, decoder = (transformers.BertConfig(**SMALL, **POSITIONS) for _ in range(2))
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder.tie_word_embeddings = tie
    return config


def blip(tie):
    text = {**SMALL, "encoder_hidden_size": 8, "projection_dim": 8, "bos_token_id": 1, "eos_token_id": 2,
            "pad_token_id": 0, "sep_token_id": 3, "tie_word_embeddings": tie}  # fmt: skip
    vision = {**SMALL, "image_size": 8, "patch_size": 4, "projection_dim": 8}
    return transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=8, tie_word_embeddings=tie)


def t5gemma(tie):
    module = type(transformers.T5GemmaConfig().decoder)
    side = {**SMALL, "num_key_value_heads": 2, "head_dim": 4}
    return transformers.T5GemmaConfig(
        encoder=module(**side), decoder=module(**side, cross_attention_hidden_size=8), vocab_size=40,
        tie_word_embeddings=tie,
    )  # fmt: skip


def t5gemma2(tie):
    side = {**SMALL, "num_key_value_heads": 2, "head_dim": 4, "layer_types": ["full_attention"]}
    vision = {**SMALL, "image_size": 8, "patch_size": 4}
    encoder = {"text_config": side, "vision_config": vision, "mm_tokens_per_image": 1}
    return transformers.T5Gemma2Config(
        encoder=encoder, decoder=side, tie_word_embeddings=tie, image_token_index=5, eoi_token_index=6
    )


def fsmt(tie):
    sizes = {"src_vocab_size": 40, "tgt_vocab_size": 40}
    return transformers.FSMTConfig(langs=["en", "de"], **sizes, **SEQUENCES, tie_word_embeddings=tie)


def prophetnet(tie):
    return transformers.ProphetNetConfig(
        vocab_size=40, hidden_size=8, encoder_ffn_dim=16, num_encoder_layers=1, num_encoder_attention_heads=2,
        decoder_ffn_dim=16, num_decoder_layers=1, num_decoder_attention_heads=2, max_position_embeddings=16,
        tie_word_embeddings=tie,
    )  # fmt: skip


def luke(tie):
    return transformers.LukeConfig(
        **SMALL, **POSITIONS, entity_vocab_size=20, entity_emb_size=8, tie_word_embeddings=tie
    )


def pix2struct(tie):
    text = {"vocab_size": 40, "hidden_size": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    vision = {"hidden_size": 8, "patch_embed_hidden_size": 8, "d_ff": 16, "d_kv": 4, "num_hidden_layers": 1,
              "num_attention_heads": 2, "seq_len": 16}  # fmt: skip
    text["tie_word_embeddings"] = tie
    return transformers.Pix2StructConfig(text_config=text, vision_config=vision, tie_word_embeddings=tie)


def rwkv(tie):
    sizes = {**SMALL, "num_hidden_layers": 2, "attention_hidden_size": 8, "tie_word_embeddings": tie}
    return transformers.RwkvConfig(**{name: size for name, size in sizes.items() if name != "num_attention_heads"})


def albert(tie):
    return transformers.AlbertConfig(**SMALL, **POSITIONS, embedding_size=8, tie_word_embeddings=tie)


def roberta(tie):
    return transformers.RobertaConfig(**SMALL, **POSITIONS, tie_word_embeddings=tie)


def marian(tie):
    """Encoder and decoder have embeddings of their own."""
    return transformers.MarianConfig(
        vocab_size=40, decoder_vocab_size=40, share_encoder_decoder_embeddings=False, **SEQUENCES, pad_token_id=0,
        decoder_start_token_id=0, tie_word_embeddings=tie,
    )  # fmt: skip


def idefics(tie):
    """Rows of the vocabulary that were added lie in tensors of their own."""
    vision = {"embed_dim": 8, "image_size": 8, "patch_size": 4, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2}  # fmt: skip
    return transformers.IdeficsConfig(
        **SMALL, additional_vocab_size=2, cross_layer_interval=1, vision_config=vision, tie_word_embeddings=tie,
        perceiver_config={"use_resampler": False},
    )  # fmt: skip


KINDS = {
    "BertForMaskedLM": bert,
    "BertForPreTraining": bert,
    "RobertaForMaskedLM": roberta,
    "AlbertForMaskedLM": albert,
    "EncoderDecoderModel": encoder_decoder,
    "BlipForQuestionAnswering": blip,
    "T5GemmaForConditionalGeneration": t5gemma,
    "T5Gemma2ForConditionalGeneration": t5gemma2,
    "FSMTForConditionalGeneration": fsmt,
    "ProphetNetForConditionalGeneration": prophetnet,
    "LukeForMaskedLM": luke,
    "Pix2StructForConditionalGeneration": pix2struct,
    "RwkvForCausalLM": rwkv,
    "MarianMTModel": marian,
    "IdeficsForVisionText2Text": idefics,
}


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.mark.skipif(not ALL, reason="imports every class; scripts/test --all")
def test_the_table_is_what_transformers_ties():
    """Written anew by scripts/tied."""
    done = subprocess.run([sys.executable, ROOT / "scripts" / "tied", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def write(path, kind, seed, *, tie):
    """A tiny model with values of its own everywhere; its tensors, those that are tied under each of their names."""
    torch.manual_seed(seed)
    model = getattr(transformers, kind)(KINDS[kind](tie)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(path)
    return model.state_dict()


def store(path, tensors):
    save_file({name: each.clone() for name, each in tensors.items()}, path / "model.safetensors", {"format": "pt"})


def values(path, kind):
    """All tensors of a loaded model."""
    model, said = getattr(transformers, kind).from_pretrained(path, output_loading_info=True, dtype=torch.float32)
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    return {name: each.numpy() for name, each in model.state_dict().items() if each.is_floating_point()}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_store_it_and_others(tmp_path, kind):
    """One that ties and stores nothing twice, one that stores it all the same, one that ties nothing."""
    inputs = {name: tmp_path / name for name in ("bare", "untied", "stored")}
    everything = {name: write(path, kind, seed, tie=name != "untied")
                  for seed, (name, path) in enumerate(inputs.items())}  # fmt: skip
    bare, untied, stored = (load_file(path / "model.safetensors") for path in inputs.values())
    twice = untied.keys() - bare.keys()
    assert twice, "this ties nothing"
    store(inputs["stored"], stored | {name: everything["stored"][name] for name in twice})
    each = {name: values(path, kind) for name, path in inputs.items()}
    for base, *others in (["bare", "stored"], ["stored", "bare"], ["bare", "untied", "stored"],
                          ["untied", "bare", "stored"]):  # fmt: skip
        recipe = {
            "merge_method": "task_arithmetic", "base_model": str(inputs[base]), "parameters": {"weight": 0.5},
            "models": [{"model": str(inputs[name])} for name in others],
        }  # fmt: skip
        out = tmp_path / "+".join((base, *others))
        sdmw.merge(recipe, out, progress=False)
        found = values(out, kind)
        for name, array in found.items():
            expected = each[base][name] + 0.5 * sum(each[other][name] - each[base][name] for other in others)
            np.testing.assert_allclose(array, expected, atol=1e-6, err_msg=f"{out.name}: {name}")
        assert (load_file(out / "model.safetensors").keys() == bare.keys()) is ("untied" not in out.name)
        assert sdmw.verify(out, sample=1, progress=False).problems == ()


def test_an_untied_head_under_a_config_that_ties_takes_its_bias_with_it(tmp_path):
    """As some trainers leave it: transformers reads the head as it is stored."""
    kind = "BertForMaskedLM"
    write(tmp_path / "base", kind, 0, tie=True)
    untied = write(tmp_path / "one", kind, 1, tie=False)
    store(tmp_path / "one", {name: each for name, each in untied.items() if name != "cls.predictions.decoder.bias"})
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    (tmp_path / "one" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    recipe = {"merge_method": "task_arithmetic", "base_model": str(tmp_path / "base")}
    sdmw.merge({**recipe, "models": [{"model": str(tmp_path / "one")}]}, tmp_path / "out", progress=False)
    found, expected = (values(tmp_path / name, kind) for name in ("out", "one"))
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-6, err_msg=name)


def test_one_of_two_names_whichever_is_stored(tmp_path):
    """LUKE's bias was saved under the other name by transformers 4."""
    kind = "LukeForMaskedLM"
    for seed, name in enumerate(("base", "one")):
        write(tmp_path / name, kind, seed, tie=True)
    older = load_file(tmp_path / "base" / "model.safetensors")
    older["lm_head.bias"] = older.pop("lm_head.decoder.bias")
    store(tmp_path / "base", older)
    recipe = {"merge_method": "linear", "parameters": {"weight": 0.5}}
    recipe["models"] = [{"model": str(tmp_path / name)} for name in ("base", "one")]
    sdmw.merge(recipe, tmp_path / "out", progress=False)
    found, base, one = (values(tmp_path / name, kind) for name in ("out", "base", "one"))
    for name, array in found.items():
        np.testing.assert_allclose(array, 0.5 * (base[name] + one[name]), atol=1e-6, err_msg=name)


IDS = {"input_ids": torch.tensor([[1, 2, 3]]), "decoder_input_ids": torch.tensor([[1, 2, 3]])}
PATCHES = {"flattened_patches": torch.ones(1, 4, 10), "decoder_input_ids": IDS["decoder_input_ids"]}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "target", "saved", "given"),
    [
        ("T5GemmaForConditionalGeneration", "q_proj", "embed_tokens", IDS),
        ("T5GemmaForConditionalGeneration", "q_proj", "lm_head", IDS),
        ("Pix2StructForConditionalGeneration", "query", "embed_tokens", PATCHES),
        ("Pix2StructForConditionalGeneration", "query", "lm_head", PATCHES),
        ("EncoderDecoderModel", "query", "word_embeddings", IDS),
        ("RobertaForMaskedLM", "query", "word_embeddings", {"input_ids": IDS["input_ids"]}),
    ],
)
def test_what_an_adapter_saves_alone_leaves_the_other_as_it_was(tmp_path, kind, target, saved, given):
    """What peft computes: the head is written under the name that the class has for it."""
    peft = pytest.importorskip("peft", reason="needs the parity extra")
    base, model_class = tmp_path / "base", getattr(transformers, kind)
    write(base, kind, 0, tie=True)
    wanted = peft.LoraConfig(r=2, target_modules=[target], modules_to_save=[saved])
    adapted = peft.get_peft_model(model_class.from_pretrained(base), wanted)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [{"model": str(tmp_path / "adapter")}],
    }
    sdmw.merge(recipe, tmp_path / "out", progress=False)
    values(tmp_path / "out", kind)
    found = model_class.from_pretrained(tmp_path / "out").eval()(**given).logits.detach()
    np.testing.assert_allclose(found, adapted.eval()(**given).logits.detach(), atol=1e-4)
