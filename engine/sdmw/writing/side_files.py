"""The base's other files (tokenizer, templates, processors, licences): which come along, and copying them."""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import BinaryIO

import xxhash

from sdmw.errors import CheckpointError, Problem, quoted
from sdmw.linux import write_failed

LARGEST = 64 * 2**20  # bytes of one file
DEEPEST = 16  # folders in folders: Python makes and removes them by recursion

# A deny list, for what a future tokenizer is called nobody knows. Patterns match one path component in lower case.
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ckpt")
_DENIED = {
    **dict.fromkeys(_WEIGHTS, "weights"),
    **dict.fromkeys(("*.index.json", "readme.md", "sdmw_*", "mergekit_config.yml"), "the merge writes its own"),
    **dict.fromkeys((".git*", ".cache"), "no part of the model"),
    **dict.fromkeys(("consolidated*", "adapter_*"), "another form of the weights"),
    **dict.fromkeys(("optimizer*", "scheduler*", "rng_state*", "trainer_state.json"), "state of a training"),
}
_DENIED_FOLDERS = {**_DENIED, **dict.fromkeys(("original", "onnx"), "another form of the weights")}
_SNAPSHOT = re.compile(r"(.*/models--[^/]+)/snapshots/[^/]+", re.DOTALL)


def choose(base_dir: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Divides the base's files into those that come along and those that do not.

    `config.json` is in neither list: the output has its own (see config.py).

    Returns:
        Paths to copy, relative to the folder; and paths left out (folders end in `/`), each with the reason. Sorted.

    Raises:
        CheckpointError: a folder cannot be listed.
    """
    copied, skipped = [], []
    for path, reason in _judged(base_dir):
        if reason:
            skipped.append((path, reason))
        elif path != "config.json":
            copied.append(path)
    return sorted(copied), sorted(skipped)


def copy(base_dir: str, names: Sequence[str], out_dir: str) -> None:
    """Copies files byte for byte, links as what they point to.

    Args:
        base_dir: the base's folder.
        names: paths in it, as `choose` gives them.
        out_dir: an existing folder.

    Raises:
        CheckpointError: a file cannot be read, or is no longer one that comes along.
        OutputError: a copy cannot be written.
    """
    for name in names:
        target = os.path.join(out_dir, name)
        with _opened(base_dir, name) as source:
            try:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, "xb") as copied:
                    copied.writelines(_chunks(source, name))
            except OSError as error:
                raise write_failed(target, error, os.fstat(source.fileno()).st_size) from error


def own_files(folder: str) -> list[str]:
    """All files that come along, config.json among them where there is one; sorted.

    Raises:
        CheckpointError: a folder cannot be listed.
    """
    config = ["config.json"] if os.path.lexists(os.path.join(folder, "config.json")) else []
    return sorted([*choose(folder)[0], *config])


def fingerprint(folder: str, name: str) -> str:
    """XXH3-128 of a file that comes along, in hex; no signature.

    Raises:
        CheckpointError: it cannot be read, or is none that comes along.
    """
    checksum = xxhash.xxh3_128()
    with _opened(folder, name) as source:
        for chunk in _chunks(source, name):
            checksum.update(chunk)
    return checksum.hexdigest()


def _judged(base_dir: str) -> Iterator[tuple[str, str]]:
    """Every file of the base, with the reason to leave it out, empty where there is none."""
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(base_dir, folder)) as listing:
                entries = list(listing)
        except OSError as error:
            raise _unreadable(folder or base_dir, error) from error
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if not entry.is_dir(follow_symlinks=False):
                yield path, _denied(entry.name, _DENIED) or _unfit(base_dir, path)
            elif reason := _denied(entry.name, _DENIED_FOLDERS):
                yield f"{path}/", reason
            elif path.count("/") == DEEPEST:
                yield f"{path}/", "nested too deeply"
            else:
                folders.append(path)


def _denied(name: str, patterns: dict[str, str]) -> str:
    return next((reason for pattern, reason in patterns.items() if fnmatchcase(name.lower(), pattern)), "")


def _unfit(base_dir: str, path: str) -> str:
    """Why a file cannot come along, whatever it is called; empty where it can."""
    if not _inside(base_dir, path):
        return "a link that leaves the folder"
    try:
        status = os.stat(os.path.join(base_dir, path))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if stat.S_ISDIR(status.st_mode):
        return "a link to a folder"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    return "larger than 64 MiB" if status.st_size > LARGEST else ""


def _inside(base_dir: str, path: str) -> bool:
    """Whether a path, links followed, stays in the folder, or, from a Hub cache's snapshot, in that model's blobs."""
    root = os.path.realpath(base_dir)
    roots = [root]
    if snapshot := _SNAPSHOT.fullmatch(root):
        roots.append(os.path.join(snapshot[1], "blobs"))
    real = os.path.realpath(os.path.join(root, path))
    return any(os.path.commonpath((root, real)) == root for root in roots)


def _opened(base_dir: str, name: str) -> BinaryIO:
    if reason := _unfit(base_dir, name):
        raise CheckpointError([Problem(quoted(name), "a file that can be copied", reason)])
    try:
        # Without O_NONBLOCK a pipe put there since would hang the open for ever; it means nothing to a regular file.
        fd = os.open(os.path.join(base_dir, name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(name, error) from error
    return os.fdopen(fd, "rb")


def _chunks(source: BinaryIO, name: str) -> Iterator[bytes]:
    try:
        while chunk := source.read(2**20):
            yield chunk
    except OSError as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: OSError) -> CheckpointError:
    return CheckpointError([Problem(quoted(name), "", f"cannot be read: {error.strerror}")])
