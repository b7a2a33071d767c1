"""Which links of a checkpoint directory are followed."""

import os
import re

_SNAPSHOT = re.compile(r"(.*/models--[^/]+)/snapshots/[^/]+", re.DOTALL)


def follow(directory: str, name: str) -> tuple[str, bool]:
    """The file behind a name in a directory, all links followed, and whether it may be read.

    A checkpoint comes from strangers: a link in it could make a private file part of the merge. So links lead nowhere
    but into the directory itself. The Hub's cache is built of links, from `models--*/snapshots/REV/` into the `blobs/`
    of the same model: these are followed too. The directory itself may be reached by links.

    Raises:
        ValueError: a NUL in the name.
    """
    root = os.path.realpath(directory)
    places = [root]
    if snapshot := _SNAPSHOT.fullmatch(root):
        places.append(os.path.join(snapshot[1], "blobs"))
    target = os.path.realpath(os.path.join(root, name))
    return target, any(os.path.commonpath((place, target)) == place for place in places)
