"""How much memory there is: of the machine, and of every control group that the process is in."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from sdmw.addresses import is_remote
from sdmw.errors import Problem
from sdmw.linux import allocated, memory_file_system
from sdmw.sizes import shown
from sdmw.writing.work_directory import parted, standing, work_path

CGROUPS = Path("/sys/fs/cgroup")
_BOOKS = 64  # bytes of a file in memory for one byte by which the kernel finds them, or a little more


def resident() -> int:
    """Bytes that the process occupies now."""
    return int(psutil.Process().memory_info().rss)


def available() -> int:
    """Bytes that the process may still take: of the machine, and of each control group's limit."""
    return max(0, min([int(psutil.virtual_memory().available), *_left_in_groups()]))


def taken_by_output(target: str, size: int) -> int:
    """Bytes of memory that an output will take: none on a disk, all on tmpfs and ramfs, whose files are memory.

    Args:
        target: the directory to appear.
        size: bytes to be written; what a killed run of the same target has written is taken already.
    """
    parent, name = parted(target)
    if is_remote(target) or memory_file_system(standing(parent)) is None:
        return 0
    return max(0, size - allocated(work_path(parent, name)))


def check_output(target: str, size: int, growth: int = 0) -> list[Problem]:
    """What keeps an output that lies in memory from fitting there: it would be killed half way.

    Args:
        target: the directory to appear.
        size: bytes to be written.
        growth: bytes that the run itself will take.
    """
    output, room = taken_by_output(target, size), available()
    if output == 0 or output + output // _BOOKS + growth <= room:
        return []
    place = standing(parted(target)[0])
    wanted = f"{shown(output)} of memory for the output, which {memory_file_system(place)} keeps in memory"
    if growth:
        wanted += f", and {shown(growth)} for the run"
    return [Problem(target, wanted, shown(room), "Write to a disk, or raise the memory limit")]


def _left_in_groups() -> Iterator[int]:
    """What each limit above us leaves; psutil does not see them. Source: cgroup-v2.rst and cgroup-v1/memory.rst."""
    for folder in _groups():
        for limit_name, usage_name in (
            ("memory.max", "memory.current"),
            ("memory.high", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, usage = _number(folder / limit_name), _number(folder / usage_name)
            if limit is not None and usage is not None:
                yield limit - usage + _reclaimable(folder)


def _groups() -> Iterator[Path]:
    """The folder of each memory control group of this process and of their ancestors, in versions 1 and 2."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            roots = [CGROUPS, CGROUPS / "unified"]
        elif "memory" in controllers.split(","):
            roots = [CGROUPS / "memory"]
        else:
            continue
        inside = Path(os.path.normpath(path.lstrip("/") or "."))
        for root in roots:
            for part in (inside, *inside.parents):
                yield root / part


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" is no limit


def _reclaimable(folder: Path) -> int:
    """Page cache that the kernel drops first: used, and still to be had."""
    try:
        fields = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(fields.get("total_inactive_file") or fields.get("inactive_file") or 0)
