"""What a directory is that no format can read."""

import os
from collections.abc import Collection

from sdmw.addresses import absolute, is_remote
from sdmw.checkpoints.formats._config import read_config
from sdmw.errors import CheckpointError, Problem, some
from sdmw.storage.access import Access
from sdmw.storage.files import listing
from sdmw.storage.weight_files import Format, format_of

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_OF_ARCHIVES = frozenset(("zarr.json", "counts", "gaps"))
_NONE = "Give the directory that holds config.json and the weights"
# What there may be instead of safetensors, the likeliest first, and the mend.
_INSTEAD: dict[Format, tuple[str, str]] = {
    "pickle": (
        "only pickled weights, which are never opened",
        "Convert them to safetensors: load with transformers, then save_pretrained",
    ),
    "GGUF": ("only GGUF", "Give the safetensors they were made from"),
    "other": ("only weights of other formats", "Give the safetensors they were made from"),
}


def _has_weights(folder: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, own)) for own in WEIGHTS)


def is_archive(names: Collection[str]) -> bool:
    """Whether a folder with these names is a delta archive."""
    return set(names) >= _OF_ARCHIVES


def refusal(path: str, access: Access) -> CheckpointError:
    """The error for a directory without weights that can be read: none, or other formats; with config's problems.

    Raises:
        CheckpointError: the directory is missing, not a directory, or not readable.
    """
    names = sorted(listing(path))
    if is_archive(names):
        mend = "Restore the fine-tune from it first: sdmw apply BASE ARCHIVE OUT"
        return CheckpointError([Problem(path, "a model", "a delta archive of sdmw pack", mend)])
    instead = next((kind for kind in _INSTEAD if any(format_of(name) == kind for name in names)), None)
    if instead is None:
        expected = "model.safetensors or model.safetensors.index.json"
        below = [] if is_remote(path) else [name for name in names if _has_weights(os.path.join(path, name))]
        mend = f"Give the directory in it that has them: {some(below)}" if below else _NONE
        problem = Problem(path, expected, "no weights", mend)
    else:
        said, mend = _INSTEAD[instead]
        found = some([name for name in names if format_of(name) == instead])
        problem = Problem(path, "safetensors weights", f"{said}: {found}", mend)
    # A folder of GGUF files needs no config.json.
    return CheckpointError([problem, *([] if instead == "GGUF" else read_config(absolute(path), access)[1])])
