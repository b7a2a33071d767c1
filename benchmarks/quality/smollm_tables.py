"""Tier B's tables, from results/smollm-seed-N.json; tables.py writes them into README.md."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import table, verdict
from choosing import AVERAGE, OUTCOMES, column, compared, take
from intervals import Difference, difference, spread_of
from seeds import RESULTS, TEST, VALIDATION, Measured, bits, read, share

SETS = ("func", "corp", "words", "facts", "agreement")
# family: the names of its settings, as a regular expression; one name alone leaves nothing to choose
FAMILIES = {
    "SDM-W Linear, k = 10": r"law q=1 p=1",
    "SDM-W Square, k = 10": r"law q=1 p=2",
    "equal weights, k = 10": r"law q=1 p=0",
    "SDM-W Linear, k = 50": r"sdm_w k=50 p=1",
    "SDM-W Square, k = 50": r"sdm_w k=50 p=2",
    "equal weights, k = 50": r"sdm_w k=50 p=0",
    "norm preserved, p = 0": r"preserve_norm p=0",
    "norm preserved, p = 1": r"preserve_norm p=1",
    "sum of deltas, λ chosen": r"sum of deltas.*|average",
    "TIES, density 0.5": r"ties.*",
    "DARE, density 0.5": r"dare.*",
    "CorpLM": r"corp",
    "FunctionLM": r"func",
    "multi-task training": r"multitask",
}
COLUMNS = {
    "Base": "base", "CorpLM": "corp", "FunctionLM": "func", "average": AVERAGE, "SDM-W Linear": "law q=1 p=1",
    "SDM-W Square": "law q=1 p=2", "norm preserved": "preserve_norm p=0", "λ = 0.8": "sum of deltas, lambda=0.8",
    "λ = 1": "sum of deltas, lambda=1",
}  # fmt: skip


def smollm_tables(folder: Path = RESULTS) -> dict[str, str]:
    seeds = smollm_measured(folder)
    if not seeds:
        return {}
    return {
        "smollm-summary": summary(seeds),
        "smollm-weights": weights_table(seeds),
        "smollm-metrics": metrics_table(seeds),
        "smollm-differences": "\n\n".join(differences_table(seeds, outcome) for outcome in OUTCOMES),
    }


def smollm_measured(folder: Path) -> list[Measured]:
    """One base, a pair a seed."""
    return [one(content) for content in read(folder, "smollm-seed-*.json")]


def one(content: dict[str, Any]) -> Measured:
    counts = content["counts"]
    halves = {name: bits(text, counts[name]) for name, text in content["validation"].items()}
    new = bits(content["new_phrasing"]["corp"], counts["corp"])
    metrics, facts = {}, {}
    for row in content["scored"]:
        right = {name: bits(text, counts[name]) for name, text in row["right"].items()}
        for half in (TEST, VALIDATION):
            chosen = {name: halves[name] == half for name in right}
            metrics[row["pairing"], row["name"], half] = scores(right, chosen, new) | {"perplexity": row["perplexity"]}
        facts[row["pairing"], row["name"]] = row["facts"]
    return Measured(0, content["seed"], metrics, facts)


def scores(right: dict[str, np.ndarray], chosen: dict[str, np.ndarray], new: np.ndarray) -> dict[str, float]:
    """Accuracies from 0 to 1; `corp` is of trained phrasings, `corp new phrasing` of the new ones."""
    found = {name: share(right[name], chosen[name]) for name in SETS}
    found["corp"] = share(right["corp"], chosen["corp"] & ~new)
    found["corp new phrasing"] = share(right["corp"], chosen["corp"] & new)
    found["domain mean"] = (found["func"] + found["corp"]) / 2
    found["minimum"] = min(found["func"], found["corp"])
    found["overall average"] = float(np.mean([found[name] for name in SETS]))
    return found


def summary(seeds: Sequence[Measured]) -> str:
    """What the section begins with; its words fit any results."""
    trained = sum("multitask" in seed.single() for seed in seeds)
    families = {
        "SDM-W Linear (k = 10)": "SDM-W Linear, k = 10",
        "SDM-W Square": "SDM-W Square, k = 10",
        "preserving the norm of the average": "norm preserved, p = 0",
        "the sum of deltas with λ chosen on held-out questions": "sum of deltas, λ chosen",
    }
    parts = []
    for words, family in families.items():
        values = take(seeds, "equal", family, OUTCOMES[0], FAMILIES).values[OUTCOMES[0]]
        parts.append(f"{words} {interval(difference(values, column(seeds, 'equal', AVERAGE, OUTCOMES[0])))}")
    text = (
        f"{len(seeds)} seeds of one base, {trained} of them with a multi-task model. Differences to plain averaging in "
        f"the mean accuracy of both domains, with 95 % intervals over seeds: {'; '.join(parts)}."
    )
    return textwrap.fill(text, 120)


def interval(found: Difference) -> str:
    """A difference; of one seed there is no interval."""
    return str(found) if found.seeds > 1 else f"{found.mean:+.3f}"


def weights_table(seeds: Sequence[Measured]) -> str:
    """How far the experts moved, and CorpLM's weight."""
    lengths = [[seed.facts["", name]["delta_length"] for seed in seeds] for name in ("corp", "func")]
    sums = [4 * seed.facts["equal", AVERAGE]["applied_length"] ** 2 for seed in seeds]
    corp, func = np.array(lengths)
    cosines = (np.array(sums) - corp**2 - func**2) / (2 * corp * func)
    weights = [
        [seed.facts["equal", name]["weights"][0] for seed in seeds]
        for name in ("law q=1 p=1", "law q=1 p=2", "sdm_w k=50 p=1", "sdm_w k=50 p=2")
    ]
    head = ["length of CorpLM's / FunctionLM's delta", "cosine", "Linear, k = 10", "Square, k = 10", "Linear, k = 50",
            "Square, k = 50"]  # fmt: skip
    return table(head, [[f"{corp.mean():.2f} / {func.mean():.2f}", spread_of(cosines), *map(spread_of, weights)]])


