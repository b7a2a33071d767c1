"""Files beside weights, config and tokenizer: processors, modules, code, weights of other parts, texts of licences.

They come along from the base alone. What a model has otherwise, or has and the base has not, is said, a line for each
file.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.config_keys import effect_of, plain_keys
from sdmw.errors import CheckpointError, quoted, some
from sdmw.planning.two_values import differing, listed
from sdmw.storage.files import entries, read_bounded, read_start, size_of
from sdmw.storage.pointers import LARGEST_POINTER, is_pointer
from sdmw.storage.shard import sample_of
from sdmw.storage.weight_files import format_of
from sdmw.writing.side_files import LARGEST, denied, fingerprint, module_folders

_LARGEST_JSON = 2**20  # bytes of a file that is compared by what it says
_READ = (
    "modules.json", "config_sentence_transformers.json", "sentence_*_config.json", "*processor_config.json",
    "audio_tokenizer_config.json",
)  # fmt: skip
_TERMS = ("licen[cs]e*", "notice*")  # in small letters
# What versions of a library write otherwise.
_FORMS = frozenset(("__version__", "processor_class", "_valid_processor_keys", "image_processor_type", "auto_map"))


def file_warnings(base: Checkpoint, models: Mapping[str, Checkpoint]) -> Iterator[str]:
    """A warning for each file that models have otherwise than the base, or that they alone have.

    Args:
        base: whose files the output has.
        models: the others, by name.
    """
    ours = set(_read_beside(base))
    theirs = {name: _read_beside(model) for name, model in models.items()}
    for path in dict.fromkeys(path for paths in theirs.values() for path in paths):
        having = [name for name, paths in theirs.items() if path in paths]
        if path not in ours:
            yield f"{path}: the base has no such file, so the output has none; {who_have(having, models)} one"
            continue
        found = {name: said for name in having if (said := _difference(path, base, models[name])) is not None}
        if found:
            first, *more = dict.fromkeys(found.values())
            keys = f": {first}" if first and not more else ""
            yield (
                f"{path}: {who_have(list(found), models)} one that differs from the base's; the output gets the "
                f"base's{keys}"
            )


def pointer_warnings(models: Mapping[str, Checkpoint]) -> Iterator[str]:
    """A warning for each model with files that were not fetched, so that they cannot be compared."""
    for name, model in models.items():
        pointers = [path for path in _files(model) if not denied(path) and _is_pointer(model, path)]
        if pointers:
            yield f"model {quoted(name)}: Git LFS pointers instead of files, which are not compared: {some(pointers)}"


def who_have(names: Sequence[str], models: Mapping[str, Checkpoint]) -> str:
    """Some of the models, or all of several, as the subject of a sentence."""
    if len(names) == len(models) > 1:
        return "all models have"
    return f"model {some(names)} has" if len(names) == 1 else f"models {some(names)} have"


def _read_beside(checkpoint: Checkpoint) -> list[str]:
    """Paths in a checkpoint's folder that a loader reads beside what is compared elsewhere."""
    code = "auto_map" in (checkpoint.config or {})
    names = [name for name in _files(checkpoint) if _is_read(name) or (code and name.endswith(".py"))]
    for folder in module_folders(checkpoint.path, checkpoint.follow_links):
        names += _files(checkpoint, folder)
    return [path for path in names if not denied(path) and not _is_pointer(checkpoint, path)]


def _files(checkpoint: Checkpoint, folder: str = "") -> list[str]:
    """Paths of the regular files in a folder of a checkpoint; none where it cannot be read."""
    try:
        found = sorted(name for name, is_folder in entries(checkpoint.path, folder) if not is_folder)
    except CheckpointError:
        return []
    return [path for name in found if isinstance(_size(checkpoint, path := folder + name), int)]


def _is_read(name: str) -> bool:
    """By a loader, or by who has to know under which terms the model stands."""
    patterns = [(name, pattern) for pattern in _READ] + [(name.lower(), pattern) for pattern in _TERMS]
    return format_of(name) is not None or any(fnmatchcase(*each) for each in patterns)


def _is_pointer(checkpoint: Checkpoint, path: str) -> bool:
    try:
        start = read_start(checkpoint.path, path, LARGEST_POINTER, follow_links=checkpoint.follow_links)
    except CheckpointError:
        return False
    return is_pointer(start)


def _difference(path: str, base: Checkpoint, model: Checkpoint) -> str | None:
    """What a model's file says otherwise than the base's, if that can be said; None where it says the same."""
    ours, theirs = _object(base, path), _object(model, path)
    if ours is None or theirs is None:
        return None if _same_bytes(path, base, model) else ""
    keys = differing(ours, theirs)
    return listed(keys) if keys else None


def _object(checkpoint: Checkpoint, path: str) -> dict[str, Any] | None:
    """The object in a JSON file, without what says nothing of what is computed; None where there is none."""
    if not path.endswith(".json"):
        return None
    try:
        found = json.loads(read_bounded(checkpoint.path, path, _LARGEST_JSON, follow_links=checkpoint.follow_links))
    except (CheckpointError, ValueError, RecursionError):
        return None
    found = {str(number): each for number, each in enumerate(found)} if isinstance(found, list) else found
    if not isinstance(found, dict):
        return None
    return {key: value for key, value in plain_keys(found) if effect_of(key) != "harmless" and key not in _FORMS}


def _same_bytes(path: str, base: Checkpoint, model: Checkpoint) -> bool:
    """Whether two files are equal; of larger ones a sample is."""
    size = _size(base, path)
    if size != _size(model, path):
        return False
    if isinstance(size, int) and size > LARGEST:
        return sample_of(os.path.join(base.path, path)) == sample_of(os.path.join(model.path, path))
    ours, theirs = (fingerprint(each.path, path, follow_links=each.follow_links) for each in (base, model))
    return ours == theirs


def _size(checkpoint: Checkpoint, path: str) -> int | str:
    return size_of(checkpoint.path, path, follow_links=checkpoint.follow_links)
