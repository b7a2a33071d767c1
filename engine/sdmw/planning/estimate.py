"""How long a merge takes by its plan, and where the time goes: plain values, and the arithmetic between them."""

from dataclasses import dataclass
from typing import Any, Literal

Part = Literal["read", "compute", "write", "driver"]
PhaseName = Literal["decide", "write"]
Kind = Literal["threads", "processes", "dask"]

LIMITS: dict[Part, str] = {"read": "reading", "compute": "computing", "write": "writing", "driver": "the driver"}


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """What disks give.

    Attributes:
        read: bytes a second.
        write: likewise.
        shared: inputs and output lie on the same disks, so that reading waits for writing.
        measured: both were measured, and not stated.
        slowness: how many times as long as on the machine of the table kernels take here; 1.0 if not measured.
    """

    read: int
    write: int
    shared: bool = True
    measured: bool = False
    slowness: float = 1.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A pass over the inputs.

    Attributes:
        name: decide, where inputs are measured; write, where the output is made.
        read: seconds that the disks take to read.
        compute: seconds of arithmetic, on all workers together; None where nobody measured the method's.
        write: seconds that the disks take to write.
        driver: seconds of what one thread at a time does: tasks and results, and of threads all that is Python.
        shared: reading waits for writing.
    """

    name: PhaseName
    read: float
    compute: float | None
    write: float
    driver: float
    shared: bool

    @property
    def disks(self) -> float:
        """Seconds that disks take."""
        return self.read + self.write if self.shared else max(self.read, self.write)

    @property
    def seconds(self) -> float:
        """What of disks, workers and driver takes longest; the others work meanwhile."""
        return max(self.disks, self.compute or 0.0, self.driver)

    @property
    def limit(self) -> Part:
        """What that is; of disks the larger part."""
        if self.disks >= max(self.compute or 0.0, self.driver):
            return "read" if self.read >= self.write else "write"
        return "compute" if (self.compute or 0.0) >= self.driver else "driver"


@dataclass(frozen=True, slots=True)
class Estimate:
    """The time of a merge on a number of workers.

    Attributes:
        workers: each with a core of its own, as far as this machine has them.
        kind: what they are.
        start: seconds before the first pass and after the last.
        phases: in order; one that reads nothing is left out.
    """

    workers: int
    kind: Kind
    start: float
    phases: tuple[Phase, ...]

    @property
    def seconds(self) -> float:
        """Of all."""
        return self.start + sum(phase.seconds for phase in self.phases)

    @property
    def limit(self) -> Part:
        """What limits the longest phase."""
        return max(self.phases, key=lambda phase: phase.seconds).limit

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; seconds to milliseconds."""
        return {
            "workers": self.workers,
            "kind": self.kind,
            "seconds": round(self.seconds, 3),
            "limit": self.limit,
            "start": self.start,
            "phases": [
                {
                    "phase": phase.name,
                    "seconds": round(phase.seconds, 3),
                    "limit": phase.limit,
                    "read": round(phase.read, 3),
                    "compute": None if phase.compute is None else round(phase.compute, 3),
                    "write": round(phase.write, 3),
                    "driver": round(phase.driver, 3),
                }
                for phase in self.phases
            ],
        }


def shown_time(seconds: float) -> str:
    """A time to two digits, as it is no better known: `0.61 s`, `42 s`, `3.5 min`, `2.1 h`."""
    for size, unit in ((1.0, "s"), (60.0, "min"), (3600.0, "h")):
        amount = seconds / size
        if unit == "h" or amount < (99.5 if unit == "s" else 90):
            break
    digits = 2 if amount < 0.995 else 1 if amount < 9.95 else 0
    return f"{amount:.{digits}f} {unit}"
