"""Models read where they lie on the Hub: `hf://org/name@revision`, as huggingface_hub's file system writes addresses.

Source: huggingface_hub, "Interact with the Hub through the Filesystem API"; files are what its `resolve` page answers.
"""

import re
from typing import Any

from sdmw.errors import CheckpointError, MissingExtraError, Problem, quoted

SCHEME = "hf://"
PATIENCE = 60  # seconds for one request
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@(refs/(?:convert|pr)/[\w.-]+|[^/]+))?((?:/.*)?)", re.ASCII)
_PINNED = re.compile(r"hf://([^/]+/[^/@]+)@([0-9a-f]{40})(?:/.*)?", re.DOTALL)


def pinned(address: str) -> str:
    """An address with the commit that its revision means now, so that all that is read is of one commit.

    Raises:
        CheckpointError: it names no model, or the Hub does not tell.
        MissingExtraError: huggingface_hub is not installed.
    """
    if (found := _ADDRESS.fullmatch(address)) is None:
        mend = "Write it as in hf://org/name or hf://org/name@revision"
        raise CheckpointError([Problem(address, "the address of a model on the Hub", "another", mend)])
    name, revision, folder = found.groups()
    hub = _library(address)
    try:
        commit = hub.HfApi().model_info(name, revision=revision, timeout=PATIENCE).sha
    except Exception as error:  # HTTP errors come from requests, httpx or the Hub's own tree, by its version
        lines = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
        mend = "Check name and network; a model that is gated or private needs a token (hf auth login, or HF_TOKEN)"
        raise CheckpointError([Problem(address, "", f"the Hub says: {said}", mend)]) from None
    return f"{SCHEME}{name}@{commit}{folder.rstrip('/')}"


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
        found = "huggingface_hub is needed, and not installed"
        raise MissingExtraError([Problem(quoted(address), "", found, "pip install 'sdmw[hub,remote]'")]) from None
    return huggingface_hub
