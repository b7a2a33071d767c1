"""From a model's name in a recipe to a directory: a path, or a Hub id that is looked up in the cache."""

import os
import re

from sdmw.errors import CheckpointError, MissingExtraError, Problem, quoted

# The Hub's own rule for `name` and `namespace/name`, which leaves no room for paths.
_HUB_ID = re.compile(r"(?:[A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
_LONGEST_ID = 96  # characters
# What is never read or copied, so never fetched: other formats of the same weights, and traces of training.
_NOT_FETCHED = [
    "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ckpt", "*.tflite", "*.mlmodel",
    "original/*", "onnx/*", "consolidated*", "optimizer*", "scheduler*", "rng_state*", "training_args.bin",
]  # fmt: skip


def locate(name: str, *, download: bool = False) -> str:
    """The directory that a recipe's model name means.

    Args:
        name: a directory, relative to the working directory, `~` allowed; or a Hub id, `org/name` or `name`, with
            `@revision` or without.
        download: whether the network may be used for what the Hub cache lacks.

    Returns:
        The directory as it was named (`~` expanded), or that of the snapshot in the Hub cache.

    Raises:
        CheckpointError: no such directory, not in the cache, or not to be fetched.
        MissingExtraError: it may be a Hub id, and huggingface_hub is not installed.
    """
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        return path
    before, at, revision = name.rpartition("@")
    if at and os.path.isdir(os.path.expanduser(before)):
        raise CheckpointError([Problem(quoted(name), "", "a directory has no revisions", f"Write {quoted(before)}")])
    repository = hub_id(name)
    if repository is None:
        found = "a file, not a directory" if os.path.exists(path) else "no such directory"
        raise CheckpointError([Problem(quoted(name), "", f"{found} (looked for {quoted(os.path.abspath(path))})")])
    return _snapshot(name, repository, revision if at else None, download)


def split_adapter(name: str) -> tuple[str, str | None]:
    """The model and the adapter of `model+adapter`, mergekit's spelling; None where there is no adapter.

    Args:
        name: as in a recipe; a directory may have a + in its own name.
    """
    places = [place for place, character in enumerate(name) if character == "+"]
    if not places or os.path.isdir(os.path.expanduser(name)):
        return name, None
    place = next((p for p in places if os.path.isdir(os.path.expanduser(name[:p]))), places[0])
    return name[:place], name[place + 1 :]


def hub_id(name: str) -> str | None:
    """The Hub id that a model name means, without its revision; None for a directory or what can be no id.

    Args:
        name: as in a recipe.
    """
    before, at, revision = name.rpartition("@")
    repository = before if at else name
    if os.path.isdir(os.path.expanduser(name)) or os.path.isdir(os.path.expanduser(repository)):
        return None
    if at and (not revision or ".." in revision or revision.startswith("/")):
        return None
    if len(repository) > _LONGEST_ID or ".." in repository or "--" in repository:
        return None
    return repository if _HUB_ID.fullmatch(repository) else None


def _snapshot(name: str, repository: str, revision: str | None, download: bool) -> str:
    here = f"no directory {quoted(os.path.abspath(name))}"
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.constants import HF_HUB_CACHE
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        found = f"{here}; to look it up on the Hub, huggingface_hub is needed and not installed"
        raise MissingExtraError([Problem(quoted(name), "", found, "pip install 'sdmw[hub]'")]) from None
    try:
        return str(
            snapshot_download(
                repository, revision=revision, local_files_only=not download, ignore_patterns=_NOT_FETCHED
            )
        )
    except LocalEntryNotFoundError as error:
        found = f"{here}, and not, or only in part, in the Hub cache {quoted(HF_HUB_CACHE)}"
        mend = "Give a directory, or allow the network with --download"
        if download:
            found, mend = f"{found}; the Hub cannot be reached: {_first_line(error)}", "Check the network"
        raise CheckpointError([Problem(quoted(name), "", found, mend)]) from error
    except Exception as error:  # HTTP errors come from requests, httpx or the Hub's own tree, by its version
        raise CheckpointError([Problem(quoted(name), "", f"{here}; the Hub says: {_first_line(error)}")]) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
