"""Experts in the forms of transformers' classes: read in another form they have the bits that transformers gives."""

import os
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from checkpoints_on_disk import write_checkpoint
from peers.test_in_memory import TASKS, built, conversion, modeling_auto, revert_weight_conversion
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.formats import read
from sdmw.tensors.dtype import DType
from sdmw.tensors.stored import Stored
from sdmw.views.experts import reformed
from sdmw.views.in_memory import is_rebuilt
from sdmw.views.renamed import renaming, under

torch = pytest.importorskip("torch", reason="needs the parity extra")
transformers = pytest.importorskip("transformers", reason="needs the parity extra")

pytestmark = pytest.mark.filterwarnings("ignore")

EXPERTS = re.compile(r".*\bexperts\.(gate_up_proj|up_proj|down_proj)(_bias)?")
SMALL = {"e": 3, "i": 4, "h": 5}
KNOWN = (
    "deepseek_v3", "ernie4_5_moe", "glm4_moe", "gpt_oss", "jamba", "llama4", "mixtral", "nemotron_h", "olmoe", "phimoe",
    "qwen2_moe", "qwen3_5_moe", "qwen3_moe", "qwen3_next", "qwen3_vl_moe",
)  # fmt: skip
# Not read in another form: two kinds of experts in one list; more gates than experts.
ELSEWHERE = ("ernie4_5_vl_moe", "longcat_flash")


def classes():
    """Every class of a task that may have experts, by model type; all of them only where everything is tested."""
    for task in TASKS:
        for model_type, name in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").items():
            if os.environ.get("SDMW_FAULTS") == "all" or model_type in KNOWN:
                yield model_type, name if isinstance(name, str) else name[0]


def lengths(leaf, *, transposed):
    """The shape of a fused tensor in the axes of SMALL."""
    e, i, h = SMALL.values()
    if leaf.endswith("_bias"):
        return (e, h) if leaf == "down_proj_bias" else (e, 2 * i)
    wide, narrow = {"gate_up_proj": (2 * i, h), "up_proj": (i, h), "down_proj": (h, i)}[leaf]
    return (e, narrow, wide) if transposed else (e, wide, narrow)


