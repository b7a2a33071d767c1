"""The output's chat templates where the recipe takes another model's: kept wherever the base's tokenizer keeps its own.

Source: transformers' `save_chat_templates`; llama.cpp reads the same places.
"""

import json
import os
from collections.abc import Mapping
from types import MappingProxyType

from sdmw.checkpoints.chat_template import FOLDER, JINJA, JSON, KEY, template_files
from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.json_files import TOKENIZER, read_object
from sdmw.errors import CheckpointError, Problem, quoted


def with_templates(
    base: Checkpoint, templates: Mapping[str, str], written: Mapping[str, bytes] = MappingProxyType({})
) -> dict[str, bytes]:
    """The files of an output that hold its chat templates, by their paths in it.

    Args:
        base: whose tokenizer the output has.
        templates: the templates by name, "default" among them where one has no name.
        written: files of that tokenizer that the output has otherwise, by path.

    Raises:
        CheckpointError: a template's name can be no file's.
    """
    found: dict[str, bytes] = {}
    for name in (TOKENIZER, JSON):
        config = json.loads(written[name]) if name in written else read_object(base, name)
        if KEY in config:
            config[KEY] = _in_json(templates)
            found[name] = json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"
    if template_files(base) or not found:
        found |= {_path_of(name): text.encode() for name, text in templates.items()}
    return found


def _in_json(templates: Mapping[str, str]) -> object:
    if templates.keys() == {"default"}:
        return templates["default"]
    return [{"name": name, "template": text} for name, text in templates.items()]


def _path_of(name: str) -> str:
    if name == "default":
        return JINJA
    if os.path.basename(name) != name or name in ("", ".", "..") or "\0" in name:
        raise CheckpointError([Problem("chat_template", "a valid file name", quoted(name))])
    return f"{FOLDER}/{name}.jinja"
