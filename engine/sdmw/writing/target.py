"""What can be told against an output directory before anything is read or written."""

import os
import stat
from collections.abc import Iterator, Sequence

from sdmw.errors import Problem, quoted
from sdmw.linux import allocated, free
from sdmw.sizes import shown
from sdmw.writing.work_directory import parted, work_path

ARCHIVE = "zarr.json"  # a delta archive's attributes


def check_target(target: str, inputs: Sequence[str], size: int, overwrite: bool) -> list[Problem]:
    """Everything that can be told against an output directory before a byte is read or written.

    Args:
        target: the directory to appear; may end in a slash.
        inputs: directories and files that are read.
        size: bytes that will be written.
        overwrite: whether a directory may be replaced: a model, or a result of ours. Others, files and links never are.
    """
    parent, name = parted(target)
    if name in ("", ".", "..") or "\0" in target:
        return [Problem("output", "a name for a new directory", repr(target))]
    if not os.path.isdir(parent):
        return [Problem(target, "an existing directory to make it in", f"{parent} is none", "Make it first")]
    path = os.path.join(parent, name)
    overlaps = list(_overlaps(path, inputs))
    occupied = () if overlaps and overwrite else _occupied(path, overwrite)  # whoever removes it loses an input
    return [
        *(Problem(target, "", found, mend) for found, mend in occupied),
        *(Problem(target, "a directory apart from the inputs", found) for found in overlaps),
        *(
            Problem(work_path(parent, name), "a work directory without inputs", found)
            for found in _inputs_in(work_path(parent, name), inputs)
        ),
        *(Problem(target, "a place that can be written to", found) for found in _unwritable(parent, name)),
        *(Problem(target, f"{shown(size)} of free disk", found) for found in _too_full(parent, name, size)),
    ]


def _occupied(path: str, overwrite: bool) -> Iterator[tuple[str, str]]:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if stat.S_ISLNK(mode):
        yield "it is a symbolic link", "Name the directory itself"
    elif not stat.S_ISDIR(mode):
        yield "it exists and is no directory", "Choose another name, or remove it"
    elif not overwrite:
        yield "it exists", "Choose another name, or ask for it to be overwritten (--overwrite)"
    elif stranger := _stranger(path):
        yield stranger, "Choose another name, or remove it yourself"


def _stranger(path: str) -> str:
    """What a directory holds that nobody would want replaced; empty for a model, a result of ours, or nothing."""
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    of_sdmw = ARCHIVE in names or any(name.startswith("sdmw_") for name in names)
    model = "config.json" in names and any(name.endswith(".safetensors") for name in names)
    if not names or of_sdmw or model:
        return ""
    more = f" and {len(names) - 1:,} more" if names[1:] else ""
    return f"it holds {quoted(names[0])}{more}, and is no model or result of sdmw"


def _overlaps(path: str, inputs: Sequence[str]) -> Iterator[str]:
    # Device and inode, not only paths: a bind mount gives one directory two of them.
    target, above_target = _identity(path), {_identity(folder) for folder in _ancestors(path)}
    for given in inputs:
        real = os.path.realpath(given)
        if (found := _identity(real)) is None:
            continue
        if found == target:
            yield f"it is the input {given}"
        elif found in above_target:
            yield f"it is inside the input {given}"
        elif target is not None and target in map(_identity, _ancestors(real)):
            yield f"it contains the input {given}"


def _inputs_in(work: str, inputs: Sequence[str]) -> Iterator[str]:
    """Inputs that beginning would remove with what a killed run left."""
    inside = _identity(work)
    for given in inputs:
        if inside is not None and inside in map(_identity, _ancestors(os.path.realpath(given))):
            yield f"it contains the input {given}"


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _ancestors(path: str) -> Iterator[str]:
    while (above := os.path.dirname(path)) != path:
        yield (path := above)


def _unwritable(parent: str, name: str) -> Iterator[str]:
    if os.statvfs(parent).f_flag & os.ST_RDONLY:
        yield f"the file system of {parent} is read-only"
    elif not os.access(parent, os.W_OK | os.X_OK):
        yield f"no permission to write in {parent}"
    if len(os.fsencode(work_path("", name))) > os.pathconf(parent, "PC_NAME_MAX"):
        yield "a name that is too long"


def _too_full(parent: str, name: str, size: int) -> Iterator[str]:
    room = free(parent) + allocated(work_path(parent, name))  # what a killed run left there is removed first
    if size > room:
        yield f"{shown(room)} in {parent}"
