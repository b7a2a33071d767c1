"""Writes the tables of README.md, between its markers, from results/*.json; each function makes one table.

python benchmarks/quality/tables.py
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import article
import numpy as np
from cells import table, verdict
from choosing import AVERAGE, FAMILIES, OUTCOMES, Taken, column, compared, names_of
from cost import cost_table
from intervals import Difference, difference, holm, spread_of
from seeds import RESULTS, SEVEN, VALIDATION, Measured, measured
from smollm_tables import smollm_tables
from summary import summary

README = Path(__file__).with_name("README.md")
FIRST_PAGE = Path(__file__).parents[2] / "README.md"
PAIRINGS = {"equal": "equally trained", "corp third": "CorpLM a third", "func third": "FunctionLM a third"}
EXPERTS = {"equal": ("corp", "func"), "corp third": ("corp-third", "func"), "func third": ("corp", "func-third")}
RULES = {
    "preserve_norm, p = 0": "preserve_norm p=0",
    "preserve_norm, p = 1": "preserve_norm p=1",
    "preserve_norm, p = 2": "preserve_norm p=2",
    "preserve_norm, p = -1": "preserve_norm p=-1",
    "λ = 1, p = 0": "law q=1 p=0",
    "λ = 1, p = 1": "law q=1 p=1",
    "λ = 1, p = 2": "law q=1 p=2",
    "λ = 1, p = -1": "law q=1 p=-1",
    "base + 0.7 Σ Δ": "sum of deltas, lambda=0.7",
}
WON = "the rule that won on the other bases"


def main() -> None:
    tables = made()
    for name, text in tables.items():
        print(f"== {name}\n{text}\n")
    for path in (README, FIRST_PAGE):
        path.write_text(filled(path.read_text(), tables))


def filled(text: str, tables: dict[str, str]) -> str:
    """The README with each table between its markers."""
    for name, each in tables.items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda found, each=each: f"{found[1]}{each}\n{found[2]}", text)
    return text


def made() -> dict[str, str]:
    seeds = measured()
    return {
        "summary": summary(seeds),
        "seeds": count_of(seeds),
        "article": article_table(seeds),
        "weights": weights_table(seeds),
        "metrics": metrics_table(seeds),
        "differences": "\n\n".join(differences_table(seeds, outcome) for outcome in OUTCOMES),
        "unequal": unequal_table(seeds),
        "kept": kept_table(seeds),
        "filter": filter_table(seeds),
        "tilt": tilt_table(seeds),
        "rules": rules_table(seeds),
        "cost": cost_table(seeds),
        "rxnfp": rxnfp_table(),
        **smollm_tables(),
    }


def count_of(seeds: Sequence[Measured]) -> str:
    bases = len({seed.base for seed in seeds})
    tokens = " or ".join(f"{each / 1e6:.1f}" for each in sorted({seed.facts["", "base"]["tokens"] for seed in seeds}))
    return (
        f"{len(seeds)} seeds: {bases} bases, {len(seeds) / bases:g} pairs of experts each; every base has read "
        f"{tokens} M tokens."
    )


def article_table(seeds: Sequence[Measured]) -> str:
    """The article's numbers, each with ours: the set that stands for its metric, equally trained experts."""
    names = ("base", "corp", "func", AVERAGE, "law q=1 p=1", "law q=1 p=2")
    rows = {f"{metric} / {ours}": (printed, ours) for metric, (ours, printed) in article.METRICS.items()}
    means = tuple(np.mean([printed for _, printed in article.METRICS.values()], axis=0))
    rows["**total average, recomputed**"] = (means, OUTCOMES[1])
    cells = [
        [label, *(f"{one:.4f} / {np.mean(column(seeds, 'equal', name, ours)):.3f}"
                  for one, name in zip(printed, names, strict=True))]
        for label, (printed, ours) in rows.items()
    ]  # fmt: skip
    cells.insert(-1, ["total average, as printed", *(f"{each:.4f}" for each in article.PRINTED_AVERAGES)])
    return table(["the article's metric / ours", *article.COLUMNS], cells)


