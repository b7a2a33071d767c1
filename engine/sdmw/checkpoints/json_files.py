"""Small JSON files of a checkpoint that a merge may do without: generation and tokenizer settings."""

import json
from typing import Any

from sdmw.checkpoints.beside import content
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.errors import CheckpointError

GENERATION = "generation_config.json"
TOKENIZER = "tokenizer_config.json"
LARGEST = 16 * 2**20  # bytes


def read_object(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file, or none that can be read.

    It is read as leniently as transformers reads it: a faulty file is copied, and its loader will name the fault.
    """
    try:
        found = json.loads(content(checkpoint, name, LARGEST))
    except (CheckpointError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
