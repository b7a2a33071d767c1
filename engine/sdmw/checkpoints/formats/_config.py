"""config.json of a checkpoint."""

import json
import os
from typing import Any

from sdmw.checkpoints.formats._json import told
from sdmw.errors import CheckpointError, Problem
from sdmw.storage.access import Access
from sdmw.storage.files import read_bounded
from sdmw.storage.pointers import FETCH, IS_POINTER, is_pointer

CONFIG = "config.json"
DEQUANTISE = "Give the checkpoint that was quantised, or dequantise it first"
LARGEST_CONFIG = 16 * 2**20  # bytes


def read_config(directory: str, access: Access) -> tuple[dict[str, Any] | None, list[Problem]]:
    """The parsed config.json and what is wrong with it; None where it cannot be used at all.

    Read as leniently as transformers reads it: `Infinity` is a number there, and Mamba's published configs use it.
    """
    where = os.path.join(directory, CONFIG)
    if not os.path.lexists(where):
        return None, [Problem(where, "", "no such file", "Copy it from the model's repository")]
    try:
        raw = read_bounded(directory, CONFIG, LARGEST_CONFIG, follow_links=access.follow_links)
    except CheckpointError as error:
        return None, list(error.problems)
    if is_pointer(raw):
        return None, [Problem(where, "the file", IS_POINTER, FETCH)]
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as error:
        said = "nested too deep" if isinstance(error, RecursionError) else str(error)
        return None, [Problem(where, "", f"not JSON: {said}")]
    if not isinstance(config, dict):
        return None, [Problem(where, "an object", f"{type(config).__name__} {told(config)}")]
    return config, _quantization(where, config)


def _quantization(where: str, config: dict[str, Any]) -> list[Problem]:
    problems = []
    for path, level in (("", config), ("text_config.", config.get("text_config"))):
        found = level.get("quantization_config") if isinstance(level, dict) else None
        if found is not None:
            method = found.get("quant_method", "unknown") if isinstance(found, dict) else found
            problems.append(
                Problem(
                    where,
                    "weights that are not quantised",
                    f"{path}quantization_config with quant_method {told(method)}",
                    DEQUANTISE,
                )
            )
    return problems
