"""Which links of a checkpoint directory are followed."""

import os
import re

_SNAPSHOT = re.compile(r"(.*/models--[^/]+)/snapshots/[^/]+", re.DOTALL)


def follow(directory: str, name: str, *, anywhere: bool = False) -> tuple[str, bool]:
    """The file behind a name in a directory, all links followed, and whether it may be read.

    A checkpoint comes from strangers: a link in it could make a private file part of the merge. So links lead nowhere
    but into the directory itself. The Hub's cache is built of links, from `models--*/snapshots/REV/` into the `blobs/`
    of the same model: these are followed too. The directory itself may be reached by links. With `anywhere`, because
    the caller knows where the directory comes from, links lead wherever they lead; the name itself stays below.

    Raises:
        ValueError: a NUL in the name.
    """
    root = os.path.realpath(directory)
    places = [root]
    if snapshot := _SNAPSHOT.fullmatch(root):
        places.append(os.path.join(snapshot[1], "blobs"))
    target = os.path.realpath(os.path.join(root, name))
    if anywhere and not os.path.isabs(name) and ".." not in name.split("/"):
        return target, True
    return target, any(os.path.commonpath((place, target)) == place for place in places)
