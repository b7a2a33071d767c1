"""What the path of a snapshot in the Hub's cache tells."""

import os
import re

_SNAPSHOT = re.compile(r".*/models--[^/]+/snapshots/([0-9a-f]{40})", re.DOTALL)


def commit_of(path: str) -> str | None:
    """The commit of a snapshot directory; None where the path is none of the cache's.

    Source: huggingface_hub, "Understand caching": `models--ORG--NAME/snapshots/COMMIT`.
    """
    found = _SNAPSHOT.fullmatch(os.path.realpath(path))
    return found[1] if found else None
