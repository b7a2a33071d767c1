"""What a run tells while it goes on; the receiver is called in the thread that called `merge`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sdmw.planning.plan import Plan

Stage = Literal["measure", "apply", "pack", "extract", "verify"]


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan stands, the output is reserved, reading begins."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Progress:
    """A piece is done.

    Attributes:
        stage: measure or apply in a merge; else pack, extract or verify.
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


Event = Planned | Progress | Published
Receiver = Callable[[Event], None]
