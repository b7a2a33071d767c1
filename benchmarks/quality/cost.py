"""The cost claim in processor seconds: the merge, multi-task training to the merge's score, and the break-even."""

from collections.abc import Sequence

import numpy as np
from choosing import AVERAGE
from seeds import Measured

WATTS = 15.0  # assumed for one busy core; kWh are derived from it and from nothing that was measured
MERGES = {
    "average": AVERAGE,
    "SDM-W Linear": "law q=1 p=1",
    "norm preserved": "preserve_norm average",
    "base + 0.8 Σ Δ": "sum of deltas, lambda=0.8",
}
OUTCOME = "domain mean"


def cost_table(seeds: Sequence[Measured]) -> str:
    """Seeds whose multi-task models were trained at all schedules."""
    having = [seed for seed in seeds if schedules(seed)]
    if not having:
        return "No seed has them yet."
    lines = [f"{len(having)} seeds with multi-task models at all schedules.", ""]
    lines += ["| what | CPU seconds | kWh at 15 W, derived | domain mean |", "|---|---|---|---|"]
    experts = [seed.facts["", "corp"]["cpu_s"] + seed.facts["", "func"]["cpu_s"] for seed in having]
    own = [(seed.of("", "corp")["corp"] + seed.of("", "func")["func"]) / 2 for seed in having]
    spent = np.mean(experts)
    lines.append(f"| both experts, each in its own domain | {spent:.1f} | {kwh(spent)} | {np.mean(own):.3f} |")
    for label, name in MERGES.items():
        seconds = np.mean([seed.facts["equal", name]["cpu_s"] for seed in having])
        score = np.mean([seed.of("equal", name)[OUTCOME] for seed in having])
        lines.append(f"| merge: {label} | {seconds:.3f} | {kwh(seconds)} | {score:.3f} |")
    for part in (8, 4, 2, 1):
        seconds = np.mean([seed.facts["", f"multitask-{part}"]["cpu_s"] for seed in having])
        score = np.mean([seed.of("equal", f"multitask-{part}")[OUTCOME] for seed in having])
        length = "all" if part == 1 else f"1/{part}"
        lines.append(f"| multi-task, {length} of the experts' steps | {seconds:.1f} | {kwh(seconds)} | {score:.3f} |")
    head = ("merge", "multi-task CPU seconds to its domain mean", "of both experts'", "updates of CorpLM to break even")
    lines += ["", f"| {' | '.join(head)} | of FunctionLM | of both in turn |", "|---|---|---|---|---|---|"]
    for label, name in MERGES.items():
        reached = [seconds_to(seed, seed.of("equal", name)[OUTCOME]) for seed in having]
        cells = [
            ", ".join(shown(break_even(*each, name, updated)) for each in zip(having, reached, strict=True))
            for updated in (("corp",), ("func",), ("corp", "func"))
        ]
        share = np.mean(np.divide(reached, experts))
        told = "not reached | " if np.isinf(share) else f"{np.mean(reached):.1f} | {share:.0%}"
        lines.append(f"| {label} | {told} | {' | '.join(cells)} |")
    return "\n".join(lines)


def schedules(seed: Measured) -> list[str]:
    names = [f"multitask-{part}" for part in (8, 4, 2, 1)]
    return names if all(("", name) in seed.facts for name in names) else []


def kwh(seconds: float) -> str:
    return f"{seconds * WATTS / 3.6e6:.2g}"


def seconds_to(seed: Measured, score: float) -> float:
    """Processor seconds of multi-task training to a domain mean: between whole schedules on straight lines.

    Infinite where the longest schedule does not reach it.
    """
    seconds = [0.0, *(seed.facts["", name]["cpu_s"] for name in schedules(seed))]
    scores = [seed.of("equal", "base")[OUTCOME], *(seed.of("equal", name)[OUTCOME] for name in schedules(seed))]
    for number in range(1, len(scores)):
        low, high = scores[number - 1], scores[number]
        if high >= score:
            part = (score - low) / (high - low) if high > low else 1.0
            return float(seconds[number - 1] + max(0.0, part) * (seconds[number] - seconds[number - 1]))
    return float("inf")


def break_even(seed: Measured, multitask: float, name: str, updated: Sequence[str]) -> float:
    """How many times a domain must change until one expert and a merge, each time, cost less than a rerun, each time.

    Merging costs both experts and a merge, then an expert of `updated` and a merge an update; the rerun costs itself
    each time. A rerun that never reaches the merge's score is worth no update: merging pays at once.
    """
    if np.isinf(multitask):
        return 0.0
    corp, func = (seed.facts["", each]["cpu_s"] for each in ("corp", "func"))
    merge = seed.facts["equal", name]["cpu_s"]
    saved = multitask - np.mean([seed.facts["", each]["cpu_s"] for each in updated]) - merge
    return max(0.0, (corp + func + merge - multitask) / saved) if saved > 0 else float("inf")


def shown(updates: float) -> str:
    return "never" if np.isinf(updates) else f"{np.ceil(updates):.0f}"
