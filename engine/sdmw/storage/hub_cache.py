"""What the path of a snapshot in the Hub's cache tells."""

import os
import re

_SNAPSHOT = re.compile(r".*/models--([^/]+)/snapshots/([0-9a-f]{40})", re.DOTALL)


def commit_of(path: str) -> str | None:
    """The commit of a snapshot directory; None where the path is not one in the cache.

    Source: huggingface_hub, "Understand caching": `models--ORG--NAME/snapshots/COMMIT`.
    """
    found = _SNAPSHOT.fullmatch(os.path.realpath(path))
    return found[2] if found else None


def repository_of(path: str) -> str | None:
    """The Hub id of a snapshot directory, as `org/name`; None where the path is not one in the cache."""
    found = _SNAPSHOT.fullmatch(os.path.realpath(path))
    repository = found[1].replace("--", "/", 1) if found else ""
    return repository if repository and "--" not in repository else None  # which no id of the Hub has
