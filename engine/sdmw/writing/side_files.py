"""The base's other files (tokenizer, templates, processors, licences): which come along, and copying them."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import xxhash

from sdmw.errors import CheckpointError, Problem, quoted
from sdmw.linux import write_failed
from sdmw.storage.files import LEAVES, TO_A_FOLDER, entries, read_bounded, read_start, size_of
from sdmw.storage.opened import OpenFile, chunks, opened
from sdmw.storage.pointers import FETCH, IS_POINTER, LARGEST_POINTER, is_pointer
from sdmw.storage.weight_files import OTHER_FORM, format_of, not_beside_a_merge

LARGEST = 64 * 2**20  # bytes of one file
DEEPEST = 16  # folders in folders: Python makes and removes them by recursion
MODULES = "modules.json"  # of a sentence transformer: the folders that its modules are loaded from
_LARGEST_MODULES = 2**20  # bytes
REPLACED = "the merge writes its own"

# A deny list, for what a future tokenizer is called nobody knows; of weights that list is storage/weight_files.py.
# Patterns match one path component in lower case.
_DENIED = {
    **dict.fromkeys((".git*", ".cache"), "not part of the model"),
    "adapter_*": OTHER_FORM,
}
# In a folder of its own an index belongs to shards that are copied.
_DENIED_ON_TOP = {"*.safetensors.index.json": REPLACED}
# What tells of a model: a merge writes its own, an archive keeps the model's.
_OF_THE_MODEL = dict.fromkeys(("readme.md", "sdmw_*", "mergekit_config.yml"), REPLACED)


def choose(base_dir: str, *, follow_links: bool = False) -> tuple[list[str], list[tuple[str, str]]]:
    """Divides the base's files into those that come along and those that do not.

    `config.json` is in neither list: the output has its own (checkpoints/merged_config.py).

    Args:
        base_dir: the base's folder.
        follow_links: links of files that leave the folder are followed, here and in what else takes this.

    Returns:
        Paths to copy, relative to the folder; and paths left out (folders end in `/`), each with the reason. Sorted.

    Raises:
        CheckpointError: a folder cannot be listed.
    """
    copied, skipped = [], []
    for path, reason in _judged(base_dir, follow_links=follow_links):
        if reason:
            skipped.append((path, reason))
        elif path != "config.json":
            copied.append(path)
    return sorted(copied), sorted(skipped)


def copy(base_dir: str, names: Sequence[str], out_dir: str, *, follow_links: bool = False) -> None:
    """Copies files byte for byte, links as what they point to.

    Args:
        base_dir: the base's folder.
        names: paths in it, as `choose` gives them.
        out_dir: an existing folder.
        follow_links: as for `choose`.

    Raises:
        CheckpointError: a file cannot be read, or is no longer one that comes along.
        OutputError: a copy cannot be written.
    """
    for name in names:
        target = os.path.join(out_dir, name)
        with _opened(base_dir, name, follow_links) as source:
            try:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, "xb") as copied:
                    copied.writelines(_chunks(source, name))
            except OSError as error:
                raise write_failed(target, error, source.size) from error


def all_but_weights(folder: str, *, follow_links: bool = False) -> tuple[list[str], list[tuple[str, str]]]:
    """Divides a model's files into all that belong to it beside its weights, and those that cannot be kept.

    `config.json`, the card and what `sdmw` or mergekit wrote of it belong to it; other forms of the weights, states of
    a training and caches are in neither list.

    Returns:
        Paths to keep, relative to the folder; and paths that cannot be, each with the reason. Sorted.

    Raises:
        CheckpointError: a folder cannot be listed.
    """
    kept, lost = [], []
    for path, reason in _judged(folder, whole=True, follow_links=follow_links):
        if not reason:
            kept.append(path)
        elif not denied(path.rstrip("/"), folder=path.endswith("/"), whole=True):
            lost.append((path, reason))
    return sorted(kept), sorted(lost)


def fingerprint(folder: str, name: str, *, follow_links: bool = False) -> str:
    """XXH3-128 of a file that comes along, in hex; no signature.

    Raises:
        CheckpointError: it cannot be read, or may not come along.
    """
    checksum = xxhash.xxh3_128()
    with _opened(folder, name, follow_links) as source:
        for chunk in _chunks(source, name):
            checksum.update(chunk)
    return checksum.hexdigest()


def _judged(base_dir: str, *, whole: bool = False, follow_links: bool) -> Iterator[tuple[str, str]]:
    """Every file of the base, with the reason to leave it out, empty where there is none; `whole` as for `denied`."""
    folders = [""]
    while folders:
        folder = folders.pop()
        for name, is_folder in entries(base_dir, folder):
            path = os.path.join(folder, name)
            if not is_folder:
                yield path, denied(path, whole=whole) or _unfit(base_dir, path, follow_links)
            elif reason := denied(path, folder=True, whole=whole):
                yield f"{path}/", reason
            elif path.count("/") == DEEPEST:
                yield f"{path}/", "nested too deeply"
            else:
                folders.append(path)


def denied(path: str, *, folder: bool = False, whole: bool = False) -> str:
    """Why nothing of this name comes along, whatever it holds; empty where it may.

    Args:
        path: in the model's folder.
        folder: it is a folder's.
        whole: what tells of the model comes along as well.
    """
    name = os.path.basename(path)
    top = "/" not in path
    patterns = _DENIED | (_DENIED_ON_TOP if top else {}) | ({} if whole else _OF_THE_MODEL)
    own = next((reason for pattern, reason in patterns.items() if fnmatchcase(name.lower(), pattern)), "")
    return own or not_beside_a_merge(name, folder=folder, top=top)


def remarks(base_dir: str, copied: Sequence[str], skipped: Sequence[tuple[str, str]]) -> list[str]:
    """What a person should know of the files that come along or do not: one sentence each."""
    parts = [path for path in copied if format_of(os.path.basename(path))]
    lost = [(path, reason) for path, reason in skipped if not denied(path.rstrip("/"), folder=path.endswith("/"))]
    return [
        *(f"{base_dir}: {quoted(path)} holds weights that are copied, not merged" for path in parts),
        *(f"{base_dir}: {quoted(path)} is not copied: {reason}" for path, reason in lost),
    ]


def missed(base_dir: str, skipped: Sequence[tuple[str, str]], *, follow_links: bool = False) -> list[Problem]:
    """Which files that do not come along the output would not load without.

    Args:
        base_dir: the base's folder.
        skipped: as `choose` gives them.
        follow_links: as for `choose`.
    """
    modules = module_folders(base_dir, follow_links)
    problems = []
    for path, reason in skipped:
        where = os.path.join(base_dir, path)
        if reason == IS_POINTER:
            problems.append(Problem(where, "the file", reason, FETCH))
        elif f"{path}/".startswith(modules) and not denied(path.rstrip("/"), folder=path.endswith("/")):
            instead = "Merge a copy of the folder without it, and put it into the output afterwards"
            if reason == LEAVES:
                mend = "Replace the link by the file, or allow such links (--follow-links, follow_links=True)"
            else:
                mend = "Replace the link by the folder" if reason == TO_A_FOLDER else instead
            problems.append(
                Problem(where, f"a file that can be copied, since {MODULES} names its folder", reason, mend)
            )
    return problems


def module_folders(folder: str, follow_links: bool) -> tuple[str, ...]:
    """The folders, each with a `/` at its end, of a sentence transformer's modules; none for other models."""
    try:
        found = json.loads(read_bounded(folder, MODULES, _LARGEST_MODULES, follow_links=follow_links))
    except (CheckpointError, ValueError, RecursionError):
        return ()
    paths = [module.get("path") for module in found if isinstance(module, dict)] if isinstance(found, list) else []
    folders = (os.path.normpath(path) for path in paths if isinstance(path, str) and path)
    return tuple(f"{folder}/" for folder in folders if not folder.startswith((".", "/")))


def _unfit(base_dir: str, path: str, follow_links: bool) -> str:
    """Why a file cannot come along, whatever it is called; empty where it can."""
    size = size_of(base_dir, path, follow_links=follow_links)
    if isinstance(size, str):
        return size
    if size > LARGEST:
        return "larger than 64 MiB"
    start = read_start(base_dir, path, LARGEST_POINTER, follow_links=follow_links) if size < LARGEST_POINTER else b""
    return IS_POINTER if is_pointer(start) else ""


@contextmanager
def _opened(base_dir: str, name: str, follow_links: bool) -> Iterator[OpenFile]:
    if reason := _unfit(base_dir, name, follow_links):
        raise CheckpointError([Problem(quoted(name), "a file that can be copied", reason)])
    with opened(base_dir, name, follow_links=follow_links) as file:
        yield file


def _chunks(source: OpenFile, name: str) -> Iterator[bytes]:
    try:
        yield from chunks(source)
    except OSError as error:
        raise CheckpointError([Problem(quoted(name), "", f"cannot be read: {error.strerror}")]) from error