def weights_table(seeds: Sequence[Measured]) -> str:
    """The article's Table 1: CorpLM's weight, and how well each expert answers in its own domain."""
    rows = []
    for pairing, words in PAIRINGS.items():
        names = ("law q=1 p=1", "law q=1 p=2", "law q=1 p=5.5", "law q=2 p=1", "law q=2 p=2")
        cells = [[seed.facts[pairing, name]["weights"][0] for seed in seeds] for name in names]
        experts = EXPERTS[pairing]
        own = [f"{np.mean(column(seeds, '', name, name.partition('-')[0])):.3f}" for name in experts]
        rows.append([words, " / ".join(own), *map(spread_of, cells)])
    best = [article.METRICS[metric][1][place] for metric, place in (("CorpEval", 1), ("FuncEval", 2))]
    theirs = [f"{article.WEIGHTS[name]:.2f}" for name in ("Linear", "Square")]
    rows.append(["the article's", " / ".join(f"{each:.3f}" for each in best), *theirs, "", "", ""])
    head = ["pair", "accuracy of CorpLM / FunctionLM", "Linear", "Square", "p = 5.5", "q = 2, p = 1", "q = 2, p = 2"]
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
    taken, found, adjusted = compared(seeds, outcome, FAMILIES)
    rows = []
    for family, each in found.items():
        settings = sorted(set(taken[family].settings.values()))
        several = len(names_of(taken[family].seeds[0], "equal", family)) > 1
        rows.append([
            family, f"{np.mean(taken[family].values[outcome]):.3f}", str(each), by_base(taken[family], outcome),
            f"{each.spread:.3f}", verdict(each.mean, adjusted[family]),
            f"{np.mean(taken[family].values['minimum']):.3f}", str(each.seeds), ", ".join(settings) if several else "",
        ])  # fmt: skip
    head = ["method", outcome, "less the average, 95 %", "by base", "spread", "Holm's p", "minimum", "seeds",
            "chosen, by base"]  # fmt: skip
    return table(head, rows)


def by_base(taken: Taken, outcome: str) -> str:
    """The mean difference to the average on each base: pairs of one base are not independent, bases are."""
    each = np.subtract(taken.values[outcome], column(taken.seeds, "equal", AVERAGE, outcome))
    bases = np.array([seed.base for seed in taken.seeds])
    return ", ".join(f"{each[bases == base].mean():+.3f}" for base in np.unique(bases))


def rxnfp_table() -> str:
    """Tier C: weights and the masked-token loss of the base's head."""
    found = json.loads(Path(RESULTS, "rxnfp.json").read_text())
    rows = []
    for row in found["merges"]:
        weights = " / ".join(f"{model['weight']:.3f}" for model in row.get("models", ()))
        rows.append([row["name"], weights, f"{row['masked_loss']:.3f}"])
    one, other, both = found["deltas"]
    told = [
        f"{each['model']}: length of the delta {each['relative_length']:.3f} of the base's, sum of magnitudes "
        f"{each['sum']:,.0f}, {each['zero_share']:.1%} exactly zero."
        for each in (one, other)
    ]
    return "\n".join(
        [*told, f"Cosine of the two deltas: {both['cosine']:.3f}.", "", table(["model", "weights", "loss"], rows)]
    )


def marked(found: dict[str, Difference]) -> dict[str, str]:
    """Differences as text; those beyond noise after Holm's correction over all of them are bold."""
    adjusted = holm({name: each.p for name, each in found.items()})
    return {name: f"**{each}**" if adjusted[name] < 0.05 else str(each) for name, each in found.items()}


def less_average(
    seeds: Sequence[Measured], pairing: str, names: dict[str, str], metrics: Sequence[str]
) -> list[list[str]]:
    """A row for each label: its setting less the average, by metric."""
    columns = []
    for metric in metrics:
        theirs = column(seeds, pairing, AVERAGE, metric)
        columns.append(marked({x: difference(column(seeds, pairing, names[x], metric), theirs) for x in names}))
    return [[label, *(each[label] for each in columns)] for label in names]


def unequal_table(seeds: Sequence[Measured]) -> str:
    """The law's powers, and either expert alone, less the average, by how the experts were trained."""
    names = {"p = -2": "law q=1 p=-2", "p = -1": "law q=1 p=-1", "p = 1 (Linear)": "law q=1 p=1",
             "p = 2 (Square)": "law q=1 p=2", "p = 4": "law q=1 p=4", "p = 6": "law q=1 p=6",
             "q = 2, p = 2": "law q=2 p=2", "average, norm preserved": "preserve_norm average",
             "Linear, norm preserved": "preserve_norm p=1", "λ = 0.7": "sum of deltas, lambda=0.7"}  # fmt: skip
    metrics = (*OUTCOMES, "minimum", "corp", "func")
    rows = []
    for pairing, words in PAIRINGS.items():
        alone = dict(zip(("CorpLM alone", "FunctionLM alone"), EXPERTS[pairing], strict=True))
        rows += [[words, *row] for row in less_average(seeds, pairing, names | alone, metrics)]
    return table(["pair", "method", *metrics], rows)


