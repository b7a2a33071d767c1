"""Families of settings, and which setting of each is taken: chosen on the validation half, reported on the other."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from intervals import Difference, difference, holm
from seeds import TEST, VALIDATION, Measured

OUTCOMES = ("domain mean", "overall average")  # the two primary outcomes, declared before anything was measured
AVERAGE = "average"
# family: the names of its settings, as a regular expression; one name alone leaves nothing to choose
FAMILIES = {
    "SDM-W Linear, k = 10": r"law q=1 p=1",
    "SDM-W Square, k = 10": r"law q=1 p=2",
    "SDM-W, k, power and granularity chosen": r"law q=1 p=(1|2|5\.5)|sdm_w k=(0|50|90) p=\d( by \w+)?",
    "SDM-W, all settings chosen": r"grid .*",
    "weight law, power, norm and scope chosen": r"law [^,]*",
    "SDM-W Square at the average's length": r"law q=1 p=2, average's length",
    "SDM-W, p = 5.5, at the average's length": r"law q=1 p=5.5, average's length",
    "equal weights, k chosen": r"law q=1 p=0|equal weights k=\d+",
    "sum of deltas, lambda chosen": r"sum of deltas.*|average",
    "average, norm preserved": r"preserve_norm average",
    "SDM-W Linear, norm preserved": r"preserve_norm p=1",
    "SDM-W, k = 50, at the experts' length": r"sdm_w .*experts' length",
    "TIES, density chosen": r"ties density=[\d.]+",
    "TIES at the average's length, density chosen": r"ties .*average's length",
    "TIES at the experts' length, density chosen": r"ties .*experts' length",
    "DARE, density chosen": r"dare density=[\d.]+",
    "DARE at the average's length, density chosen": r"dare .*average's length",
    "DARE at the experts' length, density chosen": r"dare .*experts' length",
    "breadcrumbs": r"breadcrumbs density=0.9",
    "breadcrumbs at the average's length": r"breadcrumbs .*average's length",
    "breadcrumbs at the experts' length": r"breadcrumbs .*experts' length",
    "model stock": r"model_stock",
    "slerp": r"slerp.*",
    "LoRA merging, rank 32, combination and scale chosen": r"lora.*",
    "better single expert": r"corp|func",
    "multi-task training": r"multitask-1",
}


@dataclass(frozen=True, slots=True)
class Taken:
    """What one family scored.

    Attributes:
        settings: {base: the setting chosen there}.
        values: {metric: one value a seed}, on the test half.
        seeds: the seeds that have it.
    """

    settings: dict[int, str]
    values: dict[str, list[float]]
    seeds: tuple[Measured, ...]


def names_of(seed: Measured, pairing: str, family: str, families: Mapping[str, str] = FAMILIES) -> list[str]:
    return [name for name in (*seed.names(pairing), *seed.names("")) if re.fullmatch(families[family], name)]


def take(
    seeds: Sequence[Measured], pairing: str, family: str, outcome: str, families: Mapping[str, str] = FAMILIES
) -> Taken:
    """For each base the setting with the best mean outcome on the validation halves of its seeds."""
    having = tuple(seed for seed in seeds if names_of(seed, pairing, family, families))
    settings = {}
    for base in sorted({seed.base for seed in having}):
        mine = [seed for seed in having if seed.base == base]
        names = names_of(mine[0], pairing, family, families)

        def validated(name: str, mine: list[Measured] = mine) -> float:
            return float(np.mean([seed.of(pairing, name, VALIDATION)[outcome] for seed in mine]))

        settings[base] = max(names, key=validated)
    rows = [seed.of(pairing, settings[seed.base], TEST) for seed in having]
    return Taken(settings, {metric: [row[metric] for row in rows] for metric in (rows[0] if rows else ())}, having)


def compared(
    seeds: Sequence[Measured], outcome: str, families: Mapping[str, str]
) -> tuple[dict[str, Taken], dict[str, Difference], dict[str, float]]:
    """Each family that was measured for equally trained pairs; less the average; p after Holm over all families."""
    taken = {family: take(seeds, "equal", family, outcome, families) for family in families}
    taken = {family: each for family, each in taken.items() if each.seeds}
    found = {
        family: difference(each.values[outcome], column(each.seeds, "equal", AVERAGE, outcome))
        for family, each in taken.items()
    }
    return taken, found, holm({family: each.p for family, each in found.items()})


def column(seeds: Sequence[Measured], pairing: str, name: str, metric: str) -> list[float]:
    """One setting's metric on the test half, a value a seed."""
    return [seed.of(pairing, name)[metric] for seed in seeds]
