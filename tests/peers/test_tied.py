"""Tied heads against transformers: what each input's model computes is what is merged, whatever its file stores."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import sdmw
from sdmw.errors import PlanError

torch = pytest.importorskip("torch", reason="needs the parity extra")
transformers = pytest.importorskip("transformers", reason="needs the parity extra")
from safetensors.torch import load_file, save_file  # noqa: E402

KINDS = {
    "llama": (
        transformers.LlamaConfig, transformers.LlamaForCausalLM, "lm_head.weight", "model.embed_tokens.weight",
        {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40},
    ),
    "gpt2": (
        transformers.GPT2Config, transformers.GPT2LMHeadModel, "lm_head.weight", "transformer.wte.weight",
        {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 40},
    ),
    "t5": (
        transformers.T5Config, transformers.T5ForConditionalGeneration, "lm_head.weight", "shared.weight",
        {"d_model": 8, "d_ff": 16, "d_kv": 4, "num_layers": 1, "num_heads": 2, "vocab_size": 40},
    ),
    "whisper": (
        transformers.WhisperConfig, transformers.WhisperForConditionalGeneration, "proj_out.weight",
        "model.decoder.embed_tokens.weight",
        {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "vocab_size": 40,
         "max_source_positions": 8, "max_target_positions": 8, "num_mel_bins": 4, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    ),
    "openai-gpt": (
        transformers.OpenAIGPTConfig, transformers.OpenAIGPTLMHeadModel, "lm_head.weight",
        "transformer.tokens_embed.weight",
        {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 40},
    ),
    "ctrl": (
        transformers.CTRLConfig, transformers.CTRLLMHeadModel, "lm_head.weight", "transformer.w.weight",
        {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 40, "dff": 16},
    ),
    "xlnet": (
        transformers.XLNetConfig, transformers.XLNetLMHeadModel, "lm_loss.weight", "transformer.word_embedding.weight",
        {"d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 16, "vocab_size": 40},
    ),
    "xlm": (
        transformers.XLMConfig, transformers.XLMWithLMHeadModel, "pred_layer.proj.weight",
        "transformer.embeddings.weight", {"emb_dim": 8, "n_layers": 1, "n_heads": 2, "vocab_size": 40},
    ),
}  # fmt: skip

# How an input keeps its head: what the config says, and what the file stores.
TIED, EQUAL, OWN, BARE = "tied, not stored", "tied, stored equal", "untied, stored", "untied, stored equal"
WAYS = (TIED, EQUAL, OWN, BARE)


def write(path, kind, way, seed):
    """A tiny model, its file edited to keep the head in a way."""
    config_class, model_class, head, embedding, sizes = KINDS[kind]
    torch.manual_seed(seed)
    tie = way in (TIED, EQUAL)
    model = model_class(config_class(**sizes, tie_word_embeddings=tie)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(path)
    tensors = load_file(path / "model.safetensors")
    table = tensors[embedding]
    tensors.pop(head, None)
    if way in (EQUAL, BARE):
        tensors[head] = table.clone()
    elif way == OWN:
        tensors[head] = torch.randn_like(table)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def loaded(path, kind):
    """Embedding and head as transformers has them, and that nothing was missing or unexpected but what is tied."""
    model, said = KINDS[kind][1].from_pretrained(path, output_loading_info=True, dtype=torch.float32)
    assert not said["unexpected_keys"]
    assert set(said["missing_keys"]) <= {KINDS[kind][2]}
    return model.get_input_embeddings().weight.detach().numpy(), model.get_output_embeddings().weight.detach().numpy()


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.mark.parametrize(("base", "one", "two"), list(itertools.product(WAYS, WAYS, (TIED, OWN))))
@pytest.mark.parametrize("kind", ["llama"])
def test_every_combination(tmp_path, kind, base, one, two):
    check(tmp_path, kind, base, one, two)


@pytest.mark.parametrize(
    ("base", "one", "two"),
    [(TIED, TIED, EQUAL), (EQUAL, TIED, EQUAL), (TIED, OWN, TIED), (OWN, TIED, OWN), (TIED,) * 3, (OWN,) * 3],
)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "llama"])
def test_other_architectures(tmp_path, kind, base, one, two):
    check(tmp_path, kind, base, one, two)


def check(folder, kind, base, one, two):
    ways = {"base": base, "one": one, "two": two}
    paths = {name: write(folder / name, kind, way, seed) for seed, (name, way) in enumerate(ways.items())}
    recipe = {
        "merge_method": "task_arithmetic", "base_model": str(paths["base"]),
        "models": [{"model": str(paths[name])} for name in ("one", "two")], "parameters": {"weight": 0.5},
    }  # fmt: skip
    sdmw.merge(recipe, folder / "out", progress=False)
    each = {name: loaded(path, kind) for name, path in paths.items()}
    expected = [
        each["base"][part] + 0.5 * ((each["one"][part] - each["base"][part]) + (each["two"][part] - each["base"][part]))
        for part in (0, 1)
    ]
    found = loaded(folder / "out", kind)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert sdmw.verify(folder / "out", sample=1, progress=False).problems == ()


def test_a_head_of_its_own_changes_no_scale(tmp_path):
    """T5 takes from `tie_word_embeddings` too whether the decoder's output is scaled: logits are the input's."""
    base = write(tmp_path / "base", "t5", TIED, 0)
    one = write(tmp_path / "one", "t5", OWN, 1)
    (one / "config.json").write_bytes((base / "config.json").read_bytes())
    ours = {"merge_method": "task_arithmetic", "base_model": str(base), "models": [{"model": str(one)}]}
    sdmw.merge(ours, tmp_path / "out", progress=False)
    ids = torch.tensor([[1, 2, 3]])
    logits = [
        KINDS["t5"][1].from_pretrained(path, dtype=torch.float32)(input_ids=ids, decoder_input_ids=ids).logits.detach()
        for path in (one, tmp_path / "out")
    ]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_an_index_that_names_a_head_that_no_shard_stores(tmp_path, kind):
    """As some trainers leave it; transformers ties it, and so does the merge."""
    base, one = (write(tmp_path / name, kind, TIED, seed) for seed, name in enumerate(("base", "one")))
    for folder in (base, one):
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        names = [*load_file(folder / "model-00001-of-00001.safetensors"), KINDS[kind][2]]
        weight_map = dict.fromkeys(names, "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    recipe = {"merge_method": "linear", "models": [{"model": str(each)} for each in (base, one)]}
    recipe["parameters"] = {"weight": 0.5}
    report = sdmw.merge(recipe, tmp_path / "out", progress=False)
    assert sum("no shard stores: the embedding is used instead" in said for said in report.warnings) == 2
    found, *each = (loaded(path, kind) for path in (tmp_path / "out", base, one))
    for part in (0, 1):
        np.testing.assert_allclose(found[part], 0.5 * (each[0][part] + each[1][part]), atol=1e-6)


def test_an_untied_model_without_a_head_is_refused(tmp_path):
    """Transformers would make one up."""
    base = write(tmp_path / "base", "llama", OWN, 0)
    one = write(tmp_path / "one", "llama", TIED, 1)
    config = json.loads(Path(one, "config.json").read_text())
    Path(one, "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(PlanError, match=r"expected tensor 'lm_head\.weight', found no such tensor"):
        sdmw.merge({"merge_method": "task_arithmetic", "base_model": str(base), "models": [{"model": str(one)}]},
                   tmp_path / "out", progress=False)  # fmt: skip


BART = {
    "vocab_size": 40, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 16,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": 2,
}  # fmt: skip
SIDES = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")


def write_bart(path, model_class, config_class, seed, *, tie, own=True):
    """A tiny model of BART's family; `own`: untied, its encoder and decoder have other embeddings than the shared."""
    torch.manual_seed(seed)
    model = model_class(config_class(**BART, tie_word_embeddings=tie)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        tensors = model.state_dict()
        if not own:
            for name in SIDES:
                tensors[name].copy_(tensors["model.shared.weight"])
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("base", "one"),
    [
        ({"tie": False}, {"tie": False}),
        ({"tie": False, "own": False}, {"tie": False, "own": False}),
        ({"tie": True}, {"tie": True}),
        ({"tie": True}, {"tie": False, "own": False}),
        ({"tie": True}, {"tie": False}),
        ({"tie": False}, {"tie": True}),
    ],
)
@pytest.mark.parametrize("family", ["Bart", "MBart", "M2M100"])
def test_encoder_and_decoder_share_where_the_config_ties(tmp_path, family, base, one):
    """Untied, transformers 5 wants the embeddings of both, as the fine-tune's model has them."""
    model_class = getattr(transformers, f"{family}ForConditionalGeneration")
    config_class = getattr(transformers, f"{family}Config")
    for seed, (name, way) in enumerate((("base", base), ("one", one))):
        write_bart(tmp_path / name, model_class, config_class, seed, **way)
    recipe = {"merge_method": "task_arithmetic", "base_model": str(tmp_path / "base")}
    sdmw.merge({**recipe, "models": [{"model": str(tmp_path / "one")}]}, tmp_path / "out", progress=False)
    ids = torch.tensor([[1, 2, 3]])
    logits = []
    for name in ("one", "out"):
        model, said = model_class.from_pretrained(tmp_path / name, output_loading_info=True, dtype=torch.float32)
        assert not said["missing_keys"]
        assert not said["unexpected_keys"]
        logits.append(model.eval()(input_ids=ids, decoder_input_ids=ids).logits.detach())
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4)
    assert (set(SIDES) <= set(load_file(tmp_path / "out" / "model.safetensors"))) is not (base["tie"] and one["tie"])
    assert sdmw.verify(tmp_path / "out", sample=1, progress=False).problems == ()


