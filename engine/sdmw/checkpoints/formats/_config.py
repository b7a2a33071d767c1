"""config.json of a checkpoint."""

import json
import os
from typing import Any

from sdmw.checkpoints.formats._json import told
from sdmw.checkpoints.formats._quantised import DEQUANTISE, quantised_by_config
from sdmw.errors import CheckpointError, Problem
from sdmw.storage.access import Access
from sdmw.storage.files import names_in, read_bounded
from sdmw.storage.pointers import FETCH, IS_POINTER, is_pointer

CONFIG = "config.json"
LARGEST_CONFIG = 16 * 2**20  # bytes


def read_config(directory: str, access: Access) -> tuple[dict[str, Any] | None, list[Problem]]:
    """The parsed config.json and what is wrong with it; None where it cannot be used at all.

    Read as leniently as transformers reads it: `Infinity` is a number there, and Mamba's published configs use it.
    """
    where = os.path.join(directory, CONFIG)
    if CONFIG not in names_in(directory):
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
    expected = "weights that are not quantised"
    return config, [Problem(where, expected, found, DEQUANTISE) for found in quantised_by_config(config)]
