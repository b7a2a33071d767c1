"""What a run takes: memory by samples and by the kernel's own peak, processor time, wall time."""

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

SAMPLE_EVERY = 0.02  # seconds between samples


class Usage:
    """Watches the process while it is entered.

    Attributes:
        wall_s: seconds since entering.
        cpu_s: processor seconds of all threads since entering.
        peak_rss: the largest resident memory, bytes: the kernel's own peak where it was reached in here.
        peak_anonymous: the largest resident memory that no file backs, bytes, by samples.
    """

    def __init__(self) -> None:
        self.peak_rss = 0
        self.peak_anonymous = 0
        self._process = psutil.Process()
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="sdmw-usage", daemon=True)

    def __enter__(self) -> Self:
        self._wall, self._cpu = time.monotonic(), time.process_time()
        self._peak_before = _kernel_peak()
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._sampler.join()

    @property
    def wall_s(self) -> float:
        """Seconds since entering."""
        return time.monotonic() - self._wall

    @property
    def cpu_s(self) -> float:
        """Processor seconds since entering."""
        return time.process_time() - self._cpu

    def read_peak(self) -> None:
        """Take a last sample and the kernel's peak, which samples may have missed."""
        self._take()
        peak = _kernel_peak()
        if peak > self._peak_before:
            self.peak_rss = peak

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY):
            self._take()

    def _take(self) -> None:
        memory = self._process.memory_info()
        self.peak_rss = max(self.peak_rss, memory.rss)
        self.peak_anonymous = max(self.peak_anonymous, memory.rss - getattr(memory, "shared", 0))


def _kernel_peak() -> int:
    """The process's largest resident memory ever, bytes (proc(5), VmHWM); 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
