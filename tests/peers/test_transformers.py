"""What is written loads in transformers 5 as any other checkpoint, and holds what the reference says."""

import json
import logging
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

EXTRA = "pip install 'sdmw[parity]'"
torch = pytest.importorskip("torch", reason=EXTRA)
transformers = pytest.importorskip("transformers", reason=EXTRA)
accelerate = pytest.importorskip("accelerate", reason=EXTRA)

from safetensors.torch import load_file, save_file  # noqa: E402

import sdmw  # noqa: E402
from reference import sdm_w as reference  # noqa: E402

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
BITS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}

transformers.utils.logging.disable_progress_bar()


class Records(logging.Handler):
    """What a logger said, from warnings on."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read at import


@pytest.fixture
def quiet():
    """transformers has nothing to warn of; what it raises as a Python warning is an error in all tests."""
    logger, records = logging.getLogger("transformers"), Records()
    logger.addHandler(records)
    yield
    logger.removeHandler(records)
    assert records.said == []


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The example's own recipe, merged."""
    out = tmp_path_factory.mktemp("example") / "merged"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # its paths are relative
        sdmw.merge("tests/data/recipe.yaml", out, progress=False)
    return out


@pytest.fixture(scope="module")
def expected_of_example():
    """The reference's merge of the example, as float32 tensors by name."""
    return reference_merge(*(stored(DATA / name) for name in ("base", "corp", "func")))


def stored(directory):
    """All tensors of a checkpoint as they lie in its files."""
    return {
        name: tensor for shard in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(shard).items()
    }


def reference_merge(base, *tunes):
    """SDM-W with its defaults, by tests/reference, before the last rounding; a layer is a tensor."""
    wide, *others = [{n: np.asarray(t.float().numpy()) for n, t in model.items()} for model in (base, *tunes)]
    kept = [{} for _ in others]
    for mine, tune in zip(kept, others, strict=True):
        for name, array in wide.items():
            delta = reference.deltas(array, tune[name])
            mine[name] = reference.kept(delta, reference.threshold([delta], 10))
    # As exact as the reference's own sum of fractions, which takes ten seconds for the example.
    magnitudes = [math.fsum(np.abs(np.concatenate([a.ravel() for a in mine.values()]))) for mine in kept]
    weights = reference.weights(magnitudes, 1)
    merged = {n: reference.merged(a, [mine[n] for mine in kept], weights, 1) for n, a in wide.items()}
    return {name: torch.from_numpy(np.asarray(array)) for name, array in merged.items()}


def recipe(base, *tunes, **fields):
    return {"merge_method": "sdm_w", "base_model": str(base), "models": [{"model": str(t)} for t in tunes], **fields}


def merged_example(out, *, max_shard_size="5GB", **fields):
    sdmw.merge(
        recipe(DATA / "base", DATA / "corp", DATA / "func", **fields), out, progress=False,
        max_shard_size=max_shard_size,
    )  # fmt: skip
    return out


def loaded(directory, auto=transformers.AutoModelForCausalLM):
    """A model, of which transformers misses nothing and finds nothing too much."""
    model, info = auto.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def assert_bits(found, expected):
    assert {name: tensor.dtype for name, tensor in found.items()} == {n: t.dtype for n, t in expected.items()}
    for name, tensor in expected.items():
        of = BITS[tensor.dtype]
        assert torch.equal(found[name].view(of), tensor.contiguous().view(of)), name


def assembled(like, tensors):
    """A model of that configuration with these tensors put in by torch."""
    model = type(like)(like.config).to(like.dtype)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert unexpected == []
    assert set(missing) <= {"lm_head.weight"}  # where it is tied
    model.tie_weights()
    return model


