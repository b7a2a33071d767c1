"""Models read where they lie on the Hub: `hf://org/name@revision`, as huggingface_hub's file system writes addresses.

Source: huggingface_hub, "Interact with the Hub through the Filesystem API"; files are what its `resolve` page answers.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from sdmw.addresses import place_and_key
from sdmw.errors import CheckpointError, MissingExtraError, Problem, UnreachableError, quoted
from sdmw.storage.weight_files import not_fetched

SCHEME = "hf://"
PATIENCE = 60  # seconds for one request
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@(refs/(?:convert|pr)/[\w.-]+|[^/]+))?((?:/.*)?)", re.ASCII)
_PINNED = re.compile(r"hf://([^/]+/[^/@]+)@([0-9a-f]{40})(?:/.*)?", re.DOTALL)


def pinned(address: str, commits: Mapping[str, str]) -> str:
    """An address with the commit that its revision means now, so that all that is read is of one commit.

    Args:
        address: as a recipe names it; a slash in a revision may be written as %2F.
        commits: by address, those that are wanted whatever the revision means now.

    Raises:
        CheckpointError: it names no model, or the Hub does not tell.
        MissingExtraError: huggingface_hub is not installed.
    """
    if (found := _ADDRESS.fullmatch(address)) is None:
        mend = "Write it as in hf://org/name or hf://org/name@revision"
        raise CheckpointError([Problem(address, "the address of a model on the Hub", "another", mend)])
    name, revision, folder = found.groups()
    wanted = commits.get(address, unquote(revision) if revision else None)
    try:
        commit = _told(address, name, wanted).sha
    except _HubError as error:
        mend = "Check the name and the network; a gated or private model needs a token (hf auth login, or HF_TOKEN)"
        raise CheckpointError([Problem(address, "", f"the Hub says: {error}", mend)]) from None
    return f"{SCHEME}{name}@{commit}{folder.rstrip('/')}"


def names_below(address: str) -> dict[str, bool]:
    """What lies in a folder of a pinned model, by name, each with whether it is a folder.

    Without what `--download` would not fetch either.

    Raises:
        UnreachableError: the Hub does not tell.
        MissingExtraError: huggingface_hub is not installed.
    """
    place, folder = place_and_key(address)
    name, _, commit = place.removeprefix(SCHEME).partition("@")
    below = f"{folder}/" if folder else ""
    try:
        paths = [path.removeprefix(below) for path in _paths(place, name, commit) if path.startswith(below)]
    except _HubError as error:
        raise UnreachableError([Problem(address, "", f"the Hub says: {error}")]) from None
    return {path.partition("/")[0]: "/" in path for path in paths}


@lru_cache(maxsize=64)
def _paths(place: str, name: str, commit: str) -> tuple[str, ...]:
    """Of all files of a model at a commit, less those that nobody reads."""
    paths = [each.rfilename for each in _told(place, name, commit).siblings or ()]
    unwanted = not_fetched()
    return tuple(path for path in paths if not any(fnmatchcase(path, pattern) for pattern in unwanted))


class _HubError(Exception):
    """What the Hub says where it does not answer, in a line."""


def _told(address: str, name: str, revision: str | None) -> Any:
    """What the Hub tells of a model at a revision."""
    hub = _library(address)
    try:
        return hub.HfApi().model_info(name, revision=revision, timeout=PATIENCE)
    except Exception as error:  # HTTP errors come from requests, httpx or the Hub's own tree, by its version
        lines = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {lines[0][:300].rstrip('.')}" if lines else type(error).__name__
        raise _HubError(said) from None


def commit_of(address: str) -> str | None:
    """The commit of a pinned address; None of anything else."""
    found = _PINNED.fullmatch(address)
    return found[2] if found else None


def repository_of(address: str) -> str | None:
    """The Hub id in an address; None where it is none of the Hub's."""
    found = _ADDRESS.fullmatch(address)
    return found[1] if found else None


def web_place(place: str) -> tuple[str, dict[str, str]]:
    """The web address behind `hf://org/name@commit`, and what is told with each request: a token, if there is one.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
    """
    hub = _library(place)
    name, _, commit = place.removeprefix(SCHEME).partition("@")
    token = hub.get_token()
    return f"{hub.constants.ENDPOINT}/{name}/resolve/{commit}", {"authorization": f"Bearer {token}"} if token else {}


def _library(address: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        found = "huggingface_hub is needed but not installed"
        raise MissingExtraError([Problem(quoted(address), "", found, "pip install 'sdmw[hub,remote]'")]) from None
    return huggingface_hub
