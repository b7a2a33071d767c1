"""The output's config.json: the base's, with another dtype or other layers where the weights have them."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sdmw.checkpoints.depth import Depth, restacked
from sdmw.checkpoints.tied_names import LANGUAGE
from sdmw.errors import CheckpointError, Problem

_TIES = "tie_word_embeddings"
# Of these, transformers also takes from it whether the decoder's output is scaled (`scale_decoder_outputs`); it reads
# a head that is stored in any case.
_SCALED_BY_TIE = ("t5", "mt5", "umt5", "longt5", "switch_transformers", "udop", "pop2piano")
_DTYPE_KEYS = ("dtype", "torch_dtype")  # transformers 5 writes the first, 4 the second


def merged_config(
    text: bytes,
    dtype: str | None,
    *,
    untie: bool = False,
    depth: Depth | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> bytes:
    """The base's config.json for the merged weights.

    Args:
        text: the base's file.
        dtype: "float32", "float16" or "bfloat16" where the output's dtype is not each tensor's own, else None.
        untie: the head is stored, and is not the embedding.
        depth: how the layers were stacked; None where they are the base's in their order.
        changes: other values of some keys, those of nested configs with dots before them.

    Returns:
        The same bytes where nothing changes. Otherwise every key is kept, in its order.

    Raises:
        CheckpointError: something is to be set and the file is no JSON object.
    """
    if dtype is None and not untie and depth is None and not changes:
        return text
    config = _parsed(text)
    changed = False
    if depth is not None:
        config, changed = restacked(config, depth), True
    for path, value in changes.items():
        *above, key = path.split(".")
        level = config
        for name in above:
            level = level[name]
        changed = changed or level.get(key) != value
        level[key] = value
    changed = (untie and _untie(config)) or changed
    if dtype is not None:
        changed = _set_dtypes(config, dtype) or changed
    return json.dumps(config, indent=2).encode() + b"\n" if changed else text


def _untie(config: dict[str, Any]) -> bool:
    """Says so wherever the config says that it ties, and else at the top."""
    if config.get("model_type") in _SCALED_BY_TIE:
        return False
    levels = [config, *(value for name in LANGUAGE if isinstance(value := config.get(name), dict))]
    tying = [level for level in levels if level.get(_TIES)] or [level for level in levels[:1] if _TIES not in level]
    for level in tying:
        level[_TIES] = False
    return bool(tying)


def _set_dtypes(config: dict[str, Any], dtype: str) -> bool:
    changed = _set_dtype(config, dtype)
    if not any(key in config for key in _DTYPE_KEYS):
        config["torch_dtype"] = dtype  # both versions read it; version 4 knows no other
        changed = True
    nested = config.get("text_config")
    if isinstance(nested, dict):
        changed = _set_dtype(nested, dtype) or changed
    return changed


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError([Problem("config.json", "JSON", str(error))]) from error
    if not isinstance(config, dict):
        raise CheckpointError([Problem("config.json", "a JSON object", type(config).__name__)])
    return config


def _set_dtype(config: dict[str, Any], dtype: str) -> bool:
    stale = [key for key in _DTYPE_KEYS if config.get(key, dtype) != dtype]
    config.update(dict.fromkeys(stale, dtype))
    return bool(stale)