@pytest.mark.parametrize(("dtype", "shard"), [(None, "5GB"), (None, "700KB"), ("float32", "700KB"), ("float16", "5GB")])
def test_the_example_is_one_assembled_in_torch(quiet, tmp_path, expected_of_example, dtype, shard):
    out = merged_example(tmp_path / "out", max_shard_size=shard, **({"out_dtype": dtype} if dtype else {}))
    assert (len(list(out.glob("*.safetensors"))) > 1) == (shard == "700KB")
    model = loaded(out)
    wanted = getattr(torch, dtype or "bfloat16")
    assert model.dtype == wanted
    assert {tensor.dtype for tensor in stored(out).values()} == {wanted}
    rounded = {name: tensor.to(wanted) for name, tensor in expected_of_example.items()}
    assert_bits(model.state_dict(), assembled(model, rounded).state_dict())


def test_the_example_generates_what_its_twin_in_torch_generates(quiet, example, expected_of_example):
    tokenizer = transformers.AutoTokenizer.from_pretrained(example)
    model = loaded(example)
    question = [{"role": "user", "content": "What is 2 + 2?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert answer.shape[1] > prompt["input_ids"].shape[1]
    twin = assembled(model, {name: tensor.bfloat16() for name, tensor in expected_of_example.items()})
    assert torch.equal(answer, twin.generate(**prompt, max_new_tokens=12, do_sample=False))
    assert tokenizer.decode(answer[0], skip_special_tokens=True)


def test_the_example_is_neither_the_base_nor_an_expert(example):
    ours = stored(example)
    for name in ("base", "corp", "func"):
        other = stored(DATA / name)
        assert ours.keys() == other.keys()
        assert not any(torch.equal(ours[tensor], other[tensor]) for tensor in ours if ours[tensor].dim() > 1)


def test_the_tokenizer_is_the_base_s(quiet, example):
    ours, base = (transformers.AutoTokenizer.from_pretrained(path) for path in (example, DATA / "base"))
    assert ours.get_vocab() == base.get_vocab()
    assert ours.special_tokens_map == base.special_tokens_map
    assert ours.chat_template == base.chat_template
    for text in ("def f(x):\n    return x", '{"name": "buy"}', "naïve — ☃ 漢字 \t  two  spaces"):
        tokens = ours(text)["input_ids"]
        assert tokens == base(text)["input_ids"]
        assert ours.decode(tokens) == text


def test_the_generation_config_is_the_base_s(example):
    ours, base = (transformers.GenerationConfig.from_pretrained(path) for path in (example, DATA / "base"))
    assert ours == base


def test_accelerate_finds_the_shards(tmp_path):
    """accelerate reads the index itself."""
    out = merged_example(tmp_path / "out", max_shard_size="700KB")
    with accelerate.init_empty_weights():
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(out))
    model.tie_weights()
    model = accelerate.load_checkpoint_and_dispatch(model, str(out), device_map={"": "cpu"}, dtype=torch.bfloat16)
    assert_bits(dict(model.state_dict()), loaded(out).state_dict())


SMALL = {"vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = SMALL | {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
}
EXPERTS = {"num_local_experts": 3, "num_experts_per_tok": 2}
MODELS = {
    "llama, tied": transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "llama, untied": transformers.LlamaConfig(**LLAMA, tie_word_embeddings=False),
    "gpt2, tied": transformers.GPT2Config(**SMALL, n_embd=24, n_layer=2, n_head=3, n_positions=32),
    "qwen3, tied": transformers.Qwen3Config(**LLAMA, head_dim=8, tie_word_embeddings=True),
    "mixtral, untied": transformers.MixtralConfig(**LLAMA, **EXPERTS, tie_word_embeddings=False),
}


def family(folder, kind, dtype):
    """A base and two fine-tunes of it, random; the last in shards."""
    torch.manual_seed(11)
    model = transformers.AutoModelForCausalLM.from_config(MODELS[kind]).to(dtype)
    paths = []
    for name in ("base", "one", "two"):
        if paths:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.01 * torch.randn_like(parameter) * (torch.rand_like(parameter) < 0.7)
        paths.append(folder / name)
        model.save_pretrained(paths[-1], max_shard_size="8KB" if name == "two" else "5GB")
    assert len(list(paths[-1].glob("*.safetensors"))) > 1
    return paths


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", MODELS)
def test_an_architecture_merges_and_loads(quiet, tmp_path, kind, dtype):
    base, *tunes = family(tmp_path, kind, dtype)
    out = tmp_path / "out"
    sdmw.merge(recipe(base, *tunes), out, progress=False, max_shard_size="10KB")
    found = stored(out)
    expected = {name: tensor.to(dtype) for name, tensor in reference_merge(*map(stored, (base, *tunes))).items()}
    assert_bits(found, expected)
    model = loaded(out)
    assert model.config.model_type == MODELS[kind].model_type
    assert model.dtype == dtype
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == kind.endswith(", tied")
    assert model.generate(torch.tensor([[1, 5, 7]]), max_new_tokens=8, do_sample=False, pad_token_id=0).shape[1] > 3


def test_a_head_stored_though_it_is_tied_is_dropped(quiet, tmp_path):
    """Trainers write it; with it transformers would find a key too much, or untie the model."""
    base, one, two = family(tmp_path, "llama, tied", torch.float32)
    tensors = stored(one)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, one / "model.safetensors", metadata={"format": "pt"})
    report = sdmw.merge(recipe(base, one, two), tmp_path / "out", progress=False)
    assert any("lm_head.weight" in said for said in (*report.warnings, *report.notes))
    model = loaded(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("keys", [("torch_dtype",), ("dtype", "torch_dtype"), ()], ids=["version 4", "both", "neither"])
@pytest.mark.filterwarnings("ignore:.*torch_dtype.*:FutureWarning")
def test_the_dtype_asked_for_is_the_one_transformers_loads(tmp_path, keys):
    """Whatever transformers the base's configuration was written by."""
    base, *tunes = family(tmp_path, "llama, tied", torch.bfloat16)
    config = json.loads((base / "config.json").read_text())
    del config["dtype"]
    (base / "config.json").write_text(json.dumps(config | dict.fromkeys(keys, "bfloat16")))
    sdmw.merge(recipe(base, *tunes, out_dtype="float32"), tmp_path / "out", progress=False)
    assert loaded(tmp_path / "out").dtype == torch.float32


def test_an_encoder_merges_and_loads(quiet, tmp_path):
    """Biases, layer norms that end in a number's module, a head tied to the embedding."""
    config = transformers.BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=24, max_position_embeddings=16)  # fmt: skip
    paths = []
    for number, name in enumerate(("base", "one")):
        torch.manual_seed(number)
        paths.append(tmp_path / name)
        transformers.BertForMaskedLM(config).save_pretrained(paths[-1])
    sdmw.merge(recipe(*paths), tmp_path / "out", progress=False)
    model = loaded(tmp_path / "out", transformers.AutoModelForMaskedLM)
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_a_template_and_settings_of_a_model_are_loaded(tmp_path, monkeypatch):
    """Whether a tokenizer keeps its template in its config, or in a file."""
    for name in ("base", "corp", "func"):
        shutil.copytree(DATA / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained("corp")
    tokenizer.chat_template = {"default": "{{ messages[0].content }} of corp", "rag": "rag of corp"}
    tokenizer.save_pretrained("corp")
    transformers.GenerationConfig(temperature=0.25, do_sample=True).save_pretrained("func")
    recipe = {"merge_method": "linear", "base_model": "base", "models": [{"model": "corp"}, {"model": "func"}],
              "parameters": {"weight": 0.5}, "chat_template": "corp", "generation_config": "func"}  # fmt: skip
    for number, template in enumerate((None, "{{ messages }} of the base")):
        if template:
            config = json.loads(Path("base/tokenizer_config.json").read_text())
            Path("base/tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
        sdmw.merge(recipe, f"out{number}", progress=False)
        loaded = transformers.AutoTokenizer.from_pretrained(f"out{number}")
        assert loaded.chat_template == tokenizer.chat_template
        said = loaded.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
        assert said == "hello of corp"
        assert transformers.GenerationConfig.from_pretrained(f"out{number}").temperature == 0.25
