"""What a run takes: memory by samples and by the kernel's own peak, processor time, wall time."""

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from sdmw.running.events import Event, Progress, Receiver

SAMPLE_EVERY = 0.02  # seconds between samples
MOST_KEPT = 200  # samples: of a longer run fewer of them are kept


class Usage:
    """Watches the process while it is entered.

    Attributes:
        wall_s: seconds since entering.
        cpu_s: processor seconds of all threads since entering.
        peak_rss: the largest resident memory, bytes: the kernel's own peak where it was reached in here.
        peak_anonymous: the largest resident memory that no file backs, bytes, by samples.
        stages: seconds between the first and the last that was heard of each stage.
    """

    def __init__(self) -> None:
        self.peak_rss = 0
        self.peak_anonymous = 0
        self._memory: list[tuple[float, int]] = []
        self._lock = threading.Lock()  # guards it: the sampler is not alone
        self.stages: dict[str, float] = {}
        self._since: dict[str, float] = {}
        self._spacing = 0.0  # seconds between kept samples
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
    def memory(self) -> list[tuple[float, int]]:
        """Resident memory over time: seconds since entering, and bytes, the largest until the next of them."""
        with self._lock:
            return list(self._memory)

    @property
    def cpu_s(self) -> float:
        """Processor seconds since entering."""
        return time.process_time() - self._cpu

    def hearing(self, tell: Receiver) -> Receiver:
        """A receiver that also notes how long stages take."""

        def told(event: Event) -> None:
            if isinstance(event, Progress):
                now = self.wall_s
                self.stages[event.stage] = now - self._since.setdefault(event.stage, now)
            tell(event)

        return told

    def read_peak(self) -> None:
        """Take a last sample and the kernel's peak, which samples may have missed."""
        self._take()
        peak = _kernel_peak()
        if peak > self._peak_before:
            self.peak_rss = max(self.peak_rss, peak)  # the kernel counts pages of each thread a little later

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY):
            self._take()

    def _take(self) -> None:
        memory = self._process.memory_info()
        self.peak_rss = max(self.peak_rss, memory.rss)
        self.peak_anonymous = max(self.peak_anonymous, memory.rss - getattr(memory, "shared", 0))
        with self._lock:
            self._keep(self.wall_s, memory.rss)

    def _keep(self, now: float, rss: int) -> None:
        """Add a sample to the last one, or as another; when there are too many, every two become one."""
        kept = self._memory
        if kept and now - kept[-1][0] < self._spacing:
            kept[-1] = kept[-1][0], max(kept[-1][1], rss)
            return
        kept.append((now, rss))
        if len(kept) >= MOST_KEPT:
            kept[:] = [(one[0], max(one[1], other[1])) for one, other in zip(kept[::2], kept[1::2], strict=True)]
            self._spacing = 2 * (kept[-1][0] - kept[0][0]) / MOST_KEPT


def _kernel_peak() -> int:
    """The process's largest resident memory ever, bytes (proc(5), VmHWM); 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
