"""What shows that weights are quantised: words of a config, files beside the weights, names of tensors.

Sources: transformers' quantizers, and what GPTQ, AWQ, bitsandbytes, MLX, compressed-tensors, HQQ and quanto save.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sdmw.checkpoints.formats._json import told
from sdmw.errors import some
from sdmw.tensors.tensor import Tensor

DEQUANTISE = "Give the checkpoint that was quantised, or dequantise it first"
_FILES = {"quantize_config.json": "as GPTQ and AWQ wrote it", "quant_config.json": "as AWQ wrote it"}
# Ends of names that no other weights have.
_PACKED = {
    **dict.fromkeys((".qweight", ".qzeros", ".g_idx"), "GPTQ and AWQ"),
    **dict.fromkeys((".SCB", ".weight_format"), "bitsandbytes"),
    **dict.fromkeys((".weight_packed", ".weight_zero_point"), "compressed-tensors"),
    ".W_q": "HQQ",
    ".weight._data": "quanto",
}
_PACKED_4_BITS = (".weight.absmax", ".weight.quant_map", ".weight.quant_state.")  # anywhere in a name: bitsandbytes
_CODES = ".weight"
_SCALES = (".scales", ".weight_scale", ".weight_scale_inv")  # beside codes that are no floats of 16 or 32 bits
_ENDS = (*_SCALES, *_PACKED)


def quantised_by_config(config: Mapping[str, Any]) -> Iterator[str]:
    """What a config says of quantised weights, of the model or of a part of it."""
    parts = [(f"{key}.", value) for key, value in config.items() if key.endswith("_config")]
    for path, level in [("", config), *parts]:
        if not isinstance(level, Mapping):
            continue
        if (found := level.get("quantization_config")) is not None:
            method = found.get("quant_method", "unknown") if isinstance(found, dict) else found
            yield f"{path}quantization_config with quant_method {told(method)}"
        elif isinstance(found := level.get("quantization"), dict) and {"bits", "group_size"} & found.keys():
            yield f"{path}quantization {told(found)}, as MLX writes it"


def quantised_by_names(files: Collection[str], tensors: Mapping[str, Tensor]) -> str:
    """What shows that weights are quantised though config.json does not say so; empty where nothing does.

    Args:
        files: names in the checkpoint's folder.
        tensors: by name.
    """
    for name, words in _FILES.items():
        if name in files:
            return f"{name}, {words}"
    writers: dict[str, list[str]] = {}
    for name in sorted(tensors):
        if writer := _writer(name, tensors):
            writers.setdefault(writer, []).append(name)
    return next((f"packed weights, as saved by {writer}: {some(names)}" for writer, names in writers.items()), "")


def _writer(name: str, tensors: Mapping[str, Tensor]) -> str:
    """Who saves quantised weights with a tensor of this name; empty where nobody does."""
    if any(part in name for part in _PACKED_4_BITS):
        return "bitsandbytes"
    if not name.endswith(_ENDS):  # as most of 100,000
        return ""
    for scales in _SCALES:
        codes = tensors.get(name.removesuffix(scales) + _CODES) if name.endswith(scales) else None
        if codes is not None and not codes.dtype.merges:
            return "MLX" if scales == ".scales" else "compressed-tensors and block-wise FP8"
    return next((writer for end, writer in _PACKED.items() if name.endswith(end)), "")