def values_of(model):
    """The tensors in memory: experts as small ones with values, all others without memory."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    for name, shape in shapes.items():
        at, _, leaf = name.rpartition(".")
        if EXPERTS.fullmatch(name) and len(shape) > 1:
            first, down = shapes.get(f"{at}.gate_up_proj", (0, 0, 0)), shapes[f"{at}.down_proj"]
            found[name] = torch.randn(lengths(leaf, transposed=first[2] == 2 * down[1] > 0))
    return found


def table(folder, values, config):
    """A checkpoint of which only experts are stored."""
    here = {name: value.contiguous().numpy() for name, value in values.items() if value.device.type == "cpu"}
    stored = read(write_checkpoint(str(folder), here, config=config)).tensors
    rest = stored_nowhere({name: value for name, value in values.items() if name not in here})
    return Checkpoint(str(folder), (), {**rest, **stored}, config)


def stored_nowhere(values):
    return {name: Stored(name, DType.F32, tuple(value.shape), "f", 0) for name, value in values.items()}


def bits(tensor):
    return tensor.open().tile(0, tensor.elements).tobytes()


@pytest.mark.parametrize(("model_type", "name"), sorted(set(classes())), ids=lambda part: part)
def test_what_is_stored_and_what_lies_in_memory_are_one(tmp_path, model_type, name):
    """In both directions; where transformers rebuilds other modules too, the experts agree but for their prefix."""
    model = built(model_type, name)
    values = values_of(model) if model else {}
    if model_type in ELSEWHERE or all(value.device.type == "meta" for value in values.values()):
        pytest.skip("no experts, or none that are known")
    model._weight_conversions = conversion.get_model_conversion_mapping(model, add_legacy=False)
    saved = revert_weight_conversion(model, dict(values))
    config = {"model_type": model_type, "architectures": [name]}
    there, here = table(tmp_path / "saved", saved, config), table(tmp_path / "memory", values, config)
    for base, model in ((there, here), (here, there)):
        found = reformed(base, model)
        assert found.unlike is None
        result = under(found.model, renaming(base, found.model).names).tensors
        experts = [tensor for tensor in base.tensors.values() if tensor.leaves() and next(tensor.leaves()).file != "f"]
        assert experts
        if is_rebuilt(config):
            read_so = sorted(bits(tensor) for tensor in result.values() if next(tensor.leaves()).file != "f")
            assert read_so == sorted(map(bits, experts))
            continue
        assert {key: tensor.shape for key, tensor in result.items()} == {
            key: tensor.shape for key, tensor in base.tensors.items()
        }
        for tensor in experts:
            assert bits(result[tensor.name]) == bits(tensor), tensor.name


def read_apart(folder, fused, model_type):
    """The experts of a layer in memory, each by itself."""
    at, (count, one, other) = "model.layers.0.mlp.experts", fused.down_proj.shape
    values = {f"{at}.{name}": value.detach() for name, value in fused.named_parameters()}
    inner, hidden = (one, other) if fused.gate_up_proj.shape[1] == other else (other, one)
    shapes = {"gate_proj.weight": (inner, hidden), "up_proj.weight": (inner, hidden)}
    shapes |= {"down_proj.weight": (hidden, inner), "gate_proj.bias": (inner,), "up_proj.bias": (inner,)}
    shapes |= {"down_proj.bias": (hidden,)}
    base = {f"{at}.{e}.{leaf}": torch.empty(shape, device="meta") for e in range(count)
            for leaf, shape in shapes.items() if "weight" in leaf or len(values) > 2}  # fmt: skip
    config = {"model_type": model_type}
    found = reformed(Checkpoint("/x", (), stored_nowhere(base), config), table(folder, values, config)).model.tensors
    assert found.keys() == base.keys()
    return [
        {leaf: torch.frombuffer(bytearray(bits(found[f"{at}.{e}.{leaf}"])), dtype=torch.float32).reshape(shape)
         for leaf, shape in shapes.items() if f"{at}.{e}.{leaf}" in found}
        for e in range(count)
    ]  # fmt: skip


def randomised(experts):
    for value in experts.parameters():
        torch.nn.init.normal_(value)
    return experts.eval()


def test_gate_and_up_alternate_in_gpt_oss(tmp_path):
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

    config = transformers.GptOssConfig(hidden_size=6, intermediate_size=10, num_local_experts=2)
    experts = randomised(GptOssExperts(config))
    x = torch.randn(1, 6)
    for expert, own in enumerate(read_apart(tmp_path / "x", experts, "gpt_oss")):
        gate = torch.nn.functional.linear(x, own["gate_proj.weight"], own["gate_proj.bias"]).clamp(max=experts.limit)
        up = torch.nn.functional.linear(x, own["up_proj.weight"], own["up_proj.bias"])
        gated = (up.clamp(-experts.limit, experts.limit) + 1) * gate * torch.sigmoid(gate * experts.alpha)
        expected = torch.nn.functional.linear(gated, own["down_proj.weight"], own["down_proj.bias"])
        found = experts(x, torch.tensor([[expert]]), torch.ones(1, 1))
        torch.testing.assert_close(found.reshape(1, 6), expected)


def test_llama_4_is_transposed(tmp_path):
    from transformers.models.llama4.modeling_llama4 import Llama4TextExperts

    config = transformers.Llama4TextConfig(hidden_size=6, intermediate_size=10, num_local_experts=2)
    experts = randomised(Llama4TextExperts(config))
    x = torch.randn(2, 6)  # a row for each expert
    found = experts(x).reshape(2, 6)
    for expert, own in enumerate(read_apart(tmp_path / "x", experts, "llama4_text")):
        assert_gated_product(own, x[expert], found[expert])


@pytest.mark.parametrize("model_type", ["qwen3_moe", "qwen3_vl_moe", "mixtral"])
def test_others_have_the_gate_before_up(tmp_path, model_type):
    module = __import__(f"transformers.models.{model_type}.modeling_{model_type}", fromlist=["x"])
    kind = next(
        getattr(module, name)
        for name in dir(module)
        if re.fullmatch(r"\w+(Text|Mixtral|Moe)Experts|MixtralExperts", name)
    )
    config = transformers.CONFIG_MAPPING["qwen3_vl_moe_text" if model_type == "qwen3_vl_moe" else model_type](
        hidden_size=6, intermediate_size=10, moe_intermediate_size=10, num_experts=2, num_local_experts=2
    )
    experts = randomised(kind(config))
    x = torch.randn(1, 6)
    for expert, own in enumerate(read_apart(tmp_path / "x", experts, model_type)):
        found = experts(x, torch.tensor([[expert]]), torch.ones(1, 1))
        assert_gated_product(own, x[0], found.reshape(6))


def assert_gated_product(own, x, found):
    gated = torch.nn.functional.silu(own["gate_proj.weight"] @ x) * (own["up_proj.weight"] @ x)
    torch.testing.assert_close(found, own["down_proj.weight"] @ gated)


TINY = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 12, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "num_experts": 4, "num_local_experts": 4,
    "num_experts_per_tok": 2, "tie_word_embeddings": False,
}  # fmt: skip


def tiny(model_type, folder):
    """A model, saved as transformers does, and as its tensors lie in memory."""
    config = transformers.CONFIG_MAPPING[model_type](**TINY)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.05)
    model.save_pretrained(folder)
    values = {name: value.detach().contiguous().numpy() for name, value in model.state_dict().items()}
    write_checkpoint(f"{folder}-memory", values, config=config.to_dict() | {"architectures": [type(model).__name__]})
    return values


@pytest.mark.parametrize("method", ["linear", "sdm_w", "ties"])
@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral", "phimoe"])
def test_a_merge_is_the_one_after_conversion_by_transformers(tmp_path, monkeypatch, model_type, method):
    """Models of one form into a base of the other; the second is read and saved anew by transformers for the twin."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for name in ("base", "one", "two"):
        tiny(model_type, name)

    def merge(base, *models, out):
        parameters = {"weight": 0.5, **({"density": 0.5} if method == "ties" else {})} if method != "sdm_w" else {}
        recipe = {"merge_method": method, "base_model": base, "models": list(models), "parameters": parameters}
        report = sdmw.merge(recipe, out, progress=False)
        assert sdmw.verify(out, sample=1, progress=False).problems == ()
        return load_file(f"{out}/model.safetensors"), report

    def assert_same(found, expected):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name].view(np.uint32), value.view(np.uint32), err_msg=name)

    found, report = merge("base", "one-memory", "two", out="apart")
    assert_same(found, merge("base", "one", "two", out="twin-apart")[0])
    assert "model 'one-memory': experts of 2 layers are stored fused and read apart" in report.notes
    found, report = merge("base-memory", "one", "two-memory", out="fused")
    assert_same(found, merge("base-memory", "one-memory", "two-memory", out="twin-fused")[0])
    assert "model 'one': experts of 2 layers are stored apart and read as fused" in report.notes
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained("apart", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    if method != "linear":
        return  # others decide tensor by tensor, and a fused tensor is one
    for name, value in found.items():
        np.testing.assert_array_equal(loaded.state_dict()[name].numpy(), value, err_msg=name)
