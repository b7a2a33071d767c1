"""What a run tells while it goes on; the receiver is called in the thread that called `merge`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sdmw.planning.plan import Plan

Stage = Literal["check", "measure", "decide", "apply", "pack", "extract", "verify", "compare"]


@dataclass(frozen=True, slots=True)
class Compiling:
    """Kernels are compiled now, which takes seconds.

    Attributes:
        once: they are kept for later runs.
    """

    once: bool


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan stands, the output is reserved, reading begins."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Resuming:
    """An interrupted run of the same merge is resumed.

    Attributes:
        done: bytes read by what it finished, both stages together.
        total: bytes that all of the merge reads.
    """

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A piece is done; in a resumed merge also what is kept, at the start of a stage.

    Attributes:
        stage: measure or apply; check where the output of an interrupted run is read again; decide where a statistics
            store gets its recipe's decisions; else pack, extract, verify or compare.
        done: bytes read in this stage so far, further looks not counted.
        total: bytes that this stage reads.
    """

    stage: Stage
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Published:
    """The output has appeared at its target."""

    target: str


Event = Compiling | Planned | Resuming | Progress | Published
Receiver = Callable[[Event], None]
