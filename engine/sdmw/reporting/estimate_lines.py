"""Where the time of a plan goes, in words: for tables of the terminal."""

from collections.abc import Iterator, Sequence

from sdmw.planning.costs import COSTS, MACHINE
from sdmw.planning.estimate import LIMITS, Estimate, shown_time
from sdmw.planning.plan import Plan
from sdmw.sizes import counted, shown

PARTS = ("read", "compute", "write", "driver", "about", "limited by")
COLUMNS = ("workers", "decide", "write", "about", "limited by")
NOTHING = "–"
UNKNOWN = "?"


def workers(estimate: Estimate) -> str:
    """How many there are, and what they are."""
    return counted(estimate.workers, "thread" if estimate.kind == "threads" else "worker")


def phases(estimate: Estimate) -> Iterator[tuple[str, ...]]:
    """Of each phase its parts, in the order of `PARTS`; then the start, and all."""
    for phase in estimate.phases:
        compute = UNKNOWN if phase.compute is None else _time(phase.compute)
        parts = (_time(phase.read), compute, _time(phase.write), _time(phase.driver))
        yield phase.name, *parts, shown_time(phase.seconds), LIMITS[phase.limit]
    yield "start and end", *[NOTHING] * 4, shown_time(estimate.start), ""
    yield "all", *[NOTHING] * 4, shown_time(estimate.seconds), LIMITS[estimate.limit]


def scaling(estimates: Sequence[Estimate]) -> Iterator[tuple[str, ...]]:
    """Of each number of workers the phases and all, in the order of `COLUMNS`."""
    for each in sorted(estimates, key=lambda estimate: estimate.workers):
        seconds = {phase.name: shown_time(phase.seconds) for phase in each.phases}
        parts = (seconds.get("decide", NOTHING), seconds["write"], shown_time(each.seconds))
        yield f"{each.workers:,}", *parts, LIMITS[each.limit]


def grounds(plan: Plan) -> str:
    """What the estimates rest on."""
    rate = plan.bandwidth
    assert rate is not None
    source = "measured" if rate.measured else "stated"
    if rate.read == rate.write and rate.shared:
        disks = f"{shown(rate.read)}/s ({source}), shared by reading and writing"
    else:
        together = "one after the other" if rate.shared else "at once"
        disks = f"reading {shown(rate.read)}/s, writing {shown(rate.write)}/s ({source}), {together}"
    if (again := plan.estimates[0].phases[1:]) and again[0].read < plan.applied_bytes / rate.read / 2:
        disks += "; data that is read twice stays in the page cache"
    if plan.recipe.merge_method not in COSTS:
        return f"based on: {disks}; the computing time of {plan.recipe.merge_method} was never measured"
    pace = f"{MACHINE}; this machine takes {rate.slowness:.2g} times as long" if rate.measured else MACHINE
    return f"based on: {disks}; processor times measured on {pace}"


def _time(seconds: float) -> str:
    return shown_time(seconds) if seconds >= 0.005 else NOTHING
