"""A plan in numbers, for people and as JSON."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from sdmw.errors import Problem
from sdmw.planning.layers import layer_index
from sdmw.planning.plan import Plan

RATE = 1_000_000_000  # bytes a second, read and written: a plain NVMe disk; what a plan's time is reckoned with


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What `sdmw plan --json` prints.

    Attributes:
        models: how many are merged.
        blocks: transformer blocks, by the layer indices in the tensors' names.
        layers: groups of tensors that are decided together, by the recipe's granularity.
        tensors: how many the output has.
        bytes_read: of tensors, further looks at a layer not counted.
        bytes_written: of shards.
        peak_bytes: proved bound on resident memory.
        free_bytes: free disk where the output goes.
        seconds: at `rate` bytes a second.
        rate: bytes a second that `seconds` is reckoned with.
        threads: that compute.
        problems: why it cannot run.
        warnings: what is odd.
        notes: what the recipe language has to say.
    """

    models: int
    blocks: int
    layers: int
    tensors: int
    bytes_read: int
    bytes_written: int
    peak_bytes: int
    free_bytes: int
    seconds: float
    rate: int
    threads: int
    problems: list[Problem]
    warnings: list[str]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return dataclasses.asdict(self)


def summary(plan: Plan) -> PlanSummary:
    """The plan in numbers."""
    return PlanSummary(
        models=len(plan.models),
        blocks=len({layer_index(tensor.name) for tensor in plan.tensors} - {None}),
        layers=len(plan.layers),
        tensors=len(plan.tensors),
        bytes_read=plan.bytes_read,
        bytes_written=plan.bytes_written,
        peak_bytes=plan.peak_bytes,
        free_bytes=plan.free_bytes,
        seconds=round((plan.bytes_read + plan.bytes_written) / RATE, 3),
        rate=RATE,
        threads=plan.threads,
        problems=list(plan.problems),
        warnings=list(plan.warnings),
        notes=list(plan.notes),
    )
