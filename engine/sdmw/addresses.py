"""Addresses of objects, in the places where paths of files stand: `s3://bucket/key`."""

import os
import re

SCHEMES = ("s3", "gs", "az", "https")
_REMOTE = tuple(f"{scheme}://" for scheme in SCHEMES)
_CREDENTIALS = re.compile(r"\w+://[^/]*@")


def is_remote(path: str) -> bool:
    """Whether it is an address, and no path on this machine."""
    return path.startswith(_REMOTE)


def absolute(path: str) -> str:
    """A path from the root on; an address as it is, without slashes at its end."""
    return path.rstrip("/") if is_remote(path) else os.path.abspath(path)


def objection(address: str) -> tuple[str, str] | None:
    """Why an address is refused, and the mend; None where it is not.

    What is in a recipe goes into cards and reports, so it must hold no secret.
    """
    if _CREDENTIALS.match(address) or "?" in address or "#" in address:
        mend = "Leave them out: credentials come from the environment, such as AWS_ACCESS_KEY_ID"
        return "an address with credentials, a signature or parameters in it, which would go into reports", mend
    place, _, key = address.partition("://")[2].partition("/")
    parts = key.rstrip("/").split("/") if key.rstrip("/") else []
    if not place or not all(map(is_plain, parts)):
        return "an address with an empty part, or one that leads upwards", "Write it as in s3://bucket/folder"
    return None


def is_plain(part: str) -> bool:
    """Whether one part of an address may be the name of a file below a folder."""
    return part not in ("", ".", "..") and not set(part) & set("/\\\0")


def place_and_key(address: str) -> tuple[str, str]:
    """The address of the bucket, container or server, and what follows it."""
    scheme, _, rest = address.partition("://")
    parts = 2 if scheme == "az" else 1  # account and container
    split = rest.split("/", parts)
    return f"{scheme}://{'/'.join(split[:parts])}", split[parts] if len(split) > parts else ""
