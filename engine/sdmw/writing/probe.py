"""What only trying tells of the place of an output: whether a directory can be made and renamed there."""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

_FORBIDDEN = (errno.EACCES, errno.EPERM)
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)


Objection = tuple[str, str]  # what was found, and the mend


def try_place(parent: str, target: str) -> tuple[Objection | None, Objection | None]:
    """Makes an empty directory beside a target and renames it, as the output is; nothing of it stays.

    What stands at the target is not moved: it is renamed onto a directory that is not empty, which every file system
    refuses, but only after all other reasons to refuse.

    Args:
        parent: the directory that holds the target.
        target: the output's place, where a directory may be.

    Returns:
        Why nothing can be written in `parent`; why what is at the target cannot be replaced. None where it can.
    """
    try:
        probe = tempfile.mkdtemp(prefix=".sdmw-", dir=parent)
    except OSError as error:
        return _said(parent, error), None
    inside, beside = os.path.join(probe, "inside"), f"{probe}.beside"
    try:
        os.mkdir(inside)
        os.rename(inside, beside)
        os.rename(beside, inside)
        return None, _held(target, probe)
    except OSError as error:
        found = f"no directory can be renamed in {parent}: {error.strerror}"
        return (found, "Write to another file system, and move the result"), None
    finally:
        for path in (inside, beside, probe):
            with suppress(OSError):
                Path(path).rmdir()


def _said(parent: str, error: OSError) -> Objection:
    found = f"no directory can be made in {parent}: {error.strerror}"
    if error.errno == errno.EROFS:
        found = f"the file system of {parent} is read-only"
    elif error.errno in _FORBIDDEN:
        found = f"no permission to write in {parent}"
    return found, "Choose another folder"


def _held(target: str, occupied: str) -> Objection | None:
    """Why the directory at a target cannot be replaced; `occupied` is a directory that is not empty."""
    if os.path.islink(target) or not os.path.isdir(target):
        return None
    try:
        os.rename(target, occupied)
    except OSError as error:
        if error.errno in _NOT_EMPTY:
            return None
        if error.errno == errno.EBUSY:
            return "it cannot be replaced: it is a mount point", "Name a directory inside it"
        if error.errno == errno.EXDEV:
            found = "its file system cannot move it: it is in a lower layer of an overlay, or under another quota"
            return f"it cannot be replaced: {found}", "Remove it first, or choose another name"
        return f"it cannot be replaced: {error.strerror}", "Choose another name"
    os.rename(occupied, target)  # a file system of somebody's own that replaces what is not empty
    return None