@pytest.mark.parametrize(("above", "below"), list(itertools.product((True, False), repeat=2)))
def test_a_language_model_in_a_larger_one_is_tied_where_transformers_ties_it(tmp_path, above, below):
    """Whatever the vision model's config says; a head that equals its embedding is written where none is tied."""
    text = {**KINDS["llama"][4], "model_type": "llama"}
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 8, "patch_size": 4,
    }  # fmt: skip
    for seed, name in enumerate(("base", "one")):
        torch.manual_seed(seed)
        config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=3)
        transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path / name)
        weights = tmp_path / name / "model.safetensors"
        tensors = load_file(weights)
        head, embedding = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
        tensors[head] = tensors[embedding].clone()
        save_file(tensors, weights, metadata={"format": "pt"})
        written = json.loads((tmp_path / name / "config.json").read_text())
        written["vision_config"] |= {"tie_word_embeddings": not (above or below)}
        written["text_config"] |= {"tie_word_embeddings": below}
        ordered = {"vision_config": written.pop("vision_config"), **written, "tie_word_embeddings": above}
        (tmp_path / name / "config.json").write_text(json.dumps(ordered))
    recipe = {"merge_method": "linear", "models": [{"model": str(tmp_path / name)} for name in ("base", "one")]}
    sdmw.merge({**recipe, "parameters": {"weight": 0.5}}, tmp_path / "out", progress=False)
    model, said = transformers.LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True, dtype=torch.float32
    )
    assert not said["missing_keys"]
    assert (head in load_file(tmp_path / "out" / "model.safetensors")) is not (above or below)
    assert model.config.tie_word_embeddings is (above or below)
