"""The base's other files (tokenizer, templates, processors, licences): which come along, and copying them."""

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import BinaryIO

import xxhash

from sdmw.errors import CheckpointError, Problem, quoted
from sdmw.linux import write_failed
from sdmw.storage.files import entries, listing, open_file, read_start, size_of
from sdmw.storage.weight_files import format_of, not_beside_a_merge

LARGEST = 64 * 2**20  # bytes of one file
LARGEST_POINTER = 1024  # bytes of a Git LFS pointer, by its specification
POINTER = b"version https://git-lfs.github.com/spec/"
DEEPEST = 16  # folders in folders: Python makes and removes them by recursion

REPLACED = "the merge writes its own"

# A deny list, for what a future tokenizer is called nobody knows; of weights that list is storage/weight_files.py.
# Patterns match one path component in lower case.
_DENIED = {
    **dict.fromkeys(("*.index.json", "readme.md", "sdmw_*", "mergekit_config.yml"), REPLACED),
    **dict.fromkeys((".git*", ".cache"), "no part of the model"),
    "adapter_*": "another form of the weights",
}


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
    config = {"config.json"} & listing(folder)
    return sorted([*choose(folder)[0], *config])


def fingerprint(folder: str, name: str) -> str:
    """XXH3-128 of a file that comes along, in hex; no signature.

    Raises:
        CheckpointError: it cannot be read, or may not come along.
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
        for name, is_folder in entries(base_dir, folder):
            path = os.path.join(folder, name)
            if not is_folder:
                yield path, denied(path) or _unfit(base_dir, path)
            elif reason := denied(path, folder=True):
                yield f"{path}/", reason
            elif path.count("/") == DEEPEST:
                yield f"{path}/", "nested too deeply"
            else:
                folders.append(path)


def denied(path: str, *, folder: bool = False) -> str:
    """Why nothing of this name comes along, whatever it holds; empty where it may."""
    name = os.path.basename(path)
    own = next((reason for pattern, reason in _DENIED.items() if fnmatchcase(name.lower(), pattern)), "")
    return own or not_beside_a_merge(name, folder=folder, top="/" not in path)


def remarks(base_dir: str, copied: Sequence[str], skipped: Sequence[tuple[str, str]]) -> list[str]:
    """What a person should know of the files that come along or do not: one sentence each."""
    parts = [path for path in copied if format_of(os.path.basename(path))]
    lost = [(path, reason) for path, reason in skipped if not denied(path.rstrip("/"), folder=path.endswith("/"))]
    return [
        *(f"{base_dir}: {quoted(path)} holds weights that are copied, not merged" for path in parts),
        *(f"{base_dir}: {quoted(path)} is not copied: {reason}" for path, reason in lost),
    ]


def _unfit(base_dir: str, path: str) -> str:
    """Why a file cannot come along, whatever it is called; empty where it can."""
    size = size_of(base_dir, path)
    if isinstance(size, str):
        return size
    if size > LARGEST:
        return "larger than 64 MiB"
    return "a pointer of Git LFS, not the file" if size < LARGEST_POINTER and _is_pointer(base_dir, path) else ""


def _is_pointer(base_dir: str, path: str) -> bool:
    """Whether a repository was cloned without its large files. Source: the Git LFS specification, "The Pointer"."""
    return read_start(base_dir, path, len(POINTER)) == POINTER


def _opened(base_dir: str, name: str) -> BinaryIO:
    if reason := _unfit(base_dir, name):
        raise CheckpointError([Problem(quoted(name), "a file that can be copied", reason)])
    return os.fdopen(open_file(base_dir, name)[0], "rb")


def _chunks(source: BinaryIO, name: str) -> Iterator[bytes]:
    try:
        while chunk := source.read(2**20):
            yield chunk
    except OSError as error:
        raise CheckpointError([Problem(quoted(name), "", f"cannot be read: {error.strerror}")]) from error
