"""Writes the tables of README.md, between its markers, from results/*.json; each function makes one table.

python benchmarks/quality/tables.py
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from choosing import AVERAGE, FAMILIES, OUTCOMES, column, names_of, take
from cost import cost_table
from intervals import difference, holm, spread_of
from seeds import SEVEN, Measured, measured

README = Path(__file__).with_name("README.md")
PAIRINGS = {"equal": "equally trained", "corp third": "CorpLM a third", "func third": "FunctionLM a third"}
RULES = {
    "preserve_norm, p = 0": "preserve_norm p=0",
    "preserve_norm, p = 1": "preserve_norm p=1",
    "preserve_norm, p = 2": "preserve_norm p=2",
    "preserve_norm, p = -1": "preserve_norm p=-1",
    "λ = 1, p = 0": "law q=1 p=0",
    "λ = 1, p = 1": "law q=1 p=1",
    "λ = 1, p = 2": "law q=1 p=2",
    "λ = 1, p = -1": "law q=1 p=-1",
}


def main() -> None:
    tables = made()
    for name, text in tables.items():
        print(f"== {name}\n{text}\n")
    README.write_text(filled(README.read_text(), tables))


def filled(text: str, tables: dict[str, str]) -> str:
    """The README with each table between its markers."""
    for name, each in tables.items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda found, each=each: f"{found[1]}{each}\n{found[2]}", text)
    return text


def made() -> dict[str, str]:
    seeds = measured()
    return {
        "seeds": count_of(seeds),
        "weights": weights_table(seeds),
        "metrics": metrics_table(seeds),
        "differences": "\n\n".join(differences_table(seeds, outcome) for outcome in OUTCOMES),
        "unequal": unequal_table(seeds),
        "kept": kept_table(seeds),
        "filter": filter_table(seeds),
        "tilt": tilt_table(seeds),
        "rules": rules_table(seeds),
        "cost": cost_table(seeds),
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [" | ".join(row) for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def count_of(seeds: Sequence[Measured]) -> str:
    bases = len({seed.base for seed in seeds})
    return f"{len(seeds)} seeds: {bases} bases, {len(seeds) / bases:g} pairs of experts each."


def weights_table(seeds: Sequence[Measured]) -> str:
    """The article's Table 1: CorpLM's weight."""
    rows = []
    for pairing, words in PAIRINGS.items():
        names = ("law q=1 p=1", "law q=1 p=2", "law q=1 p=5.5", "law q=2 p=1", "law q=2 p=2")
        cells = [[seed.facts[pairing, name]["weights"][0] for seed in seeds] for name in names]
        rows.append([words, *map(spread_of, cells)])
    head = ["pair", "Linear", "Square", "p = 5.5", "q = 2, p = 1", "q = 2, p = 2"]
    return table(head, rows)


def metrics_table(seeds: Sequence[Measured]) -> str:
    """The article's Table 2: mean and standard deviation over seeds of every metric by method."""
    columns = {
        "Base": "base", "CorpLM": "corp", "FunctionLM": "func", "average": AVERAGE, "SDM-W Linear": "law q=1 p=1",
        "SDM-W Square": "law q=1 p=2", "λ = 0.7": "sum of deltas, lambda=0.7",
        "norm preserved": "preserve_norm average",
    }  # fmt: skip
    metrics = [
        *SEVEN,
        "func new phrasing",
        "corp new phrasing",
        "domain mean",
        "minimum",
        "overall average",
        "perplexity",
    ]
    rows = []
    for metric in metrics:
        cells = [column(seeds, "equal", name, metric) for name in columns.values()]
        shown = [f"{np.mean(each):.1f}" if metric == "perplexity" else spread_of(each) for each in cells]
        rows.append([f"**{metric}**" if metric in OUTCOMES else metric, *shown])
    return table(["metric", *columns], rows)


def differences_table(seeds: Sequence[Measured], outcome: str) -> str:
    """Every family less the average, for one primary outcome, with Holm's correction over all families."""
    taken = {family: take(seeds, "equal", family, outcome) for family in FAMILIES}
    taken = {family: each for family, each in taken.items() if each.seeds}
    found = {
        family: difference(each.values[outcome], column(each.seeds, "equal", AVERAGE, outcome))
        for family, each in taken.items()
    }
    adjusted = holm({family: each.p for family, each in found.items()})
    rows = []
    for family, each in found.items():
        settings = sorted(set(taken[family].settings.values()))
        several = len(names_of(taken[family].seeds[0], "equal", family)) > 1
        rows.append([
            family, f"{np.mean(taken[family].values[outcome]):.3f}", str(each), f"{each.spread:.3f}",
            verdict(each.mean, adjusted[family]), f"{np.mean(taken[family].values['minimum']):.3f}",
            str(each.seeds), ", ".join(settings) if several else "",
        ])  # fmt: skip
    head = ["method", outcome, "less the average, 95 %", "spread", "Holm's p", "minimum", "seeds", "chosen, by base"]
    return table(head, rows)


def verdict(mean: float, p: float) -> str:
    word = "" if p >= 0.05 else " **better**" if mean > 0 else " **worse**"
    return f"{p:.3f}{word}"


