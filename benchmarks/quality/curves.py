"""Draws results/*.svg: score against the weight law's exponent, and against the scale of the deltas.

Bands are 95 % t intervals over seeds, each for itself: Holm's correction is the tables'.

python benchmarks/quality/curves.py        (pip install matplotlib)
"""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from choosing import AVERAGE, OUTCOMES, column
from intervals import difference
from seeds import RESULTS, Measured, measured

mpl.use("svg")
import matplotlib.pyplot as plt

mpl.rcParams.update({"svg.hashsalt": "sdmw", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
PAIRINGS = {"equal": "equally trained", "corp third": "CorpLM a third", "func third": "FunctionLM a third"}
POWERS = (-2, -1, 0, 1, 2, 4, 6)
SCALES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4)


def main() -> None:
    seeds = measured()
    law_curve(seeds)
    scale_curve(seeds)


def law_name(norm: int, power: int) -> str:
    return f"law q={1 if power == 0 else norm} p={power}"


def law_curve(seeds: Sequence[Measured]) -> None:
    """Less the average, by p, for both norms; a row of panels for each outcome, a column for each pairing."""
    metrics = (*OUTCOMES, "minimum")
    figure, panels = plt.subplots(len(metrics), len(PAIRINGS), figsize=(10, 8), sharex=True, sharey="row")
    for row, metric in zip(panels, metrics, strict=True):
        for axes, (pairing, words) in zip(row, PAIRINGS.items(), strict=True):
            theirs = column(seeds, pairing, AVERAGE, metric)
            for norm in (1, 2):
                found = [difference(column(seeds, pairing, law_name(norm, p), metric), theirs) for p in POWERS]
                low, high = ([each.mean + sign * each.half_width for each in found] for sign in (-1, 1))
                axes.plot(POWERS, [each.mean for each in found], "o-", ms=3, label=f"q = {norm}")
                axes.fill_between(POWERS, low, high, alpha=0.15)
            axes.axhline(0, color="grey", lw=0.8)
            if metric == metrics[0]:
                axes.set_title(words)
        row[0].set_ylabel(f"{metric}\nless the average's")
    for axes in panels[-1]:
        axes.set_xlabel("exponent p")
    panels[0][0].legend(frameon=False)
    save(figure, "weight_law")


def scale_curve(seeds: Sequence[Measured]) -> None:
    """Score by the lambda of base + lambda * sum of deltas, with the norm-preserving one marked."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.5))
    shown = {
        panels[0]: (*OUTCOMES, "minimum"),
        panels[1]: ("corp public", "corp internal", "func known", "func new", "facts"),
    }
    marked = 0.5 * np.mean([seed.facts["equal", "preserve_norm average"]["times_average"] for seed in seeds])
    for axes, metrics in shown.items():
        for metric in metrics:
            scores = [column(seeds, "equal", scale_name(scale), metric) for scale in SCALES]
            found = [difference(each, [0.0] * len(each)) for each in scores]
            low, high = ([each.mean + sign * each.half_width for each in found] for sign in (-1, 1))
            axes.plot(SCALES, [each.mean for each in found], "o-", ms=3, label=metric)
            axes.fill_between(SCALES, low, high, alpha=0.15)
        axes.axvline(marked, color="grey", ls="--", lw=0.8)
        axes.annotate("norm preserved ", (marked, axes.get_ylim()[1]), va="top", ha="right", fontsize=8)
        axes.set(xlabel="λ of base + λ Σ Δ; 0.5 is the average", ylabel="accuracy")
        axes.legend(frameon=False, fontsize=8)
    save(figure, "scale")


def scale_name(scale: float) -> str:
    return AVERAGE if scale == 0.5 else f"sum of deltas, lambda={scale:g}"


def save(figure: Any, name: str) -> None:
    """As an SVG that differs only where the figures do."""
    figure.tight_layout()
    figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    print(f"results/{name}.svg")


if __name__ == "__main__":
    main()