def kept_table(seeds: Sequence[Measured]) -> str:
    """Share of the expert's accuracy that a merge kept, by what the base knew."""
    names = {"base": "base", "average": AVERAGE, "SDM-W Linear": "law q=1 p=1", "SDM-W Square": "law q=1 p=2",
             "SDM-W k = 50": "sdm_w k=50 p=1", "norm preserved": "preserve_norm average",
             "λ = 0.7": "sum of deltas, lambda=0.7", "λ = 1": "sum of deltas, lambda=1",
             "TIES 0.5": "ties density=0.5", "CorpLM by its adapter": "corp by its adapter",
             "FunctionLM by its adapter": "func by its adapter"}  # fmt: skip
    parts = {
        "corp": ("corp", "corp public", "corp internal", "corp answered", "corp unanswered"),
        "func": ("func", "func known", "func new", "func answered", "func unanswered"),
    }
    metrics = [(metric, expert) for expert, theirs in parts.items() for metric in theirs]
    rows = [[label, *(kept(seeds, name, *each) for each in metrics)] for label, name in names.items()]
    return table(["method", *(metric for metric, _ in metrics)], rows)


def kept(seeds: Sequence[Measured], name: str, metric: str, expert: str) -> str:
    """Mean and standard deviation over seeds, in percent."""
    shares = 100 * np.divide(column(seeds, "equal", name, metric), column(seeds, "equal", expert, metric))
    return f"{shares.mean():.0f} ± {shares.std(ddof=1) if len(seeds) > 1 else 0:.0f}"


def filter_table(seeds: Sequence[Measured]) -> str:
    """What k does, with the weights and without; a label fills the first two columns."""
    linear = {k: "law q=1 p=1" if k == 10 else f"sdm_w k={k} p=1" for k in (0, 10, 50, 90)}
    equal = {k: "law q=1 p=0" if k == 10 else f"equal weights k={k}" for k in (10, 50, 90)}
    names = {f"{k} | Linear": name for k, name in linear.items()} | {f"{k} | equal": name for k, name in equal.items()}
    rows = less_average(seeds, "equal", names, (*OUTCOMES, "facts"))
    for row in rows:
        sums = [[seed.facts["equal", name]["applied_sum"] for seed in seeds] for name in (names[row[0]], AVERAGE)]
        row.insert(1, f"{np.mean(np.divide(*sums)):.1%}")
    return table(["k", "weights", "sum of the applied deltas, of the average's", *OUTCOMES, "facts"], rows)


def tilt_table(seeds: Sequence[Measured]) -> str:
    """SDM-W's weights against random ones as far from equal: for two experts the mean of a tilt and its mirror."""
    metrics, rows = (*OUTCOMES, "minimum"), []
    for pairing, words in PAIRINGS.items():
        columns = []
        for metric in metrics:
            found = {}
            for power in ("1", "2", "5.5"):
                ours, mirrored = (column(seeds, pairing, f"law q=1 p={sign}{power}", metric) for sign in ("", "-"))
                found[power] = difference(ours, np.mean([ours, mirrored], axis=0))
            columns.append(marked(found))
        rows += [[words, power, *(each[power] for each in columns)] for power in columns[0]]
    return table(["pair", "p", *metrics], rows)


def rules_table(seeds: Sequence[Measured]) -> str:
    """Rules that need no evaluation, less the average; and on each base the rule that won on the other bases."""
    metrics, rows = (*OUTCOMES, "minimum", "perplexity"), []
    several = len({seed.base for seed in seeds}) > 1
    for pairing, words in PAIRINGS.items():
        columns = []
        for metric in metrics:
            ours = {label: column(seeds, pairing, name, metric) for label, name in RULES.items()}
            if several and metric in OUTCOMES:
                ours[WON] = won_elsewhere(seeds, pairing, metric)
            theirs = column(seeds, pairing, AVERAGE, metric)
            columns.append(marked({label: difference(each, theirs) for label, each in ours.items()}))
        rows += [[words, label, *(each.get(label, "") for each in columns)] for label in columns[0]]
    return table(["pair", "rule", *metrics], rows)


def won_elsewhere(seeds: Sequence[Measured], pairing: str, metric: str) -> list[float]:
    """Each seed's score by the rule that is best on the validation halves of the seeds of the other bases."""
    scores = []
    for seed in seeds:
        others = [each for each in seeds if each.base != seed.base]

        def validated(name: str, others: list[Measured] = others) -> float:
            return float(np.mean([each.of(pairing, name, VALIDATION)[metric] for each in others]))

        best = max(RULES.values(), key=validated)
        scores.append(seed.of(pairing, best)[metric])
    return scores


if __name__ == "__main__":
    main()