def metrics_table(seeds: Sequence[Measured]) -> str:
    """Mean and standard deviation over seeds of every metric by method, on the test half."""
    rows = []
    for metric in (*SETS, "corp new phrasing", "domain mean", "minimum", "overall average", "perplexity"):
        cells = [column(seeds, "equal", name, metric) for name in COLUMNS.values()]
        shown = [f"{np.mean(each):.1f}" if metric == "perplexity" else spread_of(each) for each in cells]
        rows.append([f"**{metric}**" if metric in OUTCOMES else metric, *shown])
    return table(["metric", *COLUMNS], rows)


def differences_table(seeds: Sequence[Measured], outcome: str) -> str:
    """Every family less the average, with Holm's correction over all families, and each seed's own difference."""
    taken, found, adjusted = compared(seeds, outcome, FAMILIES)
    rows = []
    for family, each in found.items():
        values = taken[family].values
        average = column(taken[family].seeds, "equal", AVERAGE, outcome)
        own = ", ".join(f"{value:+.3f}" for value in np.subtract(values[outcome], average))
        rows.append([
            f"{family}: {taken[family].settings[0].rpartition('=')[2]}" if "chosen" in family else family,
            f"{np.mean(values[outcome]):.3f}", interval(each), own, verdict(each.mean, adjusted[family]),
            f"{np.mean(values['func']):.3f} / {np.mean(values['corp']):.3f}", f"{np.mean(values['minimum']):.3f}",
            f"{np.mean(values['perplexity']):.1f}",
        ])  # fmt: skip
    head = ["method", outcome, "less the average, 95 %", "of each seed", "Holm's p", "func / corp", "minimum",
            "perplexity"]  # fmt: skip
    return table(head, rows)