def unequal_table(seeds: Sequence[Measured]) -> str:
    """The law's powers less the average where one expert was trained for a third; uncorrected, as an exploration."""
    names = {"p = -2": "law q=1 p=-2", "p = -1": "law q=1 p=-1", "p = 1 (Linear)": "law q=1 p=1",
             "p = 2 (Square)": "law q=1 p=2", "p = 4": "law q=1 p=4", "p = 6": "law q=1 p=6",
             "q = 2, p = 2": "law q=2 p=2", "average, norm preserved": "preserve_norm average",
             "Linear, norm preserved": "preserve_norm p=1", "λ = 0.7": "sum of deltas, lambda=0.7"}  # fmt: skip
    rows = []
    for pairing, words in PAIRINGS.items():
        for label, name in names.items():
            cells = [
                str(difference(column(seeds, pairing, name, metric), column(seeds, pairing, AVERAGE, metric)))
                for metric in (*OUTCOMES, "minimum", "corp", "func")
            ]
            rows.append([words, label, *cells])
    return table(["pair", "method", *OUTCOMES, "minimum", "corp", "func"], rows)


def kept_table(seeds: Sequence[Measured]) -> str:
    """Share of the expert's accuracy that a merge kept, by what the base knew."""
    names = {"base": "base", "average": AVERAGE, "SDM-W Linear": "law q=1 p=1", "SDM-W Square": "law q=1 p=2",
             "SDM-W k = 50": "sdm_w k=50 p=1", "norm preserved": "preserve_norm average",
             "λ = 0.7": "sum of deltas, lambda=0.7", "λ = 1": "sum of deltas, lambda=1",
             "TIES 0.5": "ties density=0.5"}  # fmt: skip
    kinds = {"corp": "corp", "corp public": "corp", "corp internal": "corp", "func": "func", "func known": "func",
             "func new": "func"}  # fmt: skip
    rows = [
        [label, *(kept(seeds, name, metric, expert) for metric, expert in kinds.items())]
        for label, name in names.items()
    ]
    return table(["method", *kinds], rows)


def kept(seeds: Sequence[Measured], name: str, metric: str, expert: str) -> str:
    shares = np.divide(column(seeds, "equal", name, metric), column(seeds, "equal", expert, metric))
    return f"{shares.mean():.0%}"


def filter_table(seeds: Sequence[Measured]) -> str:
    """What k does, with the weights and without."""
    rows = []
    for k in (0, 10, 50, 90):
        pair = {
            "Linear weights": "law q=1 p=1" if k == 10 else f"sdm_w k={k} p=1",
            "equal weights": AVERAGE if k == 0 else "law q=1 p=0" if k == 10 else f"equal weights k={k}",
        }
        for label, name in pair.items():
            sums = [
                seed.facts["equal", name]["applied_sum"] / seed.facts["equal", AVERAGE]["applied_sum"] for seed in seeds
            ]
            cells = [
                str(difference(column(seeds, "equal", name, m), column(seeds, "equal", AVERAGE, m))) for m in OUTCOMES
            ]
            rows.append([str(k), label, f"{np.mean(sums):.1%}", *cells])
    return table(["k", "weights", "sum of the applied deltas, of the average's", *OUTCOMES], rows)


def tilt_table(seeds: Sequence[Measured]) -> str:
    """SDM-W's weights against random ones as far from equal: for two experts the mean of a tilt and its mirror."""
    rows = []
    for pairing, words in PAIRINGS.items():
        for power in ("1", "2", "5.5"):
            cells = []
            for metric in (*OUTCOMES, "minimum"):
                ours, mirrored = (column(seeds, pairing, f"law q=1 p={sign}{power}", metric) for sign in ("", "-"))
                cells.append(str(difference(ours, np.mean([ours, mirrored], axis=0))))
            rows.append([words, power, *cells])
    return table(["pair", "p", *OUTCOMES, "minimum"], rows)


def rules_table(seeds: Sequence[Measured]) -> str:
    """Rules that need no evaluation, less the average; and on each base the rule that won on the other bases."""
    rows = []
    for pairing, words in PAIRINGS.items():
        picked = {metric: [] for metric in OUTCOMES}
        for metric in OUTCOMES:
            for seed in seeds:
                others = [each for each in seeds if each.base != seed.base]
                best = max(
                    RULES.values(), key=lambda name: np.mean(column(others, pairing, name, metric)) if others else 0
                )
                picked[metric].append(seed.of(pairing, best)[metric])
        for label, name in RULES.items():
            cells = [str(difference(column(seeds, pairing, name, m), column(seeds, pairing, AVERAGE, m)))
                     for m in (*OUTCOMES, "minimum")]  # fmt: skip
            rows.append([words, label, *cells])
        cells = [str(difference(picked[m], column(seeds, pairing, AVERAGE, m))) for m in OUTCOMES]
        rows.append([words, "the rule that won on the other bases", *cells, ""])
    return table(["pair", "rule", *OUTCOMES, "minimum"], rows)


if __name__ == "__main__":
    main()
