"""From a model's name in a recipe to a directory: the one named, or a snapshot in the Hub cache."""

import difflib
import os
import re
from collections.abc import Mapping
from itertools import islice

from sdmw.addresses import OTHER_KIND, absolute, is_of_other_kind, is_remote, objection
from sdmw.errors import CheckpointError, MissingExtraError, Problem, quoted
from sdmw.recipes.model_ref import ModelRef, expanded
from sdmw.storage.hub_address import SCHEME, pinned
from sdmw.storage.weight_files import not_fetched

# The Hub's own rule for `name` and `namespace/name`, which leaves no room for paths.
_HUB_ID = re.compile(r"(?:[A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
_FORGOTTEN = re.compile(r"model(?::| +:?) *(\S.*)")  # a line of a recipe that YAML takes for a text
_PAGE = re.compile(r"(?:https?://)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)(?:/(?:tree|blob)/([^/]+))?", re.ASCII)
_LONGEST_ID = 96  # characters
_MOST_BESIDE = 1000  # directories that are compared with a name that is none
_LONGEST_NAME = 255  # bytes of a name in a directory
NONE: Mapping[str, str] = {}


def locate(
    model: ModelRef, *, download: bool = False, folder: str | None = None, commits: Mapping[str, str] = NONE
) -> str:
    """The directory that a model's name in a recipe means.

    Args:
        model: a directory, relative to the working directory, `~` allowed; or a Hub id, with a revision or without. An
            adapter is a model of its own here: see `ModelRef.parts`. Or the address of a folder in a store.
        download: whether the network may be used for what the Hub cache lacks.
        folder: where a directory is looked for instead of the working directory, by its path and then by the path's
            last part alone; an absolute path only where it is no directory.
        commits: of models on the Hub and in its cache, by their names; of others the one that the revision means now.

    Returns:
        The directory as it was named (`~` expanded), or that of the snapshot in the Hub cache; an address as it is,
        with the commit where it is the Hub's.

    Raises:
        CheckpointError: no such directory, not in the cache, or not to be fetched; or a model with an adapter.
        MissingExtraError: it may be a Hub id, and huggingface_hub is not installed.
    """
    name = quoted(str(model))
    if model.adapter is not None:
        mend = f"Write {quoted(str(model.alone))}, or merge the adapter first"
        raise CheckpointError([Problem(name, "a model without an adapter", "a model with an adapter on it", mend)])
    if is_remote(model.path) and ("/resolve/" in model.path or not _PAGE.match(model.path)):
        if (refused := objection(model.path)) is not None:
            raise CheckpointError([Problem(name, "", *refused)])
        return pinned(model.path, commits) if model.path.startswith(SCHEME) else absolute(model.path)
    if is_of_other_kind(model.path) and not _PAGE.match(model.path):
        raise CheckpointError([Problem(name, *OTHER_KIND)])
    if folder is not None and not _is_there(model):
        if (found := _moved(model, folder)) is not None:
            return found
        if hub_id(model) is None:
            raise CheckpointError([Problem(name, "", f"no such directory in {quoted(os.path.abspath(folder))}")])
    elif model.directory is not None:
        if model.revision is None:
            return model.directory
        raise CheckpointError([Problem(name, "", "a directory has no revisions", f"Write {quoted(model.path)}")])
    path, mend = expanded(model.path), _meant(model.path)
    if hub_id(model) is None or os.path.lexists(path):
        found = "a file, not a directory" if os.path.exists(path) else "no such directory"
        whence = "" if os.path.isabs(path) else ", relative to the current directory"
        raise CheckpointError(
            [Problem(name, "", f"{found} (looked for {quoted(os.path.abspath(path))}{whence})", mend)]
        )
    return _snapshot(model, commits.get(str(model), model.revision), download, mend)


def _is_there(model: ModelRef) -> bool:
    """Whether a model is a directory wherever one works."""
    return model.directory is not None and os.path.isabs(model.directory)


def _moved(model: ModelRef, folder: str) -> str | None:
    """The directory of a model that lies in another folder now; None where it does not."""
    path = expanded(model.path).rstrip("/")
    places = (os.path.join(folder, each) for each in (path, os.path.basename(path)) if each and not os.path.isabs(each))
    return next((place for place in places if os.path.isdir(place)), None)


def ambiguous(found: Mapping[ModelRef, str], folder: str | None) -> list[ModelRef]:
    """The models that were found in a folder by the last part of their paths alone, where another's is the same.

    Args:
        found: the directory of each.
        folder: where they were looked for, as for `locate`.
    """
    if folder is None:
        return []
    paths: dict[str, set[str]] = {}
    for model, place in found.items():
        paths.setdefault(place, set()).add(os.path.normpath(expanded(model.path)))
    by_last_part = [model for model in found if found[model] != os.path.join(folder, expanded(model.path).rstrip("/"))]
    return [model for model in by_last_part if len(paths[found[model]]) > 1]


def _meant(name: str) -> str:
    """What to write instead of a name that is no directory; nothing where there is no saying."""
    path = expanded(name)
    if forgotten := _FORGOTTEN.fullmatch(name):
        return f"Write `model: {forgotten[1]}`, with a colon and a space"
    if page := _PAGE.match(name):
        return f"Write {quoted(page[1] + (f'@{page[2]}' if page[2] else ''))}, the id of that page"
    if "$" in name:
        return "$ is not expanded in a recipe: write the path itself"
    if path.endswith(".gguf") and os.path.exists(path):
        return "GGUF is not read: name the directory of its safetensors files"
    if os.path.isfile(path):
        return f"Name the directory: {os.path.dirname(name) or '.'}"
    above, last = os.path.split(path.rstrip("/"))
    try:
        with os.scandir(above or ".") as entries:
            beside = [entry.name for entry in islice(entries, _MOST_BESIDE) if entry.is_dir()]
    except (OSError, ValueError):
        return ""
    like = difflib.get_close_matches(last[:_LONGEST_NAME], beside, n=1)
    return f"Did you mean {quoted(os.path.join(os.path.dirname(name.rstrip('/')), like[0]))}?" if like else ""


def hub_id(model: ModelRef) -> str | None:
    """The Hub id of a model, without revision and adapter; None for a directory or what can be no id."""
    path, revision = model.path, model.revision
    if model.directory is not None:
        return None
    if revision is not None and (not revision or ".." in revision or revision.startswith("/")):
        return None
    if len(path) > _LONGEST_ID or ".." in path or "--" in path:
        return None
    return path if _HUB_ID.fullmatch(path) else None


def _snapshot(model: ModelRef, revision: str | None, download: bool, mend: str) -> str:
    """A model in the Hub cache, at a revision; `mend` is what else the name may have meant."""
    name = quoted(str(model))
    here = f"no directory {quoted(os.path.abspath(str(model)))}"
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.constants import HF_HUB_CACHE
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        found = f"{here}; to look it up on the Hub, huggingface_hub is needed but not installed"
        raise MissingExtraError([Problem(name, "", found, mend or "pip install 'sdmw[hub]'")]) from None
    if HF_HUB_CACHE.startswith("~"):  # no home to expand it to: a folder of this name would be made here
        found = f"{here}, and this user has no home directory for the Hub cache"
        raise CheckpointError([Problem(name, "", found, "Give a directory, or set HF_HOME to one for the cache")])
    try:
        return str(
            snapshot_download(
                model.path, revision=revision, local_files_only=not download, ignore_patterns=not_fetched()
            )
        )
    except LocalEntryNotFoundError as error:
        found = f"{here}, and missing or incomplete in the Hub cache {quoted(HF_HUB_CACHE)}"
        mend = mend or "Give a directory, or allow the network with --download"
        if download:
            found, mend = f"{found}; the Hub cannot be reached: {_first_line(error)}", "Check the network"
        raise CheckpointError([Problem(name, "", found, mend)]) from error
    except Exception as error:  # HTTP errors come from requests, httpx or the Hub's own tree, by its version
        raise CheckpointError([Problem(name, "", f"{here}; the Hub says: {_first_line(error)}")]) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
