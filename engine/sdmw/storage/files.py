"""Listing and opening the files of a checkpoint directory without being led astray: links, pipes, sizes."""

import os
import stat

from sdmw.addresses import absolute, is_remote
from sdmw.errors import CheckpointError, Problem, UnreachableError, quoted
from sdmw.storage import remote_folder
from sdmw.storage.links import follow

LEAVES, TO_A_FOLDER = "a link that leaves the folder", "a link to a folder"  # why a file is not read
HEADER_LIMIT = 16 * 2**20  # bytes of one shard's header, unless told otherwise; 100,000 tensors take 11 MB


def listing(path: str) -> frozenset[str]:
    """The names in a checkpoint directory.

    Raises:
        CheckpointError: no such directory, not a directory, or not readable.
    """
    if is_remote(path):
        return frozenset(remote_folder.contents(absolute(path)))
    try:
        return frozenset(os.listdir(path))
    except FileNotFoundError:
        problem = Problem(path, "", "no such directory")
    except NotADirectoryError:
        problem = Problem(
            path, "a checkpoint directory", "a file", "Give the directory that holds it, with its config.json"
        )
    except OSError as error:
        problem = Problem(path, "", f"the directory cannot be read: {error.strerror}")
    raise CheckpointError([problem])


def is_same(one: str, other: str) -> bool:
    """Whether two folders that exist are one."""
    return one == other if is_remote(one) or is_remote(other) else os.path.samefile(one, other)


def names_in(path: str) -> frozenset[str]:
    """The names in a directory; none where it cannot be listed.

    Raises:
        UnreachableError: it is in a store that does not answer: what lies there is unknown, and each look takes long.
    """
    try:
        return listing(path)
    except UnreachableError:
        raise
    except (CheckpointError, ValueError):
        return frozenset()


def entries(directory: str, folder: str) -> list[tuple[str, bool]]:
    """The names in a folder of a checkpoint, each with whether it is a folder; a link to one is not.

    Args:
        directory: the checkpoint.
        folder: in it; empty for the directory itself.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    path = os.path.join(directory, folder) if folder else directory
    if is_remote(directory):
        return [(name, found is None) for name, found in remote_folder.contents(path, inner=bool(folder)).items()]
    try:
        with os.scandir(path) as found:
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    except OSError as error:
        raise CheckpointError([Problem(path, "", f"the directory cannot be read: {error.strerror}")]) from error


def size_of(directory: str, name: str, *, follow_links: bool = False) -> int | str:
    """The bytes of a file of a checkpoint, or why `open_file` would refuse it."""
    if is_remote(directory):
        try:
            return remote_folder.found_of(directory, name).size
        except CheckpointError as error:
            return error.problems[0].found
    target, allowed = follow(directory, name, anywhere=follow_links)
    if not allowed:
        return LEAVES
    try:
        status = os.stat(target)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if stat.S_ISDIR(status.st_mode):
        return TO_A_FOLDER
    return status.st_size if stat.S_ISREG(status.st_mode) else "not a regular file"


def open_file(directory: str, name: str, *, follow_links: bool | None = None) -> tuple[int, os.stat_result]:
    """Opens a file of a checkpoint for reading; the caller closes the descriptor.

    Args:
        directory: the checkpoint.
        name: the file's name in it.
        follow_links: links that leave the directory are followed; None where they are not, and nobody can ask for it.

    Raises:
        CheckpointError: missing, not a regular file, or a link that leaves the directory.
    """
    path = os.path.join(directory, name)
    try:
        # O_NONBLOCK: opening a named pipe would wait for its writer for ever. O_NOFOLLOW: the links were followed
        # already; one put there since then is not.
        fd = os.open(
            _resolved(directory, name, follow_links), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
        )
    except FileNotFoundError:
        found = "a link to a file that is not there" if os.path.islink(path) else "no such file"
        raise CheckpointError([Problem(path, "", found, "Copy or download the checkpoint again")]) from None
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError([Problem(path, "", f"cannot be opened: {said}")]) from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise CheckpointError([Problem(path, "a regular file", _kind(status.st_mode))])
    return fd, status


def read_bounded(directory: str, name: str, most: int, *, follow_links: bool | None = None) -> bytes:
    """The whole of a small file of a checkpoint.

    Args:
        directory: the checkpoint.
        name: the file's name in it.
        most: bytes it may have.
        follow_links: as for `open_file`.

    Raises:
        CheckpointError: as `open_file`, or larger than `most`, or not readable.
    """
    size, data = _start(directory, name, most, follow_links)
    if size > most:
        raise CheckpointError([Problem(os.path.join(directory, name), f"at most {most:,} bytes", f"{size:,} bytes")])
    return data


def read_start(directory: str, name: str, most: int, *, follow_links: bool | None = None) -> bytes:
    """The first bytes of a file of a checkpoint, at most `most`; `follow_links` as for `open_file`.

    Raises:
        CheckpointError: as `open_file`, or not readable.
    """
    return _start(directory, name, most, follow_links)[1]


def read_exactly(fd: int, size: int, offset: int) -> bytes:
    """`size` bytes from `offset`, fewer only where the file ends; a single read may give fewer than asked for."""
    parts = []
    while size > 0 and (part := os.pread(fd, size, offset)):
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return b"".join(parts) if len(parts) != 1 else parts[0]


def _start(directory: str, name: str, most: int, follow_links: bool | None) -> tuple[int, bytes]:
    """The size of a file, and its first bytes."""
    if is_remote(directory):
        return remote_folder.start_of(directory, name, most)
    fd, status = open_file(directory, name, follow_links=follow_links)
    try:
        return status.st_size, read_exactly(fd, min(status.st_size, most), 0)
    except OSError as error:
        raise CheckpointError(
            [Problem(os.path.join(directory, name), "", f"cannot be read: {error.strerror}")]
        ) from None
    finally:
        os.close(fd)


def _resolved(directory: str, name: str, follow_links: bool | None) -> str:
    target, allowed = follow(directory, name, anywhere=bool(follow_links))
    if allowed:
        return target
    found = f"a link that leaves it, to {quoted(target)}"
    copy = "Copy the file into the directory"
    follow_them = f"{copy}, or allow such links (--follow-links, follow_links=True)"
    mend = copy if follow_links is None else follow_them
    raise CheckpointError([Problem(os.path.join(directory, name), "a file of this directory", found, mend)])


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
