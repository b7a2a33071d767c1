"""What to say when an input that was checked cannot be read: it changed, or the disk fails."""

import errno
import os

from sdmw.errors import InputChangedError, Problem, RunError, quoted
from sdmw.tensors.tensor import TensorInfo


def changed(info: TensorInfo, how: str) -> InputChangedError:
    """The file is another than the one whose header was read.

    Args:
        info: the tensor that was wanted.
        how: what differs: "is gone", "was 5.00 GB at the start, is 2.10 GB now".
    """
    found = f"input changed while it was read: {info.file} {how}"
    return InputChangedError([Problem(_where(info), "", found, "Leave the inputs alone and run it again")])


def not_opened(info: TensorInfo, error: OSError) -> RunError:
    """The file cannot be opened or mapped."""
    if isinstance(error, FileNotFoundError):
        return changed(info, "is gone")
    if error.errno == errno.EINVAL:
        return changed(info, "is empty or no regular file now")
    return RunError([Problem(_where(info), "", f"cannot be opened: {error.strerror}")])


def unreadable(info: TensorInfo, offset: int, number: int) -> RunError:
    """The disk does not give the bytes at an offset of the file; `number` is the kernel's error."""
    return RunError([Problem(_where(info), "", f"read error at byte {offset:,} of the file: {os.strerror(number)}")])


def _where(info: TensorInfo) -> str:
    return f"{info.file}: tensor {quoted(info.name)}"
