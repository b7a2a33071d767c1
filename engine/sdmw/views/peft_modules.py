"""What peft can put matrices on: which tensors are weights of such modules, of what kind, under which names.

Source: peft 0.21 (`dispatch_default`, `_convert_peft_config_moe`, `_check_lora_target_modules_mamba`) on the classes of
transformers 5.24; tests/peers/test_in_memory.py holds this against all of them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.tensors.tensor import Tensor
from sdmw.views.conv1d import is_conv1d
from sdmw.views.in_memory import in_memory

Kind = Literal["linear", "conv1d", "embedding"]

# The last module of names whose weight is looked up by rows. `embed` in a name says nothing by itself.
_LOOKED_UP = frozenset((
    "audio_bos_eos_token", "bias_values", "box_position_embeddings", "column_embedder", "column_embeddings",
    "distance_embedding", "embed_audio_tokens", "embed_char", "embed_global", "embed_in", "embed_positions",
    "embed_text_tokens", "embed_tokens", "embed_tokens_per_layer", "embedding", "embeddings",
    "encoder_hash_tok_embedding", "entity_embeddings", "generation_embeddings", "h_position_embeddings",
    "input_embedding", "language_embedding", "ngram_embeddings", "num_speakers_embed", "pe_k", "pos_emb", "pos_embed",
    "position_embedding", "position_embedding_table", "position_embeddings", "positions_embed", "pronunciation_embed",
    "rel_pos_emb", "relative_attention_bias", "row_embedder", "row_embeddings", "segment_emb", "segment_embedding",
    "shape_embed", "shared", "speaker_embedding", "tile_embedding", "tok_embeddings", "token_type_embeddings",
    "tokens_embed", "unit_embedding", "value_embeddings", "visual_embeddings_table", "w_position_embeddings",
    "word_embedding", "word_embeddings", "wpe", "wte", "x_position_embeddings", "y_position_embeddings",
))  # fmt: skip
_LINEAR = frozenset((
    "altup_unembed_projections", "box_linear_embeddings", "embed_out", "embedding_hidden_mapping_in",
    "embedding_projection", "embedding_transformation", "embeddings_project", "entity_embedding_dense",
    "inputs_embeds_projector", "patch_embed", "patch_embedding", "patch_embedding_projection",
    "relative_pos_embeddings", "unembedding_projection", "vision_embed_tokens", "xpath_unitseq2_embeddings",
))  # fmt: skip

# Model types whose experts are stored apart, kept together in memory, and put together by peft when an adapter that
# has them apart is loaded; with the modules' names that it takes for experts, wherever they stand.
_MIXTRAL, _QWEN_MOE = ("w1", "w2", "w3"), ("gate_proj", "up_proj", "down_proj")
_CONVERTED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("mixtral", "minimax", "minimax_m2"), _MIXTRAL),
    **dict.fromkeys((
        "afmoe", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe",
        "exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe",
        "longcat_flash", "mellum", "olmoe", "qwen3_moe", "qwen3_next", "qwen3_omni_moe", "sarvam_mla", "solar_open",
    ), _QWEN_MOE),
}  # fmt: skip
_MAMBA = frozenset(("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"))
_OWN_LAYERS = frozenset(("ibert",))
_EXPERT = re.compile(r"\.experts\.\d+\.")
_ROUTER = re.compile(r"(^|\.)(gate|router|router\.layer)$")


@dataclass(frozen=True, slots=True)
class Module:
    """A module that peft can put matrices on.

    Attributes:
        name: in memory.
        kind: linear; conv1d keeps its weight as (in, out); embedding looks up rows.
    """

    name: str
    kind: Kind


class Modules:
    """Tells of each tensor of a model whether it is the weight of a module that peft takes.

    Args:
        model: the checkpoint.
    """

    def __init__(self, model: Checkpoint) -> None:
        self._model = model
        self._type = str((model.config or {}).get("model_type"))
        self._in_memory = in_memory(model.config, model.tensors)
        together = any(_EXPERT.search(name) for name in model.tensors)
        self._converted = _CONVERTED.get(self._type, ()) if together else ()
        self._vocabularies = set(_vocabularies(model.config or {}))

    def of(self, tensor: Tensor) -> Module | str:
        """The module, or why there is none, as a noun phrase in the plural."""
        if len(tensor.shape) != 2 or not tensor.elements:
            return _unlike_matrices(tensor)
        if not tensor.dtype.merges:
            return "tensors of other dtypes"
        if not tensor.name.endswith(".weight"):
            return "parameters of modules that peft does not support"
        module = tensor.name.removesuffix(".weight")
        if refusal := self._refusal(module):
            return refusal
        kind = self._kind(module, tensor.shape[0])
        if kind is None:
            return "matrices that may or may not be looked up by rows"
        return Module(self._in_memory(tensor.name).removesuffix(".weight"), kind)

    def _refusal(self, module: str) -> str:
        last = module.split(".")[-1]
        if self._type in _OWN_LAYERS or (self._type in _MAMBA and last == "out_proj"):
            return "modules that peft does not support in this model type"
        if self._converted and (last == "gate" or (_EXPERT.search(module) and last in self._converted)):
            return ""
        if last in _CONVERTED.get(self._type, ()):
            return "modules that peft mistakes for experts because of their names"
        if _EXPERT.search(module):
            return "experts, which are one tensor in memory"
        return "routers, which peft does not support" if _ROUTER.search(module) else ""

    def _kind(self, module: str, rows: int) -> Kind | None:
        if is_conv1d(self._model, module):
            return "conv1d"
        *_, above, last = ("", *(part for part in module.split(".") if not part.isdigit()))
        if last in _LINEAR:
            return "linear"
        if above == "quantize" and last == "embedding":
            return None
        if last in _LOOKED_UP or (last == "w" and self._type == "ctrl"):
            return "embedding"
        if "embed" not in last and last not in ("wte", "wpe"):
            return "linear"
        return "embedding" if rows in self._vocabularies else None


def _unlike_matrices(tensor: Tensor) -> str:
    if len(tensor.shape) < 2:
        return "vectors"
    return "experts in one tensor" if "experts" in tensor.name else "tensors of more than two axes"


def _vocabularies(config: Mapping[str, Any]) -> Iterator[int]:
    for name, value in config.items():
        if name == "vocab_size" and type(value) is int:
            yield value
        elif isinstance(value, Mapping) and name.endswith("config"):
            yield from _vocabularies(value)
