"""What to say when an input that was checked cannot be read: it changed, or the disk fails."""

import errno
import os
from typing import TYPE_CHECKING

from sdmw.errors import InputChangedError, Problem, RunError

if TYPE_CHECKING:
    from sdmw.tensors.stored import Stored


def changed(info: "Stored", how: str) -> InputChangedError:
    """The file is another than the one whose header was read.

    Args:
        info: the tensor that was wanted.
        how: what differs: "is gone", "was 5.00 GB at the start, is 2.10 GB now".
    """
    found = f"input changed while it was read: {info.file} {how}"
    return InputChangedError([Problem(info.where, "", found, "Leave the inputs alone and run it again")])


def not_opened(info: "Stored", error: OSError) -> RunError:
    """The file cannot be opened or mapped."""
    if isinstance(error, FileNotFoundError):
        return changed(info, "is gone")
    if error.errno == errno.EINVAL:
        return changed(info, "is empty, or no longer a regular file")
    return RunError([Problem(info.where, "", f"cannot be opened: {error.strerror}")])


def unreadable(info: "Stored", offset: int, number: int) -> RunError:
    """The disk does not give the bytes at an offset of the file; `number` is the kernel's error."""
    return RunError([Problem(info.where, "", f"read error at byte {offset:,} of the file: {os.strerror(number)}")])
