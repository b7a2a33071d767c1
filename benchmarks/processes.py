"""Runs a program and measures it from outside: wall time, the kernel's own memory peak, within a control group."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Measured:
    """One finished run.

    Attributes:
        wall_s: seconds.
        cpu_s: processor seconds of all threads.
        peak_rss: bytes, ru_maxrss.
        group_peak: bytes that its control group charged at most, page cache included; None without one.
        limit_hits: how often the group was at its limit; None without one.
        output: what it printed.
        returncode: how it ended.
        samples: seconds since the start, resident and file-backed bytes (psutil), where they were asked for.
    """

    wall_s: float
    cpu_s: float
    peak_rss: int
    group_peak: int | None
    limit_hits: int | None
    output: str
    returncode: int
    samples: list[tuple[float, int, int]]


def run(
    command: list[str],
    *,
    memory: int | None = None,
    environment: dict[str, str] | None = None,
    every: float | None = None,
) -> Measured:
    """Run a command to its end.

    Args:
        command: the program and its arguments.
        memory: bytes of a fresh memory control group that it runs in.
        environment: variables beside those of this process.
        every: seconds between samples of its memory; None for no samples.
    """
    with _group(memory) as group, tempfile.TemporaryFile("w+") as printed:

        def enter() -> None:
            if group:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=printed,
            stderr=subprocess.STDOUT,
            preexec_fn=enter,
            env={**os.environ, **(environment or {})},
        )
        samples: list[tuple[float, int, int]] = []
        if every:
            threading.Thread(target=_sample, args=(process.pid, began, every, samples), daemon=True).start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        peak = _read(group, "memory.peak", "memory.max_usage_in_bytes")
        hits = _read(group, "memory.failcnt", "memory.failcnt")
        return Measured(
            wall,
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss * 1024,
            peak,
            hits,
            printed.read(),
            process.returncode,
            samples,
        )


def _sample(pid: int, began: float, every: float, samples: list[tuple[float, int, int]]) -> None:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        while True:
            memory = process.memory_info()
            if not memory.rss:  # it has ended and nobody has waited for it yet
                return
            samples.append((time.perf_counter() - began, memory.rss, memory.shared))
            time.sleep(every)


MERGE = """
import json, resource, sys, time, sdmw
from sdmw import linux
recipe, out, options, mapped, small = json.loads(sys.argv[1])
if not mapped:
    linux.maps_safely = lambda path: False  # as on a network file system
if small:  # loads the kernels
    sdmw.merge(small, out, progress=False, overwrite=True)
stages, began = {}, time.perf_counter()
def progress(event):
    stages[getattr(event, "stage", type(event).__name__)] = time.perf_counter() - began
report = sdmw.merge(recipe, out, progress=progress, overwrite=True, resume=False, **options)
stages["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # without children, which compile kernels
print(json.dumps(stages))
print(report.to_json())
"""


def merge(
    recipe: dict[str, Any],
    out: str,
    *,
    memory: int | None = None,
    mapped: bool = True,
    small: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    **options: Any,
) -> tuple[Measured, dict[str, Any]]:
    """`sdmw.merge` in a process of its own, and the report it returns; after a small merge, where one is given.

    The report has one more field: `stages`, the seconds after which the plan stood, and measuring and applying were
    done.
    """
    measured = run(
        [sys.executable, "-c", MERGE, json.dumps([recipe, out, options, mapped, small])],
        memory=memory,
        environment=environment,
    )
    if measured.returncode:
        raise RuntimeError(f"merge ended with {measured.returncode}: {measured.output[-2000:]}")
    first, _, report = measured.output.partition("\n")
    stages = json.loads(first)
    return replace(measured, peak_rss=stages.pop("peak")), {**json.loads(report), "stages": stages}


def can_group() -> bool:
    """Whether memory control groups can be made here."""
    try:
        with _group(1 << 30) as group:
            return group is not None
    except OSError:
        return False


def bytes_read() -> int:
    """Bytes that this process has fetched from disks so far. Source: proc(5), /proc/pid/io."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def drop_cache(*paths: str) -> None:
    """Let the page cache forget files, or all files of directories, after writing what is dirty."""
    for path in paths:
        for file in [path] if os.path.isfile(path) else sorted(str(p) for p in Path(path).rglob("*") if p.is_file()):
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def fill_cache(*paths: str) -> None:
    """Read files, or all files of directories, so that the page cache has them."""
    buffer = bytearray(1 << 22)
    for path in paths:
        for file in [path] if os.path.isfile(path) else sorted(str(p) for p in Path(path).rglob("*") if p.is_file()):
            with open(file, "rb", buffering=0) as handle:
                while handle.readinto(buffer):
                    pass


@contextlib.contextmanager
def loop_disk(kind: str, at: str, size: int = 16 << 30) -> Iterator[str | None]:
    """A fresh file system in a sparse image, mounted while it is entered; None where it cannot be made."""
    with tempfile.TemporaryDirectory() as folder:
        image = os.path.join(folder, "image")
        with open(image, "wb") as file:
            file.truncate(size)
        os.makedirs(at, exist_ok=True)
        try:
            subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
            subprocess.run(["mount", "-t", kind, "-o", "loop", image, at], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            yield None
            return
        try:
            yield at
        finally:
            subprocess.run(["umount", at], check=True)


@contextlib.contextmanager
def _group(memory: int | None) -> Iterator[Path | None]:
    if memory is None:
        yield None
        return
    first = GROUPS / "memory" if (GROUPS / "memory").is_dir() else GROUPS
    group = first / f"sdmw-benchmark-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    try:
        limit = "memory.limit_in_bytes" if first.name == "memory" else "memory.max"
        (group / limit).write_text(str(memory))
        yield group
    finally:
        group.rmdir()


def _read(group: Path | None, *names: str) -> int | None:
    for name in names if group else ():
        with contextlib.suppress(OSError, ValueError):
            return int((group / name).read_text())  # type: ignore[operator]
    return None


def machine() -> str:
    """What this was measured on, in a line."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "?",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    flags = Path("/proc/cpuinfo").read_text()
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {vectors}, {memory:.0f} GiB, Linux {os.uname().release}"


def write_json(name: str, data: Any) -> None:
    """Keep a script's figures beside it."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")


def remove(path: str) -> None:
    """Remove a directory tree that may not be there."""
    shutil.rmtree(path, ignore_errors=True)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
