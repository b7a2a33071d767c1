"""Where a checkpoint keeps its chat templates, and what they are. Source: transformers' `save_chat_templates`."""

import os
from collections.abc import Mapping
from typing import Any

from sdmw.checkpoints.beside import content, names
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.json_files import TOKENIZER, read_object
from sdmw.errors import CheckpointError
from sdmw.storage.files import entries
from sdmw.storage.pointers import is_pointer

JINJA, JSON, FOLDER = "chat_template.jinja", "chat_template.json", "additional_chat_templates"
KEY = "chat_template"  # in JSON, and in tokenizer_config.json
LARGEST = 2**20  # bytes of a template


def templates_of(checkpoint: Checkpoint) -> dict[str, str]:
    """The chat templates of a checkpoint by name, as transformers looks for them; that without a name is "default"."""
    texts = {_name_of(path): _text(checkpoint, path) for path in template_files(checkpoint)}
    files = {name: text for name, text in texts.items() if text is not None}
    return files or _in_json(read_object(checkpoint, JSON)) or _in_json(read_object(checkpoint, TOKENIZER))


def template_files(checkpoint: Checkpoint) -> list[str]:
    """Paths of the files of a checkpoint, relative to it, that are nothing but a template."""
    try:
        known = names(checkpoint)
        beside = {f"{FOLDER}/{name}" for name, _ in entries(checkpoint.path, FOLDER)} if FOLDER in known else set()
    except CheckpointError:
        return []
    absent = {name for name, own in checkpoint.files.items() if own is None}
    beside |= {name for name in known if name.startswith(f"{FOLDER}/")}
    return [*sorted({JINJA} & known), *(path for path in sorted(beside - absent) if path.endswith(".jinja"))]


def is_template(path: str) -> bool:
    """Whether a file of a checkpoint holds nothing but templates, by its path in it."""
    return path in (JINJA, JSON) or path.startswith(f"{FOLDER}/")


def _name_of(path: str) -> str:
    return "default" if path == JINJA else os.path.basename(path).removesuffix(".jinja")


def _text(checkpoint: Checkpoint, path: str) -> str | None:
    try:
        raw = content(checkpoint, path, LARGEST)
        return None if is_pointer(raw) else raw.decode()
    except (CheckpointError, UnicodeDecodeError):
        return None


def _in_json(config: Mapping[str, Any]) -> dict[str, str]:
    given = config.get(KEY)
    if isinstance(given, str):
        return {"default": given}
    named = [each for each in given if isinstance(each, Mapping)] if isinstance(given, list) else []
    return {str(each.get("name")): str(each.get("template")) for each in named}
