"""Draws what the other scripts wrote: results/*.svg from results/*.json.

python benchmarks/plots.py        (pip install matplotlib)
"""

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
mpl.rcParams.update({"svg.hashsalt": "sdmw", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})


def main() -> None:
    memory_over_time(rows("against_peers"))
    time_by_size(rows("parameters"))
    time_by_models(rows("models"))
    memory_by_size(rows("memory_by_size"))
    times_of_peers(rows("against_peers"))


def rows(name: str) -> list[dict[str, Any]]:
    """What a script measured."""
    found: list[dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    return found


def memory_over_time(peers: list[dict[str, Any]]) -> None:
    """Resident memory of ours and of mergekit while they merge, whole above, ours below in its own scale."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 6))
    for row in peers:
        if row["name"] in ("sdmw sdm_w", "mergekit ties, density 0.9", "mergekit linear"):
            seconds, resident, _ = zip(*row["memory"], strict=True)
            above.plot(seconds, [each / 1e9 for each in resident], label=row["name"])
        if row["name"] == "sdmw sdm_w":
            seconds, resident, files = zip(*row["memory"], strict=True)
            anonymous = [(whole - file) / 1e6 for whole, file in zip(resident, files, strict=True)]
            below.stackplot(
                seconds, anonymous, [each / 1e6 for each in files], labels=["anonymous", "of files, mapped"], alpha=0.7
            )
    above.set(ylabel="resident memory, GB", title="1.1 B parameters, bfloat16, base and two fine-tunes", ylim=(0, None))
    below.set(xlabel="seconds", ylabel="sdmw sdm_w, MB", ylim=(0, None))
    above.legend(frameon=False)
    below.legend(frameon=False, loc="lower right")
    save(figure, "memory_over_time")


def memory_by_size(merges: list[dict[str, Any]]) -> None:
    """Peak resident memory by parameters, ours and mergekit's."""
    figure, axes = plt.subplots(figsize=(6, 3.5))
    for name in dict.fromkeys(row["name"] for row in merges):
        own = [(row["billions"], row["peak_rss"] / 1e9) for row in merges if row["name"] == name]
        axes.plot(*zip(*own, strict=True), "o-", label=name)
    axes.set(xlabel="billion parameters, bfloat16, base and two fine-tunes", ylabel="peak memory, GB")
    axes.set(ylim=(0, None), xlim=(0, None))
    axes.legend(frameon=False)
    save(figure, "memory_by_size")


def times_of_peers(peers: list[dict[str, Any]]) -> None:
    """Seconds of whole processes, each peer below our run of the method."""
    shown = [row for row in peers if not row["name"].endswith("(to memory)")]
    figure, axes = plt.subplots(figsize=(7, 3))
    names = [row["name"] for row in shown]
    medians = [statistics.median(row["seconds"]) for row in shown]
    colours = ["C0" if name.startswith("sdmw") else "C7" for name in names]
    drawn = axes.barh(names, medians, color=colours)
    axes.bar_label(drawn, [f" {seconds:.1f} s" for seconds in medians])
    axes.invert_yaxis()
    axes.set(xlabel="seconds, inputs cached: 1.1 B parameters, base and two fine-tunes", xlim=(0, 1.15 * max(medians)))
    save(figure, "times_of_peers")


def time_by_size(sizes: list[dict[str, Any]]) -> None:
    """Wall time by parameters beside the floor, and the peak memory."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    billions = [row["parameters"] / 1e9 for row in sizes]
    left.plot(billions, [row["all_s"][0] for row in sizes], "o-", label="sdm_w")
    left.plot(billions, [row["floor_s"] for row in sizes], "--", color="grey", label="floor")
    left.set(xlabel="billion parameters", ylabel="seconds, cold", ylim=(0, None), xlim=(0, None))
    left.legend(frameon=False)
    right.plot(billions, [row["peak_rss"] / 1e6 for row in sizes], "o-", label="peak resident")
    right.plot(billions, [row["planned"] / 1e6 for row in sizes], "--", color="grey", label="the plan's bound")
    right.set(xlabel="billion parameters", ylabel="MB", ylim=(0, None), xlim=(0, None))
    right.legend(frameon=False)
    save(figure, "time_by_size")


def time_by_models(counts: list[dict[str, Any]]) -> None:
    """Wall time by fine-tunes."""
    figure, axes = plt.subplots(figsize=(5, 3.5))
    models = [int(row["case"].split()[2].rstrip(",")) for row in counts]
    axes.plot(models, [min(row["all_s"]) for row in counts], "o-")
    axes.set(xlabel="fine-tunes of 1 B parameters", ylabel="seconds, cold", ylim=(0, None), xlim=(0, None))
    save(figure, "time_by_models")


def save(figure: Any, name: str) -> None:
    """As an SVG that differs only where the figures do."""
    figure.tight_layout()
    figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
    print(f"results/{name}.svg")


if __name__ == "__main__":
    main()
