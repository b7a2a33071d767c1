"""Names that tensors have in memory, where peft looks for modules; a checkpoint may store them under others.

Source: transformers 5.24, `conversion_mapping.py`; tests/peers/test_in_memory.py holds this against its classes.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.wrappers import bare

Rename = Callable[[str], str]
_Rules = tuple[tuple[str, str], ...]  # patterns at the beginning of a name, each tried on what the one before has left

_TOWER = (r"model\.(vision_tower|vision_model|image_tower|video_tower)\.vision_model\.", r"model.\1.")
_LLAVA: _Rules = (
    (r"language_model\.lm_head\.", "lm_head."),
    (r"language_model\.model\.", "model.language_model."),
    (r"(?!model\.|lm_head\.|score\.)", "model."),
    _TOWER,
)
_QWEN_VL: _Rules = (
    (r"visual\.", "model.visual."),
    (r"model\.(?!language_model\.|visual\.)", "model.language_model."),
)
_ARIA: _Rules = (
    (r"(.+\.mlp\.experts)\.fc1\.weight$", r"\1.gate_up_proj"),
    (r"(.+\.mlp\.experts)\.fc2\.weight$", r"\1.down_proj"),
)
_GRANITE_MOE: _Rules = (
    (r"(.+\.block_sparse_moe)\.input_linear\.weight$", r"\1.experts.gate_up_proj"),
    (r"(.+\.block_sparse_moe)\.output_linear\.weight$", r"\1.experts.down_proj"),
    (r"(.+\.block_sparse_moe\.router)\.layer\.", r"\1."),
)
_BY_TYPE: Mapping[str, _Rules] = {
    **dict.fromkeys((
        "audioflamingo3", "aya_vision", "fuyu", "gemma3", "glmasr", "got_ocr2", "granite_speech",
        "granite_speech_plus", "internvl", "llava", "llava_next", "llava_next_video", "llava_onevision", "mistral3",
        "mllama", "musicflamingo", "paligemma", "qwen2_audio", "vibevoice_asr", "video_llava", "vipllava", "voxtral",
        "voxtral_realtime",
    ), _LLAVA),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), _QWEN_VL),
    **dict.fromkeys(("cohere2_vision", "deepseek_vl", "deepseek_vl_hybrid", "lfm2_vl", "modernvbert"), (_TOWER,)),
    # Language models that are stored as part of one that sees.
    **dict.fromkeys((
        "apertus1p5_text", "gemma3n_text", "qwen3_5_moe_text", "qwen3_5_text", "qwen4_exp_text",
    ), ((r"model\.language_model\.", "model."),)),
    **dict.fromkeys(("siglip", "siglip2"), ((r"vision_model\.vision_model\.", "vision_model."),)),
    "aria": (*_LLAVA, *_ARIA),
    "aria_text": _ARIA,
    **dict.fromkeys(("granitemoe", "granitemoehybrid", "granitemoeshared"), _GRANITE_MOE),
    "axk1": ((r"(.+\.layers\.\d+)\.post_mlp_layernorm\.", r"\1.mlp.post_mlp_layernorm."),),
    "ernie4_5_moe": ((r"(.+\.mlp)\.moe_statics\.", r"\1.gate.moe_statics."),),
    "exaone_moe": ((r"(.+\.mlp)\.e_score_correction_bias$", r"\1.gate.e_score_correction_bias"),),
    "flint": ((r"(.+\.self_attn)\.softmax_offset$", r"\1.sinks"),),
    "gpt_neox": ((r"embed_out\.", "lm_head."),),
    "hy_v3": (
        (r"(.+\.mlp)\.router\.gate\.", r"\1.gate."),
        (r"(.+\.mlp)\.expert_bias$", r"\1.e_score_correction_bias"),
        (r"(.+\.mlp)\.shared_mlp\.", r"\1.shared_experts."),
    ),
    "kolibri1": (
        (r"(.+)\.moe\.router\.expert_bias$", r"\1.mlp.gate.e_score_correction_bias"),
        (r"(.+)\.post_attn_norm\.", r"\1.post_self_attn_layernorm."),
        (r"(.+)\.post_ffn_norm\.", r"\1.post_mlp_layernorm."),
    ),
    "laguna": (
        (r"(.+\.mlp)\.experts\.e_score_correction_bias$", r"\1.gate.e_score_correction_bias"),
        (r"(.+\.mlp)\.shared_expert\.", r"\1.shared_experts."),
    ),
    "mimo_v2_flash": ((r"(.+\.self_attn)\.attention_sink_bias$", r"\1.sinks"),),
    "nemotron_h": ((r"backbone\.", "model."),),
    "phimoe": ((r"(.+)\.block_sparse_moe\.gate\.", r"\1.mlp.router."),),
}  # fmt: skip
# Stored with other modules than they have in memory (fused, split, or called otherwise), which no prefix can say.
_REBUILT = frozenset((
    "axk2", "bailing_hybrid", "beit", "cohere_asr", "cosmos3_edge", "cosmos3_omni", "csm", "deepseek_v4", "deit",
    "dinov2", "dinov2_with_registers", "dory", "dots3_note", "ernie4_5_vl_moe", "exaone", "glm5_next",
    "gradium_phonon_tts", "gte", "hrm_text", "hy_v3", "hy_v4", "hy_v4_vl", "hyperclovax_vision_v2", "ijepa", "inkling2",
    "inkling2_loop", "inkling2_loop_text", "inkling2_text", "inkling_mm_model", "jina_embeddings_v3", "kimi_k25",
    "kimi_linear", "kyutai_speech_to_text", "laguna", "lara_mini", "lfm3_vl", "minimax_m3_vl", "mistral_large4",
    "molmo2", "nemo_speechlm", "nemotron_h_omni", "nomic_bert", "paddleocr_vl", "pi0", "pp_chart2table", "qianfan_ocr",
    "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "sarvam_moe", "shieldgemma2", "step3p7", "swin", "t5gemma2",
    "ultrabert", "ultravbert", "unlimited_ocr", "vision-encoder-decoder", "vit", "vit_msn",
))  # fmt: skip

# A checkpoint of the model below the head is stored without the prefix that the model has in a model with a head.
_TRANSFORMER = frozenset((
    "bloom", "codegen", "ctrl", "falcon", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "mpt", "openai-gpt",
))  # fmt: skip
_HEADS = ("lm_head", "embed_out", "score", "classifier")
MOST_LONGER = 4  # of the names that end as one in an adapter: two are too many
_OTHER_PARTS = ("vision", "visual", "image", "video", "audio", "speech", "talker")
_AROUND = re.compile(r"\A(?:(?:base_model|_orig_mod|module|model|language_model|transformer|thinker)\.)+")


def is_rebuilt(config: Mapping[str, Any] | None) -> bool:
    """Whether transformers builds other modules than the checkpoint has, so that their names are not known here."""
    return (config or {}).get("model_type") in _REBUILT


def in_memory(config: Mapping[str, Any] | None, names: Iterable[str]) -> Rename:
    """What turns the name of a stored tensor into the one that it has in memory; names in memory stay as they are.

    Modules that wrap others are left out: a loader of the checkpoint builds none.

    Args:
        config: of the checkpoint.
        names: of all its tensors.
    """
    config = config or {}
    rules = [(re.compile(rf"\A(?:{pattern})"), new) for pattern, new in _BY_TYPE.get(str(config.get("model_type")), ())]
    prefix = _prefix(config, {bare(name).split(".")[0] for name in names})

    def renamed(name: str) -> str:
        name = bare(name)
        for pattern, new in rules:
            name = pattern.sub(new, name)
        return name if not prefix or name.split(".")[0] in _HEADS else prefix + name

    return renamed


def _prefix(config: Mapping[str, Any], firsts: set[str]) -> str:
    """What a checkpoint lacks that was saved without its head."""
    architectures = config.get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    if name.endswith("Model") and not name.endswith("LMHeadModel"):
        return ""  # it is loaded as it is, without a head
    if config.get("model_type") in _TRANSFORMER:
        return "" if "transformer" in firsts else "transformer."
    return "model." if "layers" in firsts and "model" not in firsts and name.endswith("ForCausalLM") else ""


def unwrapped(name: str) -> str:
    """The name without the modules around a model that come and go with versions and classes.

    From transformers 4.52 on a language model that sees is `model.language_model` in memory; before it was
    `language_model.model`, or `model`.
    """
    return _AROUND.sub("", name, count=1)


class Names:
    """Finds the tensors of a model that a name in an adapter may mean, by tables that are made once.

    Args:
        on: the model.
    """

    def __init__(self, on: Checkpoint) -> None:
        self._stored = on.tensors.keys()
        self._in_memory = in_memory(on.config, on.tensors)
        self._unwrapped: defaultdict[str, list[str]] = defaultdict(list)
        for name in on.tensors:
            self._unwrapped[unwrapped(self._in_memory(name))].append(name)
        self._backwards = sorted(name[::-1] for name in on.tensors)

    def find(self, name: str) -> list[str]:
        """The stored names; none where no tensor can be meant, several where nobody can tell which one is."""
        if name in self._stored:
            return [name]
        if alike := self._unwrapped.get(unwrapped(self._in_memory(name))):
            return alike
        if shorter := next((end for end in _ends(name) if end in self._stored), None):
            return [shorter]
        return [*islice(self._longer(f".{name}"), MOST_LONGER)]

    def _longer(self, end: str) -> Iterator[str]:
        # Read backwards, the names with one end stand together.
        wanted = end[::-1]
        for place in range(bisect_left(self._backwards, wanted), len(self._backwards)):
            if not self._backwards[place].startswith(wanted):
                return
            yield self._backwards[place][::-1]


def _ends(name: str) -> Iterator[str]:
    """What is left of a name below each of its modules, but not below one that is another part than the language's."""
    parts = name.split(".")
    for start, module in enumerate(parts[:-2]):
        if any(word in module for word in _OTHER_PARTS):
            return
        yield ".".join(parts[start + 1 :])
