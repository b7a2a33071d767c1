"""Names in memory and kinds of modules, against transformers' own classes: built without memory, read as saved."""

import os
import re

import pytest

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.tensors.dtype import DType
from sdmw.tensors.stored import Stored
from sdmw.views.in_memory import in_memory, is_rebuilt
from sdmw.views.peft_modules import Module, Modules

torch = pytest.importorskip("torch", reason="needs the parity extra")
transformers = pytest.importorskip("transformers", reason="needs the parity extra")
conversion = pytest.importorskip("transformers.conversion_mapping", reason="needs transformers 5")
from transformers.core_model_loading import revert_weight_conversion  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

TASKS = ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SPEECH_SEQ_2_SEQ", "MASKED_LM")
KNOWN = (
    "albert", "aria", "bart", "bert", "bloom", "ctrl", "deepseek_v3", "electra", "falcon", "fuyu", "gemma2", "gemma3",
    "gpt2", "gpt_bigcode", "gpt_neox", "gpt_oss", "gptj", "idefics3", "internvl", "llama", "llama4", "llava",
    "llava_next", "mamba", "mistral3", "mixtral", "mllama", "mpt", "opt", "paligemma", "phi3", "pix2struct",
    "prophetnet", "qwen2_5_vl", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_moe", "qwen3_vl", "roberta", "t5", "whisper",
)  # fmt: skip
LAYERS = (
    "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_encoder_layers",
    "num_decoder_layers", "depth",
)  # fmt: skip
PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers")


def classes():
    """Every class of a task, by model type; all of them only where everything is tested."""
    found = {}
    for task in TASKS:
        for model_type, name in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").items():
            if os.environ.get("SDMW_FAULTS") == "all" or model_type in KNOWN:
                found[model_type, name if isinstance(name, str) else name[0]] = None
    return sorted(found)


def shrink(config):
    """Few layers: the names of the others are the same."""
    for name, value in list(vars(config).items()):
        if isinstance(value, transformers.PretrainedConfig):
            shrink(value)
        elif name in LAYERS and isinstance(value, int) and value > 2:
            setattr(config, name, 2)
        elif name in PER_LAYER and isinstance(value, list):
            setattr(config, name, value[:2])
        elif name in ("num_experts", "n_routed_experts", "num_local_experts") and isinstance(value, int) and value > 8:
            setattr(config, name, 8)


def built(model_type, name):
    """The class with its default config, and no memory; None where it cannot be built without more."""
    for smaller in (True, False):
        try:
            config = transformers.CONFIG_MAPPING[model_type]()
            if smaller:
                shrink(config)
            with torch.device("meta"):
                return getattr(transformers, name)._from_config(config)
        except Exception:  # whatever a class lacks here
            continue
    return None


def stored(model):
    """The tensors as `save_pretrained` would write them."""
    model._weight_conversions = conversion.get_model_conversion_mapping(model, add_legacy=False)
    values = {name: torch.empty(tensor.shape, device="meta") for name, tensor in model.state_dict().items()}
    saved = revert_weight_conversion(model, values)
    return {name: Stored(name, DType.F32, tuple(tensor.shape), "f", 0) for name, tensor in saved.items()}


def kind_of(module):
    kinds = {torch.nn.Linear: "linear", torch.nn.Embedding: "embedding", Conv1D: "conv1d"}
    return next((kind for cls, kind in kinds.items() if isinstance(module, cls)), None)


@pytest.mark.parametrize(("model_type", "name"), classes(), ids=lambda part: part)
def test_a_module_has_the_name_and_the_kind_that_is_said(model_type, name):
    model = built(model_type, name)
    if model is None:
        pytest.skip("its default config builds nothing")
    config = {
        "model_type": model_type,
        "architectures": [name],
        "vocab_size": getattr(model.config.get_text_config(), "vocab_size", None),
    }
    tensors, inside = stored(model), dict(model.named_modules())
    if is_rebuilt(config):
        return
    to_memory = in_memory(config, inside)
    assert all(to_memory(module) == module for module, _ in model.named_parameters())
    modules = Modules(Checkpoint("/x", (), tensors, config))
    for tensor in tensors.values():
        found = modules.of(tensor)
        # Experts and their routers have names of their own in adapters, which peft converts.
        if isinstance(found, Module) and not re.search(r"\.experts\.|\.gate$", found.name):
            assert (found.name, kind_of(inside.get(found.name))) == (found.name, found.kind)


@pytest.mark.skipif(os.environ.get("SDMW_FAULTS") != "all", reason="builds every class; scripts/test --all")
def test_no_class_that_is_refused_could_be_taken():
    """A type whose tensors are stored under the names in memory is not refused."""
    for model_type, name in classes():
        model = built(model_type, name)
        if model is not None and is_rebuilt({"model_type": model_type}):
            assert any(tensor not in dict(model.named_parameters()) for tensor in stored(model)), name
