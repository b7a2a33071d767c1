"""Addresses of objects, in the places where paths of files stand: `s3://bucket/key`."""

import os
import re

SCHEMES = ("s3", "gs", "az", "https", "hf")
OTHER_KIND = (  # what was expected, what is there, and the mend, where `is_of_other_kind` holds
    "a folder, or an address that begins with s3://, gs://, az://, https:// or hf://",
    "an address of another kind",
    "Write s3:// in small letters, gs:// for Google, az:// for Azure, https:// for a server, or copy it to a folder",
)
_REMOTE = tuple(f"{scheme}://" for scheme in SCHEMES)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CREDENTIALS = re.compile(r"\w+://[^/]*@")
_HOST = re.compile(r"(?:[^:]*|\[[0-9A-Fa-f:.]*\])(?::\d+)?")  # with a port; what has more colons holds a password


def is_remote(path: str) -> bool:
    """Whether it is an address, and no path on this machine."""
    return path.startswith(_REMOTE)


def is_of_other_kind(path: str) -> bool:
    """Whether it is meant as an address, of a kind that is not read: such a name would be that of a folder here."""
    return _SCHEME.match(path) is not None and not is_remote(path)


def absolute(path: str) -> str:
    """A path from the root on; an address as it is, without slashes at its end."""
    return path.rstrip("/") if is_remote(path) else os.path.abspath(path)


def objection(address: str) -> tuple[str, str] | None:
    """Why an address is refused, and the mend; None where it is not.

    What is in a recipe goes into cards and reports, so it must hold no secret.
    """
    place, _, key = address.partition("://")[2].partition("/")
    if _CREDENTIALS.match(address) or not _HOST.fullmatch(place) or "?" in address or "#" in address:
        mend = "Leave them out: credentials come from the environment, such as AWS_ACCESS_KEY_ID"
        return "an address with credentials, a signature or parameters in it, which would go into reports", mend
    parts = key.rstrip("/").split("/") if key.rstrip("/") else []
    if not place or not all(map(is_plain, parts)):
        return "an address with an empty part, or one that leads upwards", "Write it as in s3://bucket/folder"
    if address.startswith("az://") and not parts:
        return "an address without a container", "Write it as in az://account/container/folder"
    return None


def is_plain(part: str) -> bool:
    """Whether one part of an address may be the name of a file below a folder."""
    return part not in ("", ".", "..") and not set(part) & set("/\\\0")


def place_and_key(address: str) -> tuple[str, str]:
    """The address of the bucket, container or server, and what follows it."""
    scheme, _, rest = address.partition("://")
    parts = 2 if scheme in ("az", "hf") else 1  # account and container, organisation and name
    split = rest.split("/", parts)
    return f"{scheme}://{'/'.join(split[:parts])}", split[parts] if len(split) > parts else ""
