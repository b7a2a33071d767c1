"""The files that stand beside the shards, in a folder of this machine."""

import os
from collections.abc import Collection, Iterator

import xxhash


def write(folder: str, name: str, data: bytes) -> None:
    """Write a file, or write it anew, and make the folders in which it lies.

    Args:
        folder: of the output.
        name: the file's path in it.
        data: its content.

    Raises:
        ValueError: the name is no path below a folder.
        OSError: it cannot be written.
    """
    if os.path.normpath(name) != name or name in (".", "..") or name.startswith(("/", "../")):
        raise ValueError(f"{name!r} is no path of a file in the output")
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def names(folder: str, shards: Collection[str] = ()) -> Iterator[str]:
    """The paths of all files in the folder, but the shards."""
    for above, _, found in os.walk(folder):
        for path in (os.path.join(above, name) for name in found):
            if (name := os.path.relpath(path, folder)) not in shards:
                yield name


def checksums(folder: str, shards: Collection[str] = ()) -> dict[str, str]:
    """XXH3-128 of every file but the shards, in hex, by its path in the folder; OSError where one cannot be read."""
    found = {}
    for name in names(folder, shards):
        with open(os.path.join(folder, name), "rb") as file:
            found[name] = xxhash.xxh3_128_hexdigest(file.read())
    return found
