"""Where a checkpoint keeps its chat templates, and what they are. Source: transformers' `save_chat_templates`."""

import os
from collections.abc import Mapping
from typing import Any

from sdmw.checkpoints.json_files import TOKENIZER, read_object
from sdmw.errors import CheckpointError
from sdmw.storage.files import entries, listing, read_bounded

JINJA, JSON, FOLDER = "chat_template.jinja", "chat_template.json", "additional_chat_templates"
KEY = "chat_template"  # in JSON, and in tokenizer_config.json
LARGEST = 2**20  # bytes of a template


def templates_of(folder: str) -> dict[str, str]:
    """The chat templates of a checkpoint by name, as transformers looks for them; that without a name is "default"."""
    files = {name: text for path in template_files(folder) if (text := _text(folder, path)) is not None
             for name in [_name_of(path)]}  # fmt: skip
    return files or _in_json(read_object(folder, JSON)) or _in_json(read_object(folder, TOKENIZER))


def template_files(folder: str) -> list[str]:
    """Paths of the files of a checkpoint, relative to it, that are nothing but a template."""
    try:
        names = listing(folder)
        beside = [name for name, _ in entries(folder, FOLDER)] if FOLDER in names else []
    except CheckpointError:
        return []
    return [*sorted({JINJA} & names), *(f"{FOLDER}/{name}" for name in sorted(beside) if name.endswith(".jinja"))]


def is_template(path: str) -> bool:
    """Whether a file of a checkpoint holds nothing but templates, by its path in it."""
    return path in (JINJA, JSON) or path.startswith(f"{FOLDER}/")


def _name_of(path: str) -> str:
    return "default" if path == JINJA else os.path.basename(path).removesuffix(".jinja")


def _text(folder: str, path: str) -> str | None:
    try:
        return read_bounded(folder, path, LARGEST).decode()
    except (CheckpointError, UnicodeDecodeError):
        return None


def _in_json(config: Mapping[str, Any]) -> dict[str, str]:
    given = config.get(KEY)
    if isinstance(given, str):
        return {"default": given}
    named = [each for each in given if isinstance(each, Mapping)] if isinstance(given, list) else []
    return {str(each.get("name")): str(each.get("template")) for each in named}
