"""What is wrong with an output directory, found before anything is read or written."""

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from sdmw.addresses import OTHER_KIND, is_of_other_kind, is_remote
from sdmw.errors import Problem, quoted
from sdmw.linux import allocated, free, longest_name, memory_file_system
from sdmw.sizes import shown
from sdmw.writing.probe import try_place
from sdmw.writing.work_directory import parted, standing, work_path

OVERWRITE = "Choose another name, or overwrite it (--overwrite)"  # of a directory that is there
ARCHIVE = "zarr.json"  # a delta archive's attributes
MOST_NAMES = 3  # of what is lost, in one line

# What results have at the top of their folder, beside what comes along from a base.
_OF_RESULTS = re.compile(
    r"(adapter_)?model(-\d{5,}-of-\d{5,})?\.safetensors(\.index\.json)?|(adapter_)?config\.json|README\.md|sdmw_.*"
)


def check_target(target: str, inputs: Sequence[str], size: int, overwrite: bool) -> list[Problem]:
    """Everything that is wrong with an output directory, found before a byte is read or written.

    Args:
        target: the directory to appear; may end in a slash.
        inputs: directories and files that are read.
        size: bytes that will be written.
        overwrite: whether a directory may be replaced: a model, or a result of ours. Others, files and links never are.
    """
    if is_remote(target):
        mend = "Write to a folder of this machine, and copy the result there"
        return [Problem(target, "a directory of this machine", "an address", mend)]
    if is_of_other_kind(target):
        return [Problem(target, *OTHER_KIND)]
    parent, name = parted(target)
    if name in ("", ".", "..") or "\0" in target:
        return [Problem("output", "a name for a new directory", repr(target))]
    above = standing(parent)
    if not os.path.isdir(above):
        return [Problem(target, "a directory to create it in", f"{above} is not a directory", "Choose another name")]
    path = os.path.join(parent, name)
    made = Path(path).relative_to(above).parts  # what is missing above it is made with it
    overlaps = list(_overlaps(path, inputs))
    # An input is not written to, not even to try.
    unwritable, held = (None, None) if overlaps else try_place(above, os.path.join(above, made[0]))
    place = [*([unwritable] if unwritable else []), *((found, "") for found in _unfit(above, made))]
    occupied = [held] if held else [*_occupied(path, overwrite)]
    if overlaps and overwrite:
        occupied = []  # removing it would lose an input
    return [
        *(Problem(target, "", *said) for said in occupied),
        *(Problem(target, "a directory separate from the inputs", found) for found in overlaps),
        *(
            Problem(work_path(parent, name), "a work directory without inputs", found)
            for found in _inputs_in(work_path(parent, name), inputs)
        ),
        *(Problem(target, "a place that can be written to", *said) for said in place),
        *(
            Problem(target, f"{shown(size)} of free disk", found)
            for found in _too_full(above, work_path(parent, name), size)
        ),
    ]


def replaced(target: str, written: Collection[str]) -> Iterator[str]:
    """What to say of a directory that is to be replaced, where it holds what is not written anew.

    Args:
        target: the directory.
        written: paths in it of what is written beside the weights; of a folder as a whole, with a slash at its end.
    """
    path = os.path.join(*parted(target))
    if os.path.islink(path) or not os.path.isdir(path):
        return
    if names := sorted(_lost(path, "", written)):
        yield said_of_lost(target, names)


def said_of_lost(target: str, names: Sequence[str]) -> str:
    """What to say of names, at least one, that go with a directory that is replaced."""
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    shown_names = ", ".join(map(quoted, names[:MOST_NAMES])) + more
    return f"{target}: it is overwritten, and these files in it are lost: {shown_names}"


def is_of_results(name: str) -> bool:
    """Whether a file at the top of a folder has a name that results have, and that a new one has too."""
    return _OF_RESULTS.fullmatch(name) is not None


def _lost(path: str, folder: str, written: Collection[str]) -> Iterator[str]:
    """Paths in a directory of what is not written anew; of folders in which nothing is, no more than the folder's."""
    try:
        entries = list(os.scandir(os.path.join(path, folder)))
    except OSError:
        return
    for entry in entries:
        name = os.path.join(folder, entry.name)
        if not entry.is_dir(follow_symlinks=False):
            if name not in written and not (folder == "" and is_of_results(name)):
                yield name
        elif f"{name}/" in written:
            continue
        elif any(each.startswith(f"{name}/") for each in written):
            yield from _lost(path, name, written)
        else:
            yield f"{name}/"


def _occupied(path: str, overwrite: bool) -> Iterator[tuple[str, str]]:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if stat.S_ISLNK(mode):
        yield "it is a symbolic link", "Name the directory itself"
    elif not stat.S_ISDIR(mode):
        yield "it exists and is not a directory", "Choose another name, or remove it"
    elif not overwrite:
        yield "it exists", OVERWRITE
    elif stranger := _stranger(path):
        yield stranger, "Choose another name, or remove it yourself"


def _stranger(path: str) -> str:
    """What a directory holds that nobody would want replaced; empty for a model, a result of ours, or nothing."""
    try:
        return said_of_strangers(sorted(os.listdir(path)))
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def said_of_strangers(names: Sequence[str]) -> str:
    """As `_stranger`, of the names in a directory, in order."""
    of_sdmw = ARCHIVE in names or any(name.startswith("sdmw_") for name in names)
    model = "config.json" in names and any(name.endswith(".safetensors") for name in names)
    if not names or of_sdmw or model:
        return ""
    more = f" and {len(names) - 1:,} more" if names[1:] else ""
    return f"it holds {quoted(names[0])}{more}, and is not a model or a result of sdmw"


def _overlaps(path: str, inputs: Sequence[str]) -> Iterator[str]:
    target, above_target = _identities(path), _all_identities(_ancestors(path))
    for given in inputs:
        real = os.path.realpath(given)
        if not os.path.lexists(real):
            continue
        found = _identities(real)
        if found & target:
            yield f"it is the input {given}"
        elif found & above_target:
            yield f"it is inside the input {given}"
        elif target & _all_identities(_ancestors(real)):
            yield f"it contains the input {given}"


def _inputs_in(work: str, inputs: Sequence[str]) -> Iterator[str]:
    """Inputs that beginning would remove with what a killed run left."""
    inside = _identities(work)
    for given in inputs:
        if inside & _all_identities(_ancestors(os.path.realpath(given))):
            yield f"it contains the input {given}"


def _identities(path: str) -> set[object]:
    """What tells that two paths name one thing: the real path, and device and inode where there is something.

    A bind mount gives one directory two paths; some file systems give it another inode at each look.
    """
    try:
        status = os.stat(path)
    except OSError:
        return {path}
    return {path, (status.st_dev, status.st_ino)}


def _all_identities(paths: Iterable[str]) -> set[object]:
    return set().union(*map(_identities, paths))


def _ancestors(path: str) -> Iterator[str]:
    while (above := os.path.dirname(path)) != path:
        yield (path := above)


def _unfit(place: str, made: Sequence[str]) -> Iterator[str]:
    if memory_file_system(place) == "hugetlbfs":
        yield f"{place} lies on hugetlbfs, whose files cannot be written"
    *above, name = made
    if max(len(os.fsencode(each)) for each in (*above, work_path("", name))) > longest_name(place):
        yield "a name that is too long"


def _too_full(place: str, work: str, size: int) -> Iterator[str]:
    room = free(place)
    # What a killed run left there is removed first.
    if room is not None and size > (room := room + allocated(work)):
        yield f"{shown(room)} in {place}"
