"""Opening a file of a checkpoint directory without being led astray: links, pipes, sizes."""

import os
import stat

from sdmw.errors import CheckpointError, Problem, quoted

HEADER_LIMIT = 16 * 2**20  # bytes of one shard's header, unless told otherwise; 100,000 tensors take 11 MB


def listing(path: str) -> frozenset[str]:
    """The names in a checkpoint directory.

    Raises:
        CheckpointError: no such directory, not a directory, or not readable.
    """
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


def open_file(directory: str, name: str) -> tuple[int, os.stat_result]:
    """Opens a file of a checkpoint for reading; the caller closes the descriptor.

    Raises:
        CheckpointError: missing, not a regular file, or a link that leaves the directory.
    """
    path = os.path.join(directory, name)
    try:
        # O_NONBLOCK: opening a named pipe would wait for its writer for ever. O_NOFOLLOW: the links were followed
        # already; one put there since then is not.
        fd = os.open(_resolved(directory, name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
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


def read_bounded(directory: str, name: str, most: int) -> bytes:
    """The whole of a small file of a checkpoint.

    Args:
        directory: the checkpoint.
        name: the file's name in it.
        most: bytes it may have.

    Raises:
        CheckpointError: as `open_file`, or larger than `most`, or not readable.
    """
    path = os.path.join(directory, name)
    fd, status = open_file(directory, name)
    try:
        if status.st_size > most:
            raise CheckpointError([Problem(path, f"at most {most:,} bytes", f"{status.st_size:,} bytes")])
        return read_exactly(fd, status.st_size, 0)
    except OSError as error:
        raise CheckpointError([Problem(path, "", f"cannot be read: {error.strerror}")]) from None
    finally:
        os.close(fd)


def read_exactly(fd: int, size: int, offset: int) -> bytes:
    """`size` bytes from `offset`, fewer only where the file ends; a single read may give fewer than asked for."""
    parts = []
    while size > 0 and (part := os.pread(fd, size, offset)):
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return b"".join(parts) if len(parts) != 1 else parts[0]


def _resolved(directory: str, name: str) -> str:
    """The file behind a name, links followed.

    A checkpoint comes from strangers: a link in it could make a private file part of the merge. The Hub's cache is
    built of links, from `models--*/snapshots/REV/` into the `blobs/` of the same model: only these may leave.
    """
    root = os.path.realpath(directory)
    target = os.path.realpath(os.path.join(root, name))
    allowed = [root]
    snapshots, repository = os.path.split(root)[0], os.path.dirname(os.path.dirname(root))
    if os.path.basename(snapshots) == "snapshots" and os.path.basename(repository).startswith("models--"):
        allowed.append(os.path.join(repository, "blobs"))
    if not any(target.startswith(os.path.join(place, "")) for place in allowed):
        raise CheckpointError(
            [
                Problem(
                    os.path.join(directory, name),
                    "a file of this directory",
                    f"a link that leaves it, to {quoted(target)}",
                    "Copy the file into the directory",
                )
            ]
        )
    return target


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
